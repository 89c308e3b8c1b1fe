package reachability

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

// TestLife: a path breaks, heals, and breaks again soon after: then it must work longer.
func TestLife(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	world.attempts(webToDB, 0, 60, good)
	world.attempts(webToDB, 60, 90, failed(refused))
	world.attempts(webToDB, 90, 130, good)
	world.attempts(webToDB, 130, 160, failed(refused))
	world.attempts(webToDB, 160, 205, good)
	upTo := func(sec float64) {
		var now traffic
		for len(world.rows) > 0 && world.rows[0].End <= sec {
			now.rows, world.rows = append(now.rows, world.rows[0]), world.rows[1:]
		}
		records.Load(t, s, t0, now.rows)
	}
	j := newJudge(t, s)
	const row = "shop/web\tshop/db\t5432\tno_listener\tserver:shop/db\t"
	for _, step := range []struct {
		sec  float64
		want string
	}{
		{70, ""},
		{80, row + "\t1\n"},
		{92, row + "\t1\n"},
		{105, row + "\t1\n"},
		{115, row + "healed\t1\n"},
		{140, row + "healed\t1\n"},
		{150, row + "\t2\n" + row + "healed\t1\n"},
		{185, row + "\t2\n" + row + "healed\t1\n"}, // twice as long
		{204, row + "healed\t1\n" + row + "healed\t2\n"},
	} {
		upTo(step.sec)
		j.must(t, step.sec)
		if diff := cmp.Diff(step.want, regressions(t, s)); diff != "" {
			t.Errorf("after %g s (-want +got):\n%s", step.sec, diff)
		}
	}
}

// TestNobodyTriesAnyMore: the regression ends, and it says why.
func TestNobodyTriesAnyMore(t *testing.T) {
	s := schematest.Migrated(t)
	old := t0
	defer func() { t0 = old }()
	t0 = t0.Add(-20 * time.Minute)
	var world traffic
	world.attempts(webToDB, 0, 60, good)
	world.attempts(webToDB, 60, 90, failed(refused))
	other := way{"shop/batch", "shop/db", "10.0.0.9", "10.0.0.2:5432"} // goes on as a client of its own
	world.attempts(other, 0, 60, good)
	world.attempts(other, 60, 90, failed(refused))
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	j.must(t, 91)
	later := traffic{next: 5000}
	later.attempts(way{"shop/batch", "shop/other", "10.0.0.9", "10.0.0.3:80"}, 980, 1000, good)
	records.Load(t, s, t0, later.rows)
	schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s.exporter_health SELECT toDateTime(%d, 'UTC'), 'e', '', fromUnixTimestamp64Nano(%d), map('ring.read', 1)",
		s.Database, at(1000).Truncate(time.Minute).Unix(), at(1000).UnixNano()))
	j.must(t, 1001)
	want := "shop/batch\tshop/db\t5432\tno_listener\tserver:shop/db\tnobody_tries\t1\n" + "shop/web\tshop/db\t5432\tno_listener\tserver:shop/db\tclient_gone\t1\n"
	if diff := cmp.Diff(want, regressions(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestNoRegressions: what fails, and is none.
func TestNoRegressions(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	path := func(name string) way { return way{"c " + name, "s " + name, "10.0.0.1", "10.0.0.2:80"} }
	world.attempts(path("never worked"), 0, 130, failed(refused))
	n := 0
	world.attempts(path("works now and then"), 0, 130, func(r *records.Record) {
		if n++; n%10 != 0 {
			failed(refused)(r)
		}
	})
	world.attempts(path("too few"), 0, 128, good)
	world.attempts(path("too few"), 128, 130, failed(refused))
	world.attempts(path("one-way"), 0, 130, closed(finLocal, 0)) // never brings bytes back
	world.attempts(path("small answers"), 0, 100, good)
	world.attempts(path("small answers"), 50, 51, closed(finRemote, 10))
	world.attempts(path("small answers"), 100, 130, closed(finRemote, 10))
	world.attempts(path("given up on purpose"), 0, 100, good)
	world.attempts(path("given up on purpose"), 100, 130, func(r *records.Record) {
		failed(refused)(r)
		r.Names[1], r.Last, r.Why = "", r.Names[1], flow.WhyNoEvidence
	})
	world.attempts(path("sampled"), 0, 100, func(r *records.Record) { r.Sampled = 100 })
	world.attempts(path("sampled"), 110, 114, failed(refused))
	replaced := path("replaced, then sampled") // one of its two addresses fails since, and of successes one of 20 is seen
	world.attempts(replaced, 0, 131, func(r *records.Record) {
		if r.Start > 50 {
			failed(refused)(r)
		}
	})
	world.attempts(replaced, 0, 100, good)
	world.attempts(replaced, 100, 101, func(r *records.Record) { r.Sampled = 20 })
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	j.must(t, 131)
	if got := regressions(t, s); got != "" {
		t.Errorf("no regressions: %s", got)
	}
}

// TestLossyClient: where a client's records are lost, its successes may be among them.
func TestLossyClient(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	world.attempts(webToDB, 0, 100, good)
	world.attempts(webToDB, 100, 130, failed(refused))
	records.Load(t, s, t0, world.rows)
	for minute, n := range []int{100, 200, 300} {
		schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s.exporter_health SELECT toDateTime(%d, 'UTC'), 'e-shop/web', 'h', fromUnixTimestamp64Nano(%d), map('ring.read', %d, 'probe.ring_full', %d)",
			s.Database, at(float64(60*minute)).Unix(), at(float64(60*minute)).UnixNano(), n, n/4))
	}
	j := newJudge(t, s)
	j.must(t, 131)
	if got := regressions(t, s); got != "" {
		t.Errorf("no regressions: %s", got)
	}
}

