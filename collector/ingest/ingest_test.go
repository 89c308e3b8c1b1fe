package ingest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/proto/flowv1"
)

func TestAcknowledgedOnlyWhenDone(t *testing.T) {
	r := start(t, Config{})
	s := r.flows(t, "e1")
	for seq := uint64(1); seq <= 3; seq++ {
		send(t, s, batch("e1", seq, 10))
	}
	taken := r.pipeline.wait(t, 3)
	for m, err := s.Recv(); m.GetReceivedSeq() < 3; m, err = s.Recv() {
		if err != nil || len(m.GetAcked()) > 0 {
			t.Fatalf("acknowledged before done: %v %v", m, err)
		}
	}
	r.server.Done(taken[2])
	if acked, _ := told(t, s, 1); !acked[3] {
		t.Fatalf("not 3 but %v", acked)
	}

	// a repeat of 1, still under way, is not taken in again; a repeat of 3 is acknowledged again, also on a new stream
	send(t, s, batch("e1", 1, 10))
	r.until(t, "the repeat is counted", func() bool { return r.values(t)["batches_total repeated"] == 1 }) // the next stream ends this one
	s2 := r.flows(t, "e1")
	send(t, s2, batch("e1", 3, 10))
	if acked, _ := told(t, s2, 1); !acked[3] {
		t.Fatalf("a repeat is not acknowledged: %v", acked)
	}
	if _, err := s.Recv(); err != nil && status.Code(err) != codes.Aborted {
		t.Fatalf("the older stream: %v", err)
	}
	r.server.Done(taken[0])
	r.server.Done(taken[1])
	if acked, _ := told(t, s2, 2); !acked[1] || !acked[2] {
		t.Fatalf("not 1 and 2 but %v", acked)
	}
	want := map[string]float64{
		"connections grpc": 1, "batches_total accepted": 3, "batches_total repeated": 2, "rows_total accepted": 30, "rows_total repeated": 20, "acked_rows_total": 30,
	}
	got := r.values(t)
	for _, name := range []string{"payload_bytes_total", "streams flows"} {
		delete(got, name)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestBatchesOfEarlierRuns: what an exporter finds in its spool comes on its stream and is acknowledged under its own name.
func TestBatchesOfEarlierRuns(t *testing.T) {
	r := start(t, Config{})
	died := r.flows(t, "run-1")
	send(t, died, batch("run-1", 1, 10))
	r.pipeline.wait(t, 1)

	s := r.flows(t, "run-2")
	for _, b := range []*flowv1.Batch{batch("run-1", 1, 10), batch("run-1", 2, 10), batch("run-0", 1, 10), batch("run-2", 1, 10)} {
		b.Host = "h1"
		send(t, s, b)
	}
	stranger := batch("run-9", 1, 10)
	stranger.Host = "h2"
	send(t, s, stranger)
	for _, b := range r.pipeline.wait(t, 4)[:4] {
		r.server.Done(b)
	}
	acked, rejected, received := map[string]uint64{}, "", map[string]uint64{}
	for acked["run-0"] != 1 || acked["run-1"] != 2 || acked["run-2"] != 1 || rejected == "" {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("after %v and %q: %v", acked, rejected, err)
		}
		if m.GetCreditBytes() == 0 {
			t.Error("an answer without credit")
		}
		received[m.GetExporterId()] = m.GetReceivedSeq()
		for _, a := range m.GetAcked() {
			acked[m.GetExporterId()] += a.GetLast() - a.GetFirst() + 1
		}
		for _, x := range m.GetRejected() {
			rejected += m.GetExporterId() + ": " + x.GetReason()
		}
	}
	if len(acked) != 3 || !strings.HasPrefix(rejected, "run-9: ") || !strings.Contains(rejected, `on host "h2"`) {
		t.Errorf("acknowledged %v, rejected %s", acked, rejected)
	}
	if d := cmp.Diff(map[string]uint64{"run-0": 1, "run-1": 2, "run-2": 1, "run-9": 1}, received); d != "" {
		t.Error(d)
	}
	if code := end(died); code != codes.Aborted {
		t.Errorf("the stream of the run that died: %v", code)
	}
	send(t, s, batch("run\n3", 1, 1))
	if code := end(s); code != codes.InvalidArgument {
		t.Errorf("a bad name: %v", code)
	}
}

func TestBadBatchesAreRejectedAndTheStreamLives(t *testing.T) {
	r := start(t, Config{})
	s := r.flows(t, "e1")
	ragged := batch("e1", 1, 10)
	ragged.Rows = 11
	huge := batch("e1", 2, 10)
	huge.Rows = 1 << 31
	garbage := batch("e1", 3, 10)
	garbage.Payload = []byte("\xff\xff not a message")
	garbage.ColumnsBytes = uint32(len(garbage.Payload))
	foreign := batch("e2", 4, 10)
	for _, b := range []*flowv1.Batch{ragged, huge, garbage, foreign, batch("e1", 5, 10)} {
		send(t, s, b)
	}
	r.server.Done(r.pipeline.wait(t, 1)[0])
	acked, rejected := told(t, s, 5)
	if !acked[5] || len(acked) != 1 {
		t.Errorf("the good batch: %v", acked)
	}
	for seq, want := range map[uint64]struct {
		code codes.Code
		say  string
	}{
		1: {codes.InvalidArgument, "10 entries for 11 rows"}, 2: {codes.ResourceExhausted, "at most 65536"},
		3: {codes.InvalidArgument, "malformed"}, 4: {codes.InvalidArgument, `of exporter "e2"`},
	} {
		if got := rejected[seq]; codes.Code(got.GetCode()) != want.code || !strings.Contains(got.GetReason(), want.say) {
			t.Errorf("batch %d: %v", seq, got)
		}
	}
	if got := r.values(t)["batches_total rejected"]; got != 4 {
		t.Errorf("%v batches counted as rejected", got)
	}
}

func TestStreamsThatBreakTheRules(t *testing.T) {
	r := start(t, Config{})
	long := hello(strings.Repeat("x", 300))
	for name, c := range map[string]struct {
		first *flowv1.FlowsRequest
		want  codes.Code
	}{
		"no hello":       {&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: batch("e1", 1, 1)}}, codes.InvalidArgument},
		"empty":          {&flowv1.FlowsRequest{}, codes.InvalidArgument},
		"no exporter_id": {&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello("")}}, codes.InvalidArgument},
		"long name":      {&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: long}}, codes.InvalidArgument},
		"control bytes":  {&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello("a\nb")}}, codes.InvalidArgument},
		"oversized": {&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{
			Batch: &flowv1.Batch{Payload: make([]byte, maxMessageBytes+1)},
		}}, codes.ResourceExhausted},
	} {
		s, err := r.client.Flows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(c.first); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := r.flows(t, "e1") // the process lives on
	send(t, s, batch("e1", 1, 1))
	r.pipeline.wait(t, 1)
}

