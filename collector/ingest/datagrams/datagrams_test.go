package datagrams

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"tributary/proto/datagram"
	"tributary/proto/flowv1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink keeps what the server hands on.
type sink struct {
	mu   sync.Mutex
	rows int
	got  []string
}

func (s *sink) take(_ *Book, rows int, batch []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows += rows
	s.got = append(s.got, string(batch))
}

func newServer(t testing.TB) (*Server, *sink) {
	t.Helper()
	out := new(sink)
	s, err := New(out.take, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s, out
}

// sender is an exporter's side.
type sender struct {
	t    testing.TB
	s    *Server
	book *Book
	key  *datagram.Key
	id   uint64
}

func newSender(t testing.TB, s *Server, exporter string, epoch uint32) *sender {
	t.Helper()
	return goOn(t, s, exporter, epoch, "")
}

// goOn asks for a key for a book.
func goOn(t testing.TB, s *Server, exporter string, epoch uint32, named string) *sender {
	t.Helper()
	book, m, err := s.Grant(Sender{ExporterID: exporter}, epoch, named)
	if err != nil || m.GetBook() == "" {
		t.Fatal(m, err)
	}
	key, err := datagram.NewKey(m.GetKey())
	if err != nil {
		t.Fatal(err)
	}
	return &sender{t, s, book, key, m.GetKeyId()}
}

func (x *sender) seal(epoch uint32, seq uint64, rows uint16) []byte {
	x.t.Helper()
	b, err := x.key.Seal(nil, datagram.Header{Rows: rows, Epoch: epoch, KeyID: x.id, Seq: seq}, []byte("batch"))
	if err != nil {
		x.t.Fatal(err)
	}
	return b
}

func (x *sender) send(want Result, epoch uint32, seq uint64, rows uint16) {
	x.t.Helper()
	if got := x.s.receive(x.seal(epoch, seq, rows)); got != want {
		x.t.Errorf("epoch %d, seq %d: %s, want %s", epoch, seq, got, want)
	}
}

func TestBadDatagrams(t *testing.T) {
	s, out := newServer(t)
	x, other := newSender(t, s, "e1", 1), newSender(t, s, "e2", 1)
	x.send(Accepted, 1, 1, 3)
	good := x.seal(1, 2, 3)
	forged := bytes.Clone(good)
	forged[len(forged)-1]++
	foreign := other.seal(1, 2, 3)
	copy(foreign[8:], good[8:16]) // sealed with a key of its own under the other's id
	for name, c := range map[string]struct {
		b    []byte
		want Result
	}{
		"truncated":   {good[:20], Truncated},
		"cut":         {good[:len(good)-1], Forged},
		"oversized":   {make([]byte, datagram.MaxBytes+1), Oversized},
		"rubbish":     {bytes.Repeat([]byte("x"), 100), BadVersion},
		"forged":      {forged, Forged},
		"foreign key": {foreign, Forged},
		"unknown key": {(&sender{t, s, nil, x.key, x.id + 1}).seal(1, 2, 3), UnknownKey},
	} {
		if got := s.receive(bytes.Clone(c.b)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	x.send(Replayed, 1, 1, 3)
	x.send(Accepted, 1, 2000, 1)
	x.send(TooOld, 1, 2000-windowSize, 1)
	x.send(Accepted, 1, 2000-windowSize+1, 1)
	x.send(TooOld, 1, 0, 1)
	x.send(Ahead, 1+maxEpochs, 2001, 1)
	x.send(Empty, 1, 2002, 0)
	other.send(Accepted, 1, 1, 7)
	if out.rows != 3+1+1+7 {
		t.Errorf("%d rows came through", out.rows)
	}
}

// TestReorderedIsTakenOnce sends numbers in a random order within the window, each twice.
func TestReorderedIsTakenOnce(t *testing.T) {
	var w window
	var order []uint64
	for base := uint64(1); base < 50_000; base += windowSize / 2 {
		for range 2 {
			for _, i := range rand.Perm(windowSize / 2) {
				order = append(order, base+uint64(i))
			}
		}
	}
	seen := map[uint64]int{}
	for _, seq := range order {
		if w.admit(seq) == Accepted {
			seen[seq]++
		}
	}
	for seq := uint64(1); seq < 50_000; seq++ {
		if seen[seq] != 1 {
			t.Fatalf("%d was taken %d times", seq, seen[seq])
		}
	}
}

// TestBooks: what was sent either came or never came, to the row, and what is too late for the books is not taken.
func TestBooks(t *testing.T) {
	s, _ := newServer(t)
	x := newSender(t, s, "e1", 5)
	mark := func(epoch uint32, datagrams, rows uint64) *flowv1.DatagramReport {
		return x.book.Mark(&flowv1.DatagramMark{Epoch: epoch, Datagrams: datagrams, Rows: rows})
	}
	report := func(settled uint32, datagrams, never, rows uint64) *flowv1.DatagramReport {
		return &flowv1.DatagramReport{Book: x.book.id, SettledEpoch: settled, Datagrams: datagrams, NeverCameDatagrams: never, NeverCameRows: rows}
	}
	equal := func(want, got *flowv1.DatagramReport) {
		t.Helper()
		if diff := cmp.Diff(want.String(), got.String()); diff != "" {
			t.Error(diff)
		}
	}
	// Epoch 5: three datagrams of 10 rows, the second is late, the third is lost. Epoch 6: all of it lost. Epoch 7: one came.
	x.send(Accepted, 5, 1, 10)
	equal(report(4, 1, 0, 0), mark(5, 3, 30))
	x.send(Accepted, 5, 2, 10)
	equal(report(5, 2, 1, 10), mark(6, 2, 11))
	x.send(Late, 5, 3, 10)
	x.send(Accepted, 7, 6, 1)
	equal(report(6, 3, 3, 21), mark(7, 1, 1))
	equal(report(6, 3, 3, 21), mark(7, 100, 100)) // told again after a new stream
	equal(report(7, 3, 3, 21), mark(8, 0, 0))
	x.book.Stored(8)
	x.book.Dropped(3)
	if got := mark(9, 0, 0); got.GetStoredRows() != 8 || got.GetDroppedRows() != 3 || got.GetSettledEpoch() != 8 {
		t.Errorf("%v", got)
	}
	if got := testutil.ToFloat64(s.metrics.neverRows); got != 21 {
		t.Errorf("%v rows never came", got)
	}
}

// TestKeysRotate: two keys of an exporter work, and the counts go on; another exporter's are its own.
func TestKeysRotate(t *testing.T) {
	s, _ := newServer(t)
	first := newSender(t, s, "e1", 1)
	second := goOn(t, s, "e1", 1, first.book.id)
	first.send(Accepted, 1, 1, 1)
	second.send(Accepted, 1, 2, 1)
	second.send(Replayed, 1, 1, 1)
	third := goOn(t, s, "e1", 1, first.book.id)
	first.send(UnknownKey, 1, 3, 1)
	second.send(Accepted, 1, 3, 1)
	third.send(Accepted, 1, 4, 1)
	if first.book != third.book || first.book == newSender(t, s, "e2", 1).book {
		t.Error("the books are mixed up")
	}
	for i := range maxBooks {
		newSender(t, s, string(rune('a'+i%26))+string(rune(i)), 1)
	}
	third.send(UnknownKey, 1, 5, 1)
	if len(s.keys) > maxBooks*maxKeys {
		t.Errorf("%d keys are kept", len(s.keys))
	}
}

// TestBackFromAnotherCollector: an exporter that was elsewhere for longer than the books reach begins anew, and what was counted before is counted once.
func TestBackFromAnotherCollector(t *testing.T) {
	s, _ := newServer(t)
	before := newSender(t, s, "e1", 1)
	before.send(Accepted, 1, 1, 5)
	before.book.Stored(5)
	after := goOn(t, s, "e1", 100, "the other collector's")
	before.send(UnknownKey, 100, 2, 1)
	after.send(Accepted, 100, 3, 1)
	got := after.book.Mark(&flowv1.DatagramMark{Epoch: 100, Datagrams: 1, Rows: 1})
	if got.GetBook() == before.book.id || got.GetStoredRows() != 0 || got.GetDatagrams() != 1 || got.GetSettledEpoch() != 99 {
		t.Errorf("%v", got)
	}
	if len(s.keys) != 1 {
		t.Errorf("%d keys are kept", len(s.keys))
	}
}

// TestTheLastNumber: a sender that counts up to the last number there is holds nobody up.
func TestTheLastNumber(t *testing.T) {
	s, _ := newServer(t)
	x := newSender(t, s, "e1", 1)
	last := ^uint64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		x.send(Accepted, 1, last-3, 1)
		x.send(Accepted, 1, last, 1)
		x.send(Accepted, 1, last-1, 1)
		x.send(Replayed, 1, last, 1)
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it counts for ever")
	}
}

// TestServe reads real sockets, with rubbish among the good.
func TestServe(t *testing.T) {
	s, out := newServer(t)
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(conn) }()
	to, err := net.DialUDP("udp", nil, conn.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	x := newSender(t, s, "e1", 1)
	for seq := uint64(1); seq <= 500; seq++ {
		for _, b := range [][]byte{x.seal(1, seq, 2), {}, []byte("rubbish"), make([]byte, 9000)} {
			if _, err := to.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		// The socket's buffer is small.
		for end := time.Now().Add(30 * time.Second); seq%10 == 0 && testutil.ToFloat64(s.metrics.datagrams[Oversized]) < float64(seq) && time.Now().Before(end); {
			time.Sleep(100 * time.Microsecond)
		}
	}
	s.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if out.rows != 1000 || out.got[7] != "batch" {
		t.Errorf("%d rows came", out.rows)
	}
	if err := s.Serve(conn); err != nil {
		t.Error(err)
	}
}

// FuzzReceive: whatever comes is counted as something, and only what was sealed is handed on.
func FuzzReceive(f *testing.F) {
	s, out := newServer(f)
	x := newSender(f, s, "e1", 1)
	sealed := x.seal(1, 1, 3)
	f.Add(sealed)
	f.Add(sealed[:41])
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Equal(b, sealed)
		if got := s.receive(b); (got == Accepted || got == Empty) && !whole || got >= results {
			t.Fatalf("%s", got)
		}
		if len(out.got) > 1 {
			t.Fatal("more came than was sent")
		}
	})
}

func BenchmarkReceive(b *testing.B) {
	s, _ := newServer(b)
	s.take = func(*Book, int, []byte) {}
	x := newSender(b, s, "e1", 1)
	key, err := datagram.NewKey(make([]byte, datagram.KeyBytes))
	if err != nil {
		b.Fatal(err)
	}
	x.key = key
	s.keys[x.id] = known{key, x.book}
	batch, out := make([]byte, datagram.MaxBatchBytes), make([]byte, 0, datagram.MaxBytes)
	seal := func(seq uint64) []byte {
		out, err = key.Seal(out[:0], datagram.Header{Rows: 10, Epoch: 1, KeyID: x.id, Seq: seq}, batch)
		if err != nil {
			b.Fatal(err)
		}
		return out
	}
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ { // sealing is as dear as opening
		if s.receive(seal(seq)) != Accepted {
			b.Fatal("not accepted")
		}
	}
}