// TestOneCause: a server that is gone is one cause, and so is a client that is cut off while its servers do well.
func TestOneCause(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	bad := func(w way, reason uint32) {
		world.attempts(w, 0, 100, good)
		world.attempts(w, 100, 130, failed(reason))
	}
	bad(webToDB, refused)
	bad(way{"shop/api", "shop/db", "10.0.0.4", "10.0.0.2:5432"}, refused)
	bad(way{"shop/cron", "shop/mail", "10.0.0.5", "10.0.0.6:25"}, timedOut)
	bad(way{"shop/cron", "shop/api", "10.0.0.5", "10.0.0.4:9000"}, timedOut)
	world.attempts(way{"shop/web", "shop/mail", "10.0.0.1", "10.0.0.6:25"}, 0, 130, good)
	world.attempts(way{"shop/web", "shop/api", "10.0.0.1", "10.0.0.4:9000"}, 0, 130, good)
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	j.must(t, 131)
	want := "shop/api\tshop/db\t5432\tno_listener\tserver:shop/db\t\t1\n" + "shop/cron\tshop/api\t9000\tno_answer\tclient:shop/cron\t\t1\n" +
		"shop/cron\tshop/mail\t25\tno_answer\tclient:shop/cron\t\t1\n" + "shop/web\tshop/db\t5432\tno_listener\tserver:shop/db\t\t1\n"
	if diff := cmp.Diff(want, regressions(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	told := j.alerts.get()
	if len(told) != 2 {
		t.Fatalf("%d alerts, want 2", len(told))
	}
	text := told[1].annotations("https://runbook", s.Database)
	if text["summary"] != "shop/api, shop/web cannot reach shop/db:5432 any more" || text["clients"] != "shop/api, shop/web" || !strings.Contains(text["evidence"], "10.0.0.2") {
		t.Errorf("annotations: %v", text)
	}
	if rows := schematest.Query(t, s, text["sql"]); strings.Count(rows, "\n") != 100 || !strings.Contains(rows, "shop/api") { // the first of a minute before it broke
		t.Errorf("the ready SQL answers %d rows", strings.Count(rows, "\n"))
	}
}

// TestServersSide: what listens, what is turned away, and who is heard decide about the verdict.
func TestServersSide(t *testing.T) {
	s := schematest.Migrated(t)
	var world traffic
	heard := func(name string, read float64) { hear(t, s, "s "+name, read) }
	listens := func(name string, read float64, overflows int, ended float64) {
		schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s.listeners_1m (minute, exporter_id, host, local_port, local_workload, accept_overflows, read_time_ns, ended_ns) "+
			"SELECT toDateTime(%d, 'UTC'), 'e-s %[3]s', '%[3]s', 80, 's %[3]s', %[4]d, fromUnixTimestamp64Nano(%[5]d), fromUnixTimestamp64Nano(%[6]d)",
			s.Database, at(read).Truncate(time.Minute).Unix(), name, overflows, at(read).UnixNano(), int64(ended)))
	}
	want := ""
	for _, c := range []struct {
		name    string
		reason  uint32
		prepare func(name string)
		verdict Verdict
	}{
		{"answered by a firewall", refused, func(n string) { listens(n, 10, 0, 0) }, VerdictRejected},
		{"answered by a firewall, heard", refused, func(n string) { heard(n, 104); listens(n, 10, 0, 0) }, VerdictRejected},
		{"both stopped", refused, func(n string) { heard(n, 99); listens(n, 10, 0, 0) }, VerdictNoListener},
		{"busy", timedOut, func(n string) { heard(n, 130); listens(n, 10, 5, 0); listens(n, 125, 25, 0) }, VerdictOverflow},
		{"dead", timedOut, func(n string) { heard(n, 95) }, VerdictNoAnswer},
		{"dropped", timedOut, func(n string) { heard(n, 130); listens(n, 10, 5, 0); listens(n, 125, 5, 0) }, VerdictDropped},
		{"dropped, then unheard", timedOut, func(n string) { heard(n, 102) }, VerdictDropped},
		{"stopped", refused, func(n string) { heard(n, 130); listens(n, 10, 0, 0); listens(n, 101, 0, 1e18) }, VerdictNoListener},
	} {
		w := way{"c " + c.name, "s " + c.name, "10.0.0.1", "10.0.0.2:80"}
		world.attempts(w, 0, 100, good)
		world.attempts(w, 100, 130, failed(c.reason))
		c.prepare(c.name)
		want += fmt.Sprintf("%s\t%s\t80\t%s\tserver:%s\t\t1\n", w.client, w.server, c.verdict, w.server)
	}
	records.Load(t, s, t0, world.rows)
	j := newJudge(t, s)
	for _, sec := range []float64{131, 136} {
		j.must(t, sec)
		if diff := cmp.Diff(want, regressions(t, s)); diff != "" {
			t.Errorf("after %g s (-want +got):\n%s", sec, diff)
		}
	}
}