func TestRanges(t *testing.T) {
	var ranges []seqRange
	for _, seq := range []uint64{5, 1, 3, 4, 9, 2, 8, 8, 10} {
		ranges = insert(ranges, seq)
	}
	if d := cmp.Diff([]seqRange{{1, 5}, {8, 10}}, ranges, cmp.AllowUnexported(seqRange{})); d != "" {
		t.Error(d)
	}
	for seq, want := range map[uint64]bool{0: false, 1: true, 5: true, 6: false, 7: false, 8: true, 10: true, 11: false} {
		if contains(ranges, seq) != want {
			t.Errorf("contains %d: %v", seq, !want)
		}
	}
}

// TestRefusedInAnotherLife: a batch that came again after the store forgot is not forgotten because a sink refuses what came before.
func TestRefusedInAnotherLife(t *testing.T) {
	e := newExporter("e1")
	_, before := e.arrived(1)
	e.forgetAll()
	if v, _ := e.arrived(1); v != takeIn {
		t.Fatal("it is not taken in again")
	}
	e.forget(1, before)
	if v, _ := e.arrived(1); v != underway {
		t.Errorf("verdict %d on a batch that is on its way", v)
	}
}

// TestStreamsAreSpread: after a random time an exporter is asked to connect anew, and a server that stops takes nobody in.
func TestStreamsAreSpread(t *testing.T) {
	r := start(t, Config{StreamLife: 20 * time.Millisecond})
	s := r.flows(t, "e1")
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetDrain() {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r.server.Quiesce(ctx)
	if _, err := r.flows(t, "e2").Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("a server that stops says %v", err)
	}
}

// TestQuiesceTakesWhatWasUnderWay: a batch that an exporter sent before it read that it is to leave is stored and acknowledged, not sent twice; what
// comes after all have had their time stays unread.
func TestQuiesceTakesWhatWasUnderWay(t *testing.T) {
	r := start(t, Config{})
	leaving, staying := r.flows(t, "e1"), r.flows(t, "e2")
	send(t, staying, batch("e2", 1, 20))
	r.server.Done(r.pipeline.wait(t, 1)[0])
	waitAcked(t, staying, 1)
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		r.server.Quiesce(t.Context())
	}()
	for drain := false; !drain; {
		m, err := leaving.Recv()
		if err != nil {
			t.Fatal(err)
		}
		drain = m.GetDrain()
	}
	send(t, leaving, batch("e1", 1, 20))
	r.server.Done(r.pipeline.wait(t, 2)[1])
	waitAcked(t, leaving, 1)
	<-quiet
	send(t, staying, batch("e2", 2, 20))
	if err := staying.CloseSend(); err != nil {
		t.Fatal(err)
	}
	stop, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r.server.Stop(stop)
	if taken := r.pipeline.wait(t, 2); len(taken) != 2 {
		t.Errorf("%d batches taken in", len(taken))
	}
}

// TestStoredBeforeAcknowledged: what the sinks have needs no room, and is acknowledged when it is said.
func TestStoredBeforeAcknowledged(t *testing.T) {
	r := start(t, Config{PendingBytes: 30 * rowBytes})
	flows := r.flows(t, "e1")
	send(t, flows, batch("e1", 1, 20))
	acknowledge := r.server.Stored(r.pipeline.wait(t, 1)[0])
	send(t, flows, batch("e1", 2, 20)) // there is no room for both
	r.pipeline.wait(t, 2)
	if rows, acked := testutil.ToFloat64(r.server.metrics.pendingRows), testutil.ToFloat64(r.server.metrics.acked); rows != 40 || acked != 0 {
		t.Errorf("%v rows pending, %v acknowledged", rows, acked)
	}
	acknowledge()
	waitAcked(t, flows, 1)
	if rows := testutil.ToFloat64(r.server.metrics.pendingRows); rows != 20 {
		t.Errorf("%v rows pending", rows)
	}
}
