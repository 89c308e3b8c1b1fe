package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// running is a spool whose Run is under way.
type running struct {
	*Spool
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	seq    uint64
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func config(fs FS, run string) Config {
	c := Default()
	c.FS, c.Run, c.Host, c.BootID = fs, run, "host-a", "boot-1"
	c.MaxBytes, c.SegmentBytes, c.CacheBytes, c.MemoryBytes = 1<<20, 8<<10, 16<<10, 64<<10
	return c
}

func start(t testing.TB, c Config) *running {
	t.Helper()
	s, err := New(c, prometheus.NewRegistry(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Spool: s, t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		s.Run(ctx)
	}()
	t.Cleanup(r.stop)
	return r
}

func (r *running) stop() {
	r.cancel()
	<-r.done
}

// body makes the bytes of a batch, different for every run and seq, which tell what they are.
func body(run string, seq uint64, size int) []byte {
	b := make([]byte, max(size, 8+len(run)))
	binary.LittleEndian.PutUint64(b, seq)
	copy(b[8:], run)
	rng := rand.New(rand.NewPCG(seq, uint64(len(run))))
	for i := 8 + len(run); i < len(b); i++ {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func (r *running) append(n, size int) {
	for range n {
		r.seq++
		r.Append(r.seq, 10, body(r.config.Run, r.seq, size))
		r.written()
	}
}

// written waits for a real disk that takes longer than Append does; one that is simulated is as slow as its test wants it.
func (r *running) written() {
	r.t.Helper()
	if _, real := r.config.FS.(*dir); real {
		r.until("a batch is written", func() bool { s := r.Stats(); return s.State != DiskOK || s.InMemory.Batches == 0 })
	}
}

// until waits for something that real disks and goroutines do in their own time.
func (r *running) until(what string, f func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s: %+v", what, r.Stats())
		}
	}
}

func (r *running) check(b Batch) {
	r.t.Helper()
	if want := body(b.Run, b.Seq, len(b.Body)); !bytes.Equal(b.Body, want) {
		r.t.Fatalf("batch %s/%d came back changed", b.Run, b.Seq)
	}
}

// all takes what there is.
func (r *running) all() []string {
	r.t.Helper()
	var got []string
	for {
		b, ok := r.Next(1 << 30)
		if !ok {
			return got
		}
		r.check(b)
		got = append(got, fmt.Sprintf("%s/%d", b.Run, b.Seq))
	}
}

// scanned waits until the segments of earlier runs are read.
func (r *running) scanned() *running {
	r.t.Helper()
	r.until("the segments are read", func() bool { s := r.Stats(); return s.State == DiskOK && !s.Scanning })
	return r
}

// balanced checks the books and returns them.
func (r *running) balanced() Stats {
	r.t.Helper()
	s := r.Stats()
	in := Count{s.Appended.Batches + s.Recovered.Batches + s.Recalled.Batches + s.Rollups.Batches, s.Appended.Rows + s.Recovered.Rows + s.Recalled.Rows + s.Rollups.Rows}
	out := Count{s.Acked.Batches + s.Rejected.Batches + s.Pending.Batches + s.RolledUp.Batches, s.Acked.Rows + s.Rejected.Rows + s.Pending.Rows + s.RolledUp.Rows}
	for _, d := range s.Dropped {
		out.Batches += d.Batches
		out.Rows += d.Rows
	}
	if in != out {
		r.t.Fatalf("books: in %+v, out %+v: %+v", in, out, s)
	}
	return s
}

func names(run string, from, to int) []string {
	var n []string
	for i := from; i <= to; i++ {
		n = append(n, fmt.Sprintf("%s/%d", run, i))
	}
	return n
}

func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		names = append(names, filepath.Base(f))
	}
	return names
}

func same(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func TestBatchesComeBackInOrderAndAfterARestart(t *testing.T) {
	dir := t.TempDir()
	a := start(t, config(Dir(dir), "a")).scanned()
	a.append(40, 1000)
	same(t, "first run", a.all(), names("a", 1, 40))
	a.Ack("a", 1, 20)
	a.Restart()
	same(t, "after a restart of the stream", a.all(), names("a", 21, 40))
	a.balanced()
	a.stop()
	if s := a.balanced(); s.Pending.Batches != 20 || s.InMemory.Batches != 0 {
		t.Fatalf("left: %+v", s)
	}

	b := start(t, config(Dir(dir), "b")).scanned()
	b.append(3, 1000)
	got := b.all()
	same(t, "end of what is found", got[len(got)-23:], append(names("a", 21, 40), names("b", 1, 3)...))
	if again := len(got) - 23; again > 6 {
		t.Fatalf("%d acknowledged batches were sent again, a segment holds 6", again)
	}
	same(t, "of another run", b.Ack("c", 1, 100), Count{})
	b.Ack("a", 1, 40)
	b.Ack("b", 1, 3)
	b.stop()
	b.balanced()
	same(t, "files after all is acknowledged", files(t, dir), []string{"lock"})
}

func TestSegmentsGoOneByOneWhenAllTheirBatchesAreSettled(t *testing.T) {
	dir := t.TempDir()
	a := start(t, config(Dir(dir), "a")).scanned()
	a.append(40, 1000)
	before := a.Stats().Segments
	a.all()
	a.Ack("a", 13, 30) // six in each segment
	a.until("three segments are gone", func() bool { return a.Stats().Segments <= before-3 })
	if got := a.Stats().Segments; got != before-3 {
		t.Fatalf("%d segments of %d are left", got, before)
	}
	a.stop()
	b := start(t, config(Dir(dir), "b")).scanned()
	same(t, "next run", b.all(), append(names("a", 1, 12), names("a", 31, 40)...))
}

func TestCatchingUpMixesTheNewestIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t, simulated(newSim(1, 0), "a"))
		synctest.Wait()
		a.append(8, 500)
		time.Sleep(time.Minute)
		a.append(2, 500)
		same(t, "order", a.all(), []string{"a/1", "a/10", "a/9", "a/8", "a/2", "a/7", "a/6", "a/5", "a/3", "a/4"})
		a.Ack("a", 1, 10)
		a.append(3, 500)
		same(t, "order when it keeps up", a.all(), names("a", 11, 13))
		a.stop()
	})
}

