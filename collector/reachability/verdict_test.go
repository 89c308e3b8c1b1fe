package reachability

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

func unanswered(r *records.Record) {
	r.Kind, r.Reason, r.Tx, r.Rx, r.State, r.End = flow.KindActive, 0, 100, 0, 1, r.Start+5
}

// hear writes that an exporter on the machine of a server spoke, and that it records that server.
func hear(t *testing.T, s schema.Server, server string, sec float64) {
	t.Helper()
	for _, text := range []string{
		fmt.Sprintf("INSERT INTO $.exporter_health SELECT toDateTime(%d, 'UTC'), 'e-%[2]s', 'host of %[2]s', fromUnixTimestamp64Nano(%[3]d), map('ring.read', 1)", at(sec).Truncate(time.Minute).Unix(), server, at(sec).UnixNano()),
		fmt.Sprintf("INSERT INTO $.closed (step, start, gen, rows) SELECT 'minute', toDateTime(%d, 'UTC'), 1, 1", t0.Add(-time.Hour).Unix()),
		fmt.Sprintf("INSERT INTO $.recorded_1m_gens (minute, gen, exporter_id, host, workload, records) SELECT toDateTime(%d, 'UTC'), 1, 'e-%[2]s', 'host of %[2]s', '%[2]s', 1", t0.Add(-time.Hour).Unix(), server),
	} {
		schematest.Query(t, s, strings.ReplaceAll(text, "$", s.Database))
	}
}

// turnAway writes how many connections a server's listener has turned away.
func turnAway(t *testing.T, s schema.Server, server string, sec float64, overflows int) {
	t.Helper()
	schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s.listeners_1m (minute, exporter_id, host, local_port, local_workload, accept_overflows, read_time_ns) "+
		"SELECT toDateTime(%d, 'UTC'), 'e-%[3]s', 'host of %[3]s', 5432, '%[3]s', %[4]d, fromUnixTimestamp64Nano(%[5]d)",
		s.Database, at(sec).Truncate(time.Minute).Unix(), server, overflows, at(sec).UnixNano()))
}

