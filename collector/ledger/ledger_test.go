package ledger

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

func newLedger(t *testing.T, cfg Config, s schema.Server) *Ledger {
	t.Helper()
	l := New(cfg, s, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	t.Cleanup(l.store.Close)
	return l
}

func counters(read, ringFull, queued, acked, dropped uint64) []flow.Counter {
	return []flow.Counter{
		{Name: "ring.read", Value: read},
		{Name: "probe.ring_full", Value: ringFull},
		{Name: "probe.submitted", Value: read},
		{Name: "spool.appended_rows", Value: queued},
		{Name: "spool.acked_rows", Value: acked},
		{Name: "spool.dropped_rows_overflow_size", Value: dropped},
	}
}

// TestCompleteness: readings come out of order and twice, of two collectors; what happened in each minute is their difference.
func TestCompleteness(t *testing.T) {
	s := schematest.Migrated(t)
	minute := time.Now().UTC().Truncate(time.Minute).Add(-10 * time.Minute)
	at := func(sec int) int64 { return minute.Add(time.Duration(sec) * time.Second).UnixNano() }
	one, two := newLedger(t, Config{}, s), newLedger(t, Config{}, s)
	one.Note("e1", "h1", at(50), counters(100, 0, 100, 90, 0))
	one.Note("e1", "h1", at(20), counters(40, 0, 40, 40, 0)) // late: nothing new
	one.Note("e1", "h1", at(110), counters(250, 50, 250, 240, 0))
	one.Note("e2", "h2", at(30), counters(10, 0, 10, 10, 0))
	one.write(t.Context())
	two.Note("e1", "h1", at(119), counters(300, 50, 300, 200, 10)) // the newest word of the minute
	two.Note("e1", "h1", at(170), nil)
	two.write(t.Context())
	one.write(t.Context()) // nothing waits
	// its clock was set forward and back again
	one.Note("e3", "h3", at(30), counters(100, 1, 100, 100, 0))
	one.Note("e3", "h3", at(40*60), counters(300, 2, 300, 300, 0))
	one.Note("e3", "h3", at(90), counters(500, 2, 500, 500, 0))
	one.write(t.Context())
	got := schematest.Query(t, s, "SELECT dateDiff('minute', toDateTime("+"'"+minute.Format("2006-01-02 15:04:05")+"', 'UTC'), minute), exporter_id, host, captured, lost, lost_rows, pending, round(complete, 4) FROM "+s.Database+".exporter_completeness ORDER BY ALL")
	want := "0\te1\th1\t100\t{}\t0\t10\t1\n" +
		"0\te2\th2\t10\t{}\t0\t0\t1\n" +
		"0\te3\th3\t101\t{'probe.ring_full':1}\t1\t0\t0.9901\n" +
		"1\te1\th1\t250\t{'probe.ring_full':50,'spool.dropped_rows_overflow_size':10}\t60\t90\t0.76\n" +
		"1\te3\th3\t200\t{}\t0\t0\t1\n" +
		"40\te3\th3\t201\t{'probe.ring_full':1}\t1\t0\t0.995\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := schematest.Query(t, s, "SELECT count(), uniq(exporter_id) FROM "+s.Database+".completeness"); got != "6\t3\n" {
		t.Errorf("completeness: %s", got)
	}
}

// TestClocksThatWereSet: of a minute the reading that has counted most is the newest, whatever the clocks said and in which order they came.
func TestClocksThatWereSet(t *testing.T) {
	s := schematest.Migrated(t)
	l := newLedger(t, Config{}, s)
	minute := time.Now().UTC().Truncate(time.Minute)
	l.now = func() time.Time { return minute.Add(30 * time.Second) }
	at := func(sec int) int64 { return minute.Add(time.Duration(sec) * time.Second).UnixNano() }
	for _, n := range []struct {
		exporter   string
		at         int64
		read, want uint64
	}{
		{"back", at(20), 100, 100}, {"back", at(10), 200, 200}, {"back", at(15), 200, 200}, // set back by 15 s in this minute
		{"ahead", at(24 * 3600), 500, 500}, {"ahead", at(24*3600 - 60), 400, 500}, {"ahead", at(24*3600 + 60), 600, 600}, // what a spool kept, the newest first
		{"ahead", at(24*3600 - 120), 300, 600},
	} {
		l.Note(n.exporter, "h", n.at, counters(n.read, 0, 0, 0, 0))
		l.write(t.Context())
		if got := schematest.Query(t, s, "SELECT counters['ring.read'] FROM "+s.Database+".exporter_health FINAL WHERE exporter_id = '"+n.exporter+"'"); got != fmt.Sprintln(n.want) {
			t.Errorf("%s at %d: %s, want %d", n.exporter, n.at, got, n.want)
		}
	}
	l.now = func() time.Time { return minute.Add(time.Hour) }
	l.Note("other", "h", at(3600), counters(1, 0, 0, 0, 0))
	if len(l.marks) != 1 {
		t.Errorf("%d minutes are remembered for ever", len(l.marks))
	}
}

