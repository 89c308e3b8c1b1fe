package backlog

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	errStopped = errors.New("stopped")
	errNever   = errors.New("never")
)

// sink takes batches, or keeps those who bring them waiting.
type sink struct {
	mu      sync.Mutex
	away    bool
	waiting []func(error)
	rows    map[uint64]int    // flow_id: how often
	names   map[string]string // remote_workload by flow's exporter
	refuse  uint64            // batch_seq that is never taken
}

func (s *sink) Write(b *flow.Batch, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		s.waiting = append(s.waiting, done)
		return
	}
	if b.Seq == s.refuse {
		go done(errNever)
		return
	}
	for i := range b.Rows {
		s.rows[b.Get64(flow.FlowID, i)]++
	}
	s.names[b.ExporterID] = b.Text(flow.RemoteWorkload, 0)
	go done(nil)
}

func (s *sink) once() (rows, twice int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.rows {
		if n > 1 {
			twice++
		}
	}
	return len(s.rows), twice
}

// giveBack is what a sink does when the process stops.
func (s *sink) giveBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, done := range s.waiting {
		done(errStopped)
	}
	s.waiting = nil
}

type run struct {
	*Backlog
	registry *prometheus.Registry
	stop     func()
}

func start(t *testing.T, dir, name string, behind *sink, change func(*Config)) *run {
	t.Helper()
	c := Config{Name: "kafka", Dir: dir, Run: name, MaxBytes: 64 << 20, MaxAge: time.Hour, Refused: func(err error) bool { return errors.Is(err, errNever) }}
	if change != nil {
		change(&c)
	}
	r := &run{registry: prometheus.NewRegistry()}
	var err error
	if r.Backlog, err = New(c, behind, r.registry, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	r.stop = sync.OnceFunc(func() {
		behind.giveBack()
		cancel()
		running.Wait()
	})
	t.Cleanup(r.stop)
	return r
}

const rows = 100

// write gives n batches, and wants to wait for none of them.
func (r *run) write(t *testing.T, from, n int) {
	t.Helper()
	opener, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(from); seq < uint64(from+n); seq++ {
		w := flow.NewBuilder(rows)
		for i := range rows {
			w.AddRow()
			w.Set64(flow.FlowID, seq*1000+uint64(i))
			w.Set32(flow.Kind, flow.KindClosed)
			w.Set64(flow.SockCookie, seq<<40+uint64(i)*7919)
			for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
				w.Set64(f, uint64(time.Now().UnixNano()))
			}
		}
		columns, count := w.Seal(nil)
		b := new(flow.Batch)
		m := &flowv1.Batch{ExporterId: "e1", Host: "h", BatchSeq: seq, Rows: uint32(count), ColumnsBytes: uint32(len(columns)), Payload: columns}
		if err := opener.Open(m, b); err != nil {
			t.Fatal(err)
		}
		b.ReceivedTimeNs = time.Now().UnixNano()
		b.AttrStrings = []string{"", "shop/db"}
		names := b.Make32(flow.RemoteWorkload)
		for i := range names {
			names[i] = 1
		}
		told := false
		r.Write(b, func(err error) { told = err == nil })
		if !told {
			t.Fatal("somebody waits for the sink")
		}
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestAnAbsentSinkCostsNothing: while it is away, through a restart, everything is kept; when it is back it gets every row, with its name.
func TestAnAbsentSinkCostsNothing(t *testing.T) {
	dir, behind := t.TempDir(), &sink{away: true, rows: map[uint64]int{}, names: map[string]string{}}
	first := start(t, dir, "one", behind, nil)
	first.write(t, 1, 300)
	eventually(t, "the sink is asked", func() bool { behind.mu.Lock(); defer behind.mu.Unlock(); return len(behind.waiting) > 0 })
	first.stop()
	second := start(t, dir, "two", behind, nil)
	second.write(t, 301, 100)
	behind.mu.Lock()
	behind.away = false
	waiting := behind.waiting
	behind.waiting = nil
	behind.mu.Unlock()
	eventually(t, "the sink has the rest", func() bool { rows, _ := behind.once(); return rows >= (400-len(waiting))*100 })
	second.stop()
	third := start(t, dir, "three", behind, nil) // those that were on their way
	eventually(t, "the sink has all", func() bool { rows, _ := behind.once(); return rows == 400*100 })
	eventually(t, "nothing waits", func() bool { return third.spool.Stats().Pending.Batches == 0 })
	if behind.names["e1"] != "shop/db" {
		t.Errorf("names %v", behind.names)
	}
}

// A sink that is closed gives back what it is given: the log is not read through for that.
func TestAClosedSinkIsLeftAlone(t *testing.T) {
	behind := &sink{rows: map[uint64]int{}, names: map[string]string{}, away: true}
	r := start(t, t.TempDir(), "one", behind, func(c *Config) { c.UnderWay = 1 })
	r.write(t, 1, 20)
	closed := &closedSink{}
	eventually(t, "the sink has the first one", func() bool { behind.mu.Lock(); defer behind.mu.Unlock(); return len(behind.waiting) == 1 })
	r.sink = closed
	behind.giveBack()
	time.Sleep(50 * time.Millisecond)
	r.stop()
	if closed.given > 1 {
		t.Errorf("%d batches were given to a sink that is closed", closed.given)
	}
	if n := r.spool.Stats().Pending.Batches; n != 20 {
		t.Errorf("%d batches are left for the next start", n)
	}
}

type closedSink struct{ given int }

func (s *closedSink) Write(_ *flow.Batch, done func(error)) {
	s.given++
	done(errStopped)
}

// What waits behind a sink that is silent ages in the log; what the sink has does not, and is taken when it speaks.
func TestASilentSinkIsTriedWithLittle(t *testing.T) {
	behind := &sink{away: true, rows: map[uint64]int{}, names: map[string]string{}}
	r := start(t, t.TempDir(), "one", behind, func(c *Config) { c.Patience, c.MaxAge = time.Hour, 4*time.Second })
	r.write(t, 1, 1)
	eventually(t, "the sink has one", func() bool { behind.mu.Lock(); defer behind.mu.Unlock(); return len(behind.waiting) == 1 })
	r.spoke.Store(-int64(time.Hour)) // it has been silent since
	r.write(t, 2, 40)
	eventually(t, "all but that one are given up", func() bool { return r.spool.Stats().Dropped[spool.OverflowAge].Batches == 40 })
	behind.mu.Lock()
	behind.away = false
	first := behind.waiting
	behind.waiting = nil
	behind.mu.Unlock()
	for _, done := range first {
		done(nil)
	}
	r.write(t, 42, 10)
	eventually(t, "the rest is not waited for", func() bool { s := r.spool.Stats(); return s.Pending.Batches == 0 && s.Acked.Batches > 0 })
}

// A sink of which a part is stuck goes on getting what the other part takes: each trial shows that it is not silent.
func TestASilentSinkIsTried(t *testing.T) {
	behind := &sink{away: true, rows: map[uint64]int{}, names: map[string]string{}}
	r := start(t, t.TempDir(), "one", behind, func(c *Config) { c.Patience = time.Millisecond })
	r.write(t, 1, 20)
	eventually(t, "it has one after the other", func() bool { behind.mu.Lock(); defer behind.mu.Unlock(); return len(behind.waiting) == 20 })
}

// TestTheLogIsBounded: what overflows is the oldest, and counted by reason; what the sink will never take goes to the quarantine.
func TestTheLogIsBounded(t *testing.T) {
	behind := &sink{away: true, rows: map[uint64]int{}, names: map[string]string{}}
	r := start(t, t.TempDir(), "one", behind, func(c *Config) { c.MaxBytes, c.UnderWay = 1<<20, 64<<10 })
	r.write(t, 1, 3000)
	s := r.spool.Stats()
	if lost := s.Appended.Rows - s.Pending.Rows; lost == 0 || s.DiskBytes > 1<<20 {
		t.Errorf("%+v", s)
	}
	count := func(name, label string) float64 {
		families, err := r.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() != name {
					continue
				}
				for _, l := range m.GetLabel() {
					if l.GetValue() == label {
						return m.GetCounter().GetValue()
					}
				}
			}
		}
		t.Fatalf("no %s %s", name, label)
		return 0
	}
	r.stop()
	if n := count("tributary_collector_backlog_dropped_rows_total", "overflow_size"); n == 0 || count("tributary_collector_backlog_acked_rows_total", "kafka") != 0 {
		t.Errorf("%v rows are counted as overflow", n)
	}
	behind = &sink{rows: map[uint64]int{}, names: map[string]string{}, refuse: 2}
	r = start(t, t.TempDir(), "one", behind, nil)
	r.write(t, 1, 3)
	eventually(t, "two are taken and one is refused", func() bool { s := r.spool.Stats(); return s.Acked.Batches == 2 && s.Rejected.Batches == 1 })
}