// TestOneOfSeveralJudges: the collector that began first judges, until it is not seen any more.
func TestOneOfSeveralJudges(t *testing.T) {
	s := schematest.Migrated(t)
	first, second := newJudge(t, s), newJudge(t, s)
	second.cfg.Collector, second.started = "c2", first.started.Add(time.Second)
	elected := func(j *Judge) bool {
		is, err := j.elected(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	if elected(second); !elected(first) || elected(second) {
		t.Error("not the first one judges, or not it alone")
	}
	schematest.Query(t, s, "DELETE FROM "+s.Database+".reachability_judges WHERE collector = 'c1'")
	if !elected(second) {
		t.Error("nobody takes over")
	}
}

func TestSilences(t *testing.T) {
	for _, c := range []struct {
		s    Silence
		p    Path
		want bool
	}{
		{Silence{Client: "a", Server: "b"}, Path{"a", "b", 1}, true},
		{Silence{Client: "a", Server: "b", Port: 2}, Path{"a", "b", 1}, false},
		{Silence{Client: "*", Server: "shop/*"}, Path{"x", "shop/db", 1}, true},
		{Silence{Client: "*", Server: "shop/*"}, Path{"x", "shops/db", 1}, false},
		{Silence{Client: "a*c", Server: "*b"}, Path{"abcbc", "b", 1}, true},
		{Silence{Client: "a*b*c", Server: "*"}, Path{"a.c.b", "b", 1}, false},
		{Silence{Client: "%", Server: "_"}, Path{"a", "b", 1}, false},
	} {
		if got := c.s.Covers(c.p); got != c.want {
			t.Errorf("%+v covers %v: %v", c.s, c.p, got)
		}
	}
	moment := func(m int) time.Time { return time.Unix(int64(60*m), 0).UTC() }
	open := &Regression{Path: Path{"a", "s", 1}, CauseOf: "server:s", OpenedAt: moment(10), LastSeen: moment(11)}
	over := &Regression{Path: Path{"b", "s", 1}, CauseOf: "server:s", OpenedAt: moment(8), ClosedAt: moment(12), ClosedWhy: whyHealed}
	before := &Regression{Path: Path{"c", "s", 1}, CauseOf: "server:s", OpenedAt: moment(1), ClosedAt: moment(2), ClosedWhy: whyHealed}
	text := func(alerts []*Alert) (out []string) {
		for _, a := range alerts {
			out = append(out, fmt.Sprintf("%s %s %d paths from %s", a.CauseOf, a.state(), len(a.Paths), a.StartsAt.Format("04")))
		}
		return out
	}
	if diff := cmp.Diff([]string{"server:s firing 1 paths from 08", "server:s resolved 1 paths from 01"}, text(alertsOf([]*Regression{before, over, open}, nil))); diff != "" {
		t.Error(diff)
	}
	quiet := []Silence{{Client: "a", Server: "s"}}
	if diff := cmp.Diff([]string{"server:s resolved 1 paths from 01", "server:s resolved 2 paths from 08"}, text(alertsOf([]*Regression{before, over, open}, quiet))); diff != "" {
		t.Error(diff)
	}
}

func TestNeeded(t *testing.T) {
	for share, want := range map[float64]uint64{0.01: 3, 0.1: 6, 0.5: 17, 0.9: 110, 1: math.MaxUint64} {
		if got := needed(share); got != want {
			t.Errorf("needed(%g) = %d, want %d", share, got, want)
		}
	}
}