func TestStoreAway(t *testing.T) {
	l := newLedger(t, Config{MaxReadings: 10}, schema.Server{URL: "http://127.0.0.1:1", Database: "d"})
	l.now = func() time.Time { return time.Unix(24*60, 0) }
	for i := range 25 {
		l.Note("e", "h", int64(i)*int64(time.Minute), counters(1, 0, 0, 0, 0))
	}
	l.Note("e", "h", 1<<62, counters(1, 0, 0, 0, 0))
	l.Note("e", "h", -1<<62, counters(1, 0, 0, 0, 0))
	l.write(t.Context())
	if n := len(l.waiting); n > 10 || n < 8 {
		t.Errorf("%d readings wait", n)
	}
	if _, ok := l.waiting[key{"e", 24}]; !ok {
		t.Error("the newest reading is gone")
	}
	if errs, dropped := testutil.ToFloat64(l.errors), testutil.ToFloat64(l.dropped); errs != 1 || int(dropped)+len(l.waiting) != 25 {
		t.Errorf("%g errors, %g dropped of 25", errs, dropped)
	}
}

// TestAfter: a batch is not acknowledged before its exporter's counters are in the store, and is where they never will be.
func TestAfter(t *testing.T) {
	s := schematest.Migrated(t)
	l := newLedger(t, Config{}, s)
	away := newLedger(t, Config{}, schema.Server{URL: "http://127.0.0.1:1", Database: "d"})
	now := time.Now().UnixNano()
	called := 0
	then := func() { called++ }
	l.After("e", now, then)
	if called != 1 {
		t.Fatal("it waits for a reading that nobody noted")
	}
	const wrong = 1 << 62 // as good as now
	for _, ledger := range []*Ledger{l, away} {
		ledger.Note("e", "h", now, counters(1, 0, 0, 0, 0))
		ledger.After("e", now, then)
	}
	l.now = func() time.Time { return time.Unix(0, now) }
	l.After("e", wrong, then)
	if called != 1 {
		t.Fatal("it does not wait for a reading that is not written")
	}
	away.write(t.Context())
	away.write(t.Context())
	if called != 1 {
		t.Fatal("it does not wait while the store is away")
	}
	l.write(t.Context())
	if got := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".exporter_health"); called != 3 || got != "1\n" {
		t.Fatalf("called %d times, %s readings", called, got)
	}
	l.After("e", now, then)
	if called != 4 {
		t.Fatal("it waits for a reading that is written")
	}
	away.store = l.store // it is back
	away.write(t.Context())
	if called != 5 {
		t.Fatal("what waited while the store was away is not called")
	}
}

// TestAfterIsBounded: what waits for a store that is away has a ceiling.
func TestAfterIsBounded(t *testing.T) {
	l := newLedger(t, Config{MaxReadings: 10}, schema.Server{URL: "http://127.0.0.1:1", Database: "d"})
	l.Note("e", "h", time.Now().UnixNano(), counters(1, 0, 0, 0, 0))
	called := 0
	for range 15 {
		l.After("e", time.Now().UnixNano(), func() { called++ })
	}
	if called != 5 {
		t.Errorf("%d of 15 did not wait, want 5", called)
	}
}

// TestFlush: what waits for a reading goes on at once, whoever else writes meanwhile.
func TestFlush(t *testing.T) {
	l := newLedger(t, Config{Every: time.Millisecond}, schematest.Migrated(t))
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { l.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for i := range 30 {
		exporter, done := fmt.Sprint("e", i), make(chan struct{})
		l.Note(exporter, "h", time.Now().UnixNano(), counters(1, 0, 0, 0, 0))
		l.After(exporter, time.Now().UnixNano(), func() { close(done) })
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		l.Flush(t.Context())
		select {
		case <-done:
		default:
			t.Fatal("a flush has ended, and what waits for it has not gone on")
		}
	}
}

// TestLossesAreKnown: what the exporter calls a loss is one in the view.
func TestLossesAreKnown(t *testing.T) {
	for name, want := range map[string]bool{
		"probe.ring_full": true, "probe.ends_missed": true, "ring.invalid": true, "batch.refused_rows": true, "spool.dropped_rows_overflow_size": true,
		"spool.rejected_rows": true, "probe.ends": false, "ring.read": false, "spool.acked_rows": false, "event.forgotten": false,
	} {
		got := schematest.Query(t, schematest.Server(t), "SELECT "+strings.ReplaceAll(schema.LossCondition, "name", "'"+name+"'"))
		if (got == "1\n") != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
