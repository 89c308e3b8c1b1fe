package ingest

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// body is a batch as it stands in a datagram; its names are the exporter's to lie about.
func body(t testing.TB, seq uint64, rows int) []byte {
	t.Helper()
	out, err := proto.Marshal(batch("somebody else", seq, rows))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDatagramsInIngest: what is in a datagram is taken under the names of the exporter that got the key, never waits, and its books say what became of it.
func TestDatagramsInIngest(t *testing.T) {
	r := start(t, Config{PendingBytes: 30 * rowBytes, Datagrams: true})
	book, _, err := r.server.datagrams.Grant(datagrams.Sender{ExporterID: "e1", Host: "h1", BootID: "b1"}, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	take := func(rows int, b []byte) { r.server.takeDatagram(book, rows, b) }
	take(10, body(t, 1, 10))
	take(11, body(t, 2, 10)) // not the rows that the header says
	take(5, []byte("no batch"))
	take(5, nil)
	take(10, body(t, 3, 10))
	take(100, body(t, 4, 100)) // no room
	taken := r.pipeline.wait(t, 2)
	for _, b := range taken {
		if b.ExporterID != "e1" || b.Host != "h1" || b.BootID != "b1" || b.ReceivedTimeNs == 0 {
			t.Errorf("%+v", b.Header)
		}
	}
	r.server.Done(taken[0])
	r.server.Refuse(taken[1], "not today")
	got := book.Mark(&flowv1.DatagramMark{Epoch: 1})
	if got.GetStoredRows() != 10 || got.GetDroppedRows() != 11+5+5+100+10 {
		t.Errorf("%v", got)
	}
	for result, want := range map[string]float64{"accepted": 20, "rejected": 21, "no_room": 100, "unstorable": 10} {
		if got := testutil.ToFloat64(r.server.metrics.rows.WithLabelValues(result)); got != want {
			t.Errorf("%v rows %s, want %v", got, result, want)
		}
	}
	if n := testutil.ToFloat64(r.server.metrics.pendingRows); n != 0 {
		t.Errorf("%v rows are pending", n)
	}
}

func TestMarksNeedAKey(t *testing.T) {
	r := start(t, Config{})
	c := r.control(t, "e1")
	request := &flowv1.ControlRequest{Message: &flowv1.ControlRequest_DatagramRequest{DatagramRequest: &flowv1.DatagramRequest{Epoch: 1}}}
	mark := &flowv1.ControlRequest{Message: &flowv1.ControlRequest_DatagramMark{DatagramMark: &flowv1.DatagramMark{Epoch: 1}}}
	for _, m := range []*flowv1.ControlRequest{request, mark} {
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	for {
		m, err := c.Recv()
		if err != nil {
			if status.Code(err) != codes.InvalidArgument {
				t.Error(err)
			}
			return
		}
		if key := m.GetDatagramKey(); key != nil && (key.GetRefused() == "" || len(key.GetKey()) > 0) {
			t.Errorf("%v", key)
		}
	}
}

// FuzzDatagramBatch: an exporter with a key may send what it likes.
func FuzzDatagramBatch(f *testing.F) {
	table := ownership.New(ownership.Config{})
	book, err := session.New(10, table, nil)
	if err != nil {
		f.Fatal(err)
	}
	through := new(pipeline)
	s, err := New(Config{}, book, through, func() {}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	from, _, err := s.datagrams.Grant(datagrams.Sender{ExporterID: "e1", Host: "h1"}, 1, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(3), body(f, 1, 3))
	f.Add(uint16(0), []byte{})
	f.Fuzz(func(t *testing.T, rows uint16, b []byte) {
		s.takeDatagram(from, int(rows), b)
		through.mu.Lock()
		defer through.mu.Unlock()
		for _, taken := range through.taken {
			if taken.ExporterID != "e1" || taken.Rows != int(rows) {
				t.Fatalf("%d rows of %q", taken.Rows, taken.ExporterID)
			}
			s.Done(taken)
		}
		through.taken = nil
		if n := testutil.ToFloat64(s.metrics.pendingBytes); n != 0 {
			t.Fatalf("%v bytes are pending", n)
		}
	})
}
