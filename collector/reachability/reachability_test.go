package reachability

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

// t0 is the beginning of the tests' worlds: the present is 5 minutes later.
var t0 = time.Now().UTC().Add(-5 * time.Minute).Truncate(time.Minute)

func at(sec float64) time.Time { return t0.Add(time.Duration(sec * 1e9)) }

func newJudge(t *testing.T, s schema.Server) *Judge {
	t.Helper()
	j := New(Config{Collector: "c1"}, s, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	j.started = t0.Add(-time.Hour)
	t.Cleanup(j.store.Close)
	return j
}

func (j *Judge) must(t *testing.T, sec float64) {
	t.Helper()
	if err := j.Step(t.Context(), at(sec)); err != nil {
		t.Fatal(err)
	}
}

// traffic makes flows that go well or not, one a second.
type traffic struct {
	rows []records.Record
	next uint64
}

type way struct{ client, server, from, to string }

var webToDB = way{"shop/web", "shop/db", "10.0.0.1", "10.0.0.2:5432"}

func (t *traffic) attempts(w way, from, to float64, one func(r *records.Record)) {
	for s := from; s < to; s++ {
		t.next++
		r := records.Record{
			Exporter: "e-" + w.client, Flow: t.next, Kind: flow.KindClosed, Role: flow.RoleClient, Local: fmt.Sprintf("%s:%d", w.from, 30000+t.next%30000),
			Remote: w.to, Names: [2]string{w.client, w.server}, Start: s, End: s + 0.01, Tx: 100, Rx: 1000, Observed: true, Reason: 1, State: 4,
		}
		one(&r)
		t.rows = append(t.rows, r)
	}
}

func good(*records.Record) {}

func failed(reason uint32) func(*records.Record) {
	return func(r *records.Record) {
		r.Kind, r.Reason, r.Tx, r.Rx, r.State = flow.KindFailed, reason, 0, 0, 2
	}
}

func closed(reason uint32, rx uint64) func(*records.Record) {
	return func(r *records.Record) { r.Reason, r.Rx, r.End = reason, rx, r.Start+0.5 }
}

func waiting(r *records.Record) {
	r.Kind, r.Reason, r.Tx, r.Rx, r.State, r.End = flow.KindActive, 0, 0, 0, 2, r.Start+13
}

func regressions(t *testing.T, s schema.Server) string {
	t.Helper()
	return schematest.Query(t, s, "SELECT client_workload, server_workload, server_port, verdict, cause_of, closed_why, times FROM "+s.Database+".regressions ORDER BY ALL")
}

// The numbers of close_reason.
const (
	finLocal, finRemote, rstLocal, rstRemote, timedOut, refused, unreachable, aborted = 1, 2, 3, 4, 5, 6, 7, 11
)

// TestBreaks: 100 s of good traffic, then 30 s of bad: what is it? Each kind has a path of its own.
func TestBreaks(t *testing.T) {
	kinds := map[string]struct {
		bad  func(*records.Record)
		want string
	}{
		"refused":               {failed(refused), "no_listener"},
		"timeout":               {failed(timedOut), "no_answer"},
		"own timeout":           {func(r *records.Record) { failed(aborted)(r); r.End = r.Start + 1 }, "no_answer"},
		"still waiting":         {waiting, "no_answer"},
		"unreachable":           {failed(unreachable), "unreachable"},
		"reset":                 {closed(rstRemote, 0), "reset"},
		"reset after some":      {closed(rstRemote, 20), "reset"},
		"no reply":              {closed(finLocal, 0), "no_reply"},
		"no reply yet":          {func(r *records.Record) { r.Kind, r.Rx, r.End, r.Reason, r.State = flow.KindActive, 0, r.Start+5, 0, 1 }, "no_reply"},
		"closed without answer": {closed(finRemote, 0), "early_close"},
		"closed after an alert": {closed(finRemote, 7), "early_close"},
		"unreachable, unheard":  {failed(aborted), "unreachable"},
		"given up now and then": {func(r *records.Record) {
			if int(r.Start)%5 > 0 {
				failed(aborted)(r)
			}
		}, ""},
		"aborted by the client": {func(r *records.Record) { closed(rstLocal, 0)(r); r.End = r.Start + 0.01 }, ""},
		"nothing wrong":         {good, ""},
	}
	s := schematest.Migrated(t)
	var world traffic
	want := ""
	for i, name := range slices.Sorted(maps.Keys(kinds)) {
		w := way{"client " + name, "server " + name, fmt.Sprintf("10.0.0.%d", i), fmt.Sprintf("10.0.1.%d:80", i)}
		world.attempts(w, 0, 100, good)
		world.attempts(w, 100, 130, kinds[name].bad)
		if kinds[name].want != "" {
			want += fmt.Sprintf("%s\t%s\t80\t%s\tserver:%s\t\t1\n", w.client, w.server, kinds[name].want, w.server)
		}
	}
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	j.must(t, 110)
	if got := regressions(t, s); got != "" {
		t.Errorf("too soon: %s", got)
	}
	for _, sec := range []float64{131, 136} {
		j.must(t, sec)
		if diff := cmp.Diff(want, regressions(t, s)); diff != "" {
			t.Errorf("after %g s (-want +got):\n%s", sec, diff)
		}
	}
}

// TestAllFailsAtOnce: where a network fails, thousands of paths do, more than one statement can name.
func TestAllFailsAtOnce(t *testing.T) {
	j := newJudge(t, schematest.Migrated(t))
	var paths []asked
	var broken []*Regression
	for i := range 20 * askAtOnce {
		p := Path{fmt.Sprintf("a-team-with-a-long-name/client-%06d", i), "another-team-with-a-long-name/database", 5432}
		paths = append(paths, asked{p, t0.UnixNano()})
		broken = append(broken, &Regression{
			ID: newID(), Path: p, CauseOf: "server:" + p.Server, Verdict: "no_answer", LeastRx: 1000, LastSuccess: t0, BrokeAt: t0, OpenedAt: t0, ClosedAt: noTime, LastSeen: t0,
		})
	}
	if err := j.write(t.Context(), broken, t0); err != nil {
		t.Fatal(err)
	}
	if known, err := j.known(t.Context(), t0); err != nil || len(known) != len(broken) {
		t.Errorf("%d of %d are known, %v", len(known), len(broken), err)
	}
	if _, err := j.lookAll(t.Context(), t0); err != nil {
		t.Error(err)
	}
	paths = paths[:8*askAtOnce]
	if _, err := j.usual(t.Context(), paths, t0); err != nil {
		t.Error(err)
	}
	sides, err := j.serverSides(t.Context(), paths, sight{}, t0)
	if err != nil || len(sides) != len(paths) {
		t.Errorf("%d of %d servers' sides, %v", len(sides), len(paths), err)
	}
}