func TestUnsentIsWhatWasNeverHandedOut(t *testing.T) {
	a := start(t, config(Dir(t.TempDir()), "a")).scanned()
	a.append(3, 1000)
	_, _ = a.Next(1 << 30)
	unsent := func(first, last uint64, want bool) {
		t.Helper()
		if a.Unsent(first, last) != want {
			t.Errorf("unsent from %d to %d: %v", first, last, !want)
		}
	}
	unsent(1, 1, false)
	unsent(1, 2, true)
	unsent(3, 1<<63, true)
	unsent(4, 1<<63, false)
	a.Restart()
	unsent(1, 1, false)
	a.Ack("a", 2, 3)
	unsent(1, 3, false)
}

func TestNextKeepsToTheRoomThereIs(t *testing.T) {
	a := start(t, config(Dir(t.TempDir()), "a"))
	a.append(1, 1000)
	if _, ok := a.Next(999); ok {
		t.Fatal("a batch of 1000 bytes fitted 999")
	}
	if _, ok := a.Next(1000); !ok {
		t.Fatal("a batch of 1000 bytes did not fit 1000")
	}
}

func TestOverflowDropsTheOldestAndCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // on a real disk a busy machine would keep some in memory
		c := simulated(newSim(1, 0), "a")
		c.MaxBytes = 64 << 10
		a := start(t, c)
		synctest.Wait()
		a.append(1, 1000)
		first, _ := a.Next(1 << 30) // under way when its segment goes
		a.append(199, 1000)
		s := a.balanced()
		if s.DiskBytes > c.MaxBytes {
			t.Fatalf("%d bytes on disk", s.DiskBytes)
		}
		if s.Dropped[OverflowSize].Batches < 130 || s.Pending.Batches+s.Dropped[OverflowSize].Batches != 200 {
			t.Fatalf("%+v", s)
		}
		same(t, "acknowledgement of a batch that overflowed under way", a.Ack("a", first.Seq, first.Seq), Count{1, 10})
		got := a.all()
		same(t, "what is left", got, names("a", 200-len(got)+1, 200))
		a.Restart()
		a.balanced()
	})
}

func TestAgeNumberAndMemoryAreBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := simulated(newSim(1, 0), "a")
		c.MaxBatches = 20
		a := start(t, c)
		synctest.Wait()
		a.append(50, 100)
		if s := a.balanced(); s.Pending.Batches > 20+1 || s.Dropped[OverflowBatches].Batches == 0 {
			t.Fatalf("number: %+v", s)
		}
		time.Sleep(c.MaxAge + 2*time.Second)
		synctest.Wait()
		if s := a.balanced(); s.Pending.Batches != 0 || s.Dropped[OverflowAge].Batches == 0 || s.Segments != 0 {
			t.Fatalf("age: %+v", s)
		}
		a.stop()

		c.FS = nil
		m := start(t, c)
		m.append(100, 10000)
		if s := m.balanced(); s.MemoryBytes > c.MemoryBytes || s.Dropped[MemoryNoDisk].Batches < 90 || s.Pending.Batches != 6 {
			t.Fatalf("memory: %+v", s)
		}
		same(t, "left in memory", m.all(), names("a", 95, 100))
		m.stop()
		if s := m.balanced(); s.Dropped[Shutdown].Batches != 6 {
			t.Fatalf("shutdown: %+v", s)
		}
		m.append(1, 100)
		m.balanced()
	})
}

func TestMistakesOfTheCallerAreCounted(t *testing.T) {
	c := config(nil, "a")
	a := start(t, c)
	a.append(2, 100)
	a.Append(2, 5, []byte("again"))
	a.Append(3, 5, nil)
	a.Append(4, 5, make([]byte, c.MaxBytes))
	if s := a.balanced(); s.Dropped[Invalid] != (Count{3, 15}) {
		t.Fatalf("%+v", s.Dropped)
	}
}

func TestARejectedBatchIsSetAside(t *testing.T) {
	dir := t.TempDir()
	c := config(Dir(dir), "a")
	c.QuarantineBytes = 10 << 10
	a := start(t, c).scanned()
	a.append(30, 1000)
	for seq := uint64(1); seq <= 29; seq++ {
		same(t, "rejected", a.Reject("a", seq, "columns disagree\x1b[2J"), Count{1, 10})
	}
	same(t, "rejected twice", a.Reject("a", 29, "columns disagree"), Count{})
	s := a.balanced()
	if s.Rejected.Batches != 29 || s.Quarantined.Batches != 29 || s.QuarantineErr != 0 {
		t.Fatalf("%+v", s)
	}
	same(t, "the others go on", a.all(), []string{"a/30"})
	kept, err := filepath.Glob(filepath.Join(dir, "*.rejected"))
	if err != nil || len(kept) != 3 {
		t.Fatalf("%d kept, want 3 of 3 kB in 10 kB (%v)", len(kept), err)
	}
	f, err := os.Open(kept[2])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h, err := readHead(f)
	same(t, "head", fmt.Sprint(h.Run, " ", h.Reason, " ", err), "a columns disagree?[2J <nil>")
}