// TestBothPhasesFail: a program accepts no more. The first connections stand in its queue without an answer, the next ones are turned away: what was there
// first is ripe first, and the verdict is of both.
func TestBothPhasesFail(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	world.attempts(webToDB, 0, 100, good)
	world.attempts(webToDB, 100, 104, unanswered)
	world.attempts(webToDB, 104, 118, failed(timedOut))
	records.Load(t, s, t0, world.rows)
	hear(t, s, "shop/db", 112)
	turnAway(t, s, "shop/db", 10, 5)
	turnAway(t, s, "shop/db", 106, 9)
	j := newJudge(t, s)
	j.must(t, 116)
	if diff := cmp.Diff("shop/web\tshop/db\t5432\tlistener_overflow\tserver:shop/db\t\t1\n", regressions(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := clickhouseTime(at(100)) + "\t" + clickhouseTime(at(99)) + "\n"
	if got := schematest.Query(t, s, "SELECT broke_at, last_success FROM "+s.Database+".regressions"); got != want {
		t.Errorf("broke and worked last at %q, want %q", got, want)
	}
}

// TestServerIsWaitedFor: whether attempts are dropped on the way or the machine is down shows in its exporter's next word. It is waited for, but not long.
func TestServerIsWaitedFor(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	alive, down := way{"shop/web", "shop/alive", "10.0.0.1", "10.0.0.2:80"}, way{"shop/web", "shop/down", "10.0.0.1", "10.0.0.3:80"}
	for _, w := range []way{alive, down} {
		world.attempts(w, 0, 100, good)
		world.attempts(w, 100, 160, failed(timedOut))
		hear(t, s, w.server, 97)
	}
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	verdicts := func(sec float64) string {
		j.must(t, sec)
		return schematest.Query(t, s, "SELECT server_workload, verdict FROM "+s.Database+".regressions ORDER BY ALL")
	}
	if got := verdicts(116); got != "" {
		t.Errorf("neither was heard: %s", got)
	}
	hear(t, s, alive.server, 114)
	if got := verdicts(121); got != "shop/alive\tdropped\n" {
		t.Errorf("one was heard: %s", got)
	}
	if got := verdicts(131); got != "shop/alive\tdropped\nshop/down\tno_answer\n" {
		t.Errorf("the other one is not waited for for ever: %s", got)
	}
	if got := verdicts(155); got != "shop/alive\tdropped\nshop/down\tno_answer\n" { // heard last 41 s ago
		t.Errorf("what was known is known: %s", got)
	}
}

// TestCorrected: a queue fills only after the regression was found. The table, the alert and who was told learn of it, once, and not of new figures.
func TestCorrected(t *testing.T) {
	s := schematest.Migrated(t)
	h := newHook(t, func(body []byte) string { return ofWebhook(body) + ": " + verdictsOf(body) })
	j, hooked := teller(t, s, targetWebhook, h.URL)
	j.alerts.cfg.GroupWait = time.Nanosecond
	step := func(sec float64) {
		t.Helper()
		j.must(t, sec)
		for range 2 {
			if err := hooked.tell(t.Context(), at(sec)); err != nil {
				t.Fatal(err)
			}
		}
	}
	var world traffic
	world.attempts(webToDB, 0, 100, good)
	world.attempts(webToDB, 100, 125, unanswered)
	hear(t, s, "shop/db", 112)
	turnAway(t, s, "shop/db", 10, 5)
	records.Load(t, s, t0, world.rows)
	step(116)
	step(121)
	var later traffic
	later.next = world.next
	later.attempts(webToDB, 125, 140, failed(timedOut))
	records.Load(t, s, t0, later.rows)
	for i, sec := range []float64{136, 141, 156} {
		turnAway(t, s, "shop/db", sec-1, 10+i)
		step(sec)
	}
	want := fmt.Sprintf("listener_overflow\t%s\t%s\n", clickhouseTime(at(116)), clickhouseTime(at(136)))
	if got := schematest.Query(t, s, "SELECT verdict, opened_at, verdict_at FROM "+s.Database+".regressions"); got != want {
		t.Errorf("the regression is %q, want %q", got, want)
	}
	if n := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".regressions_raw"); n != "2\n" {
		t.Errorf("%s versions are written", strings.TrimSpace(n))
	}
	if got, want := h.said(), "firing shop/db: shop/web: no_reply; firing shop/db: shop/web: listener_overflow"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	other, again := teller(t, s, targetWebhook, h.URL) // another collector takes over
	other.alerts.cfg.GroupWait = time.Nanosecond
	other.must(t, 166)
	if err := again.tell(t.Context(), at(166)); err != nil || strings.Count(h.said(), ";") != 1 {
		t.Errorf("the next collector told again: %s, %v", h.said(), err)
	}
}

// TestMayChange: causes that take turns are not told in turns.
func TestMayChange(t *testing.T) {
	r := &Regression{BrokeAt: at(0), OpenedAt: at(16), VerdictAt: at(16)}
	changes := 0
	for sec := 16.0; sec < 600; sec += 5 {
		if r.mayChange(at(sec)) {
			r.VerdictAt = at(sec)
			changes++
		}
	}
	if changes > 8 || r.VerdictAt.After(at(firmAfter.Seconds())) {
		t.Errorf("%d changes, the last after %s", changes, r.VerdictAt.Sub(at(0)))
	}
}

func TestBetterKnown(t *testing.T) {
	if betterKnown("turned away (10)", "turned away (9)") || !betterKnown("it saw nothing", "it saw some of them") {
		t.Error("figures are no news, and words are")
	}
}

// TestSampled: of a path 5 attempts a second are made, and of those that go well one of 20 is seen. Failures are always seen.
func TestSampled(t *testing.T) {
	u := usual{Attempts: 300 * 60, Successes: 300 * 60, Minutes: 60, SampleRate: 20}
	for _, c := range []struct {
		name         string
		sec          float64 // since the first failure
		failed, half uint64  // since then, and in the minute before
		want         finding
	}{
		{"all fail", 16, 80, 0, isRegression},
		{"some fail, and the others may go well", 16, 20, 0, lostSight},
		{"half of ten fail, and no good one was sampled", 16, 80, 300, notYet},
		{"half of ten failed, and for long no good one was sampled", 60, 300, 300, isRegression},
	} {
		l := &look{Established: 15, SampleRate: 20, ConnectMixed: mixed{Good: 300, Bad: c.half}}
		f := failing{phaseConnect, map[string]uint64{"connect.refused": c.failed}, at(0).UnixNano()}
		if got := l.judge(f, u, 1, at(c.sec)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
