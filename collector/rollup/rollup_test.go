package rollup

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

// t0 is the start of an hour that is over, so that hours close too.
var t0 = time.Now().UTC().Truncate(time.Hour).Add(-3 * time.Hour)

func at(sec float64) time.Time { return t0.Add(time.Duration(sec * 1e9)) }

func newRollup(t *testing.T, s schema.Server, name string) *Rollup {
	t.Helper()
	r := New(Config{Collector: name}, s, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	t.Cleanup(r.store.Close)
	return r
}

func step(t *testing.T, r *Rollup, now time.Time) {
	t.Helper()
	if err := r.Step(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

// settled makes everything written so far as old as settle.
func settled(t *testing.T, s schema.Server) {
	t.Helper()
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".touched UPDATE touched = touched - toIntervalSecond(60) WHERE 1 SETTINGS mutations_sync = 2")
}

// computed makes every computation so far so old that a minute touched now is due again.
func computedLongAgo(t *testing.T, s schema.Server) {
	t.Helper()
	settled(t, s)
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".closed UPDATE started = started - toIntervalSecond(30) WHERE 1 SETTINGS mutations_sync = 2")
}

const sums = `SELECT client_workload, server_workload, server_port, class, sum(e.connections), sum(e.closed), sum(e.failures), sum(e.bytes_to_server), sum(e.bytes_to_client)
FROM %s.%s AS e GROUP BY ALL ORDER BY ALL`

func edges(t *testing.T, s schema.Server, table string) string {
	t.Helper()
	return schematest.Query(t, s, fmt.Sprintf(sums, s.Database, table))
}

// pair is a connection that both ends recorded, from start to end; the server's record ends a little later.
func pair(i uint64, start, end float64) []records.Record {
	client := fmt.Sprintf("10.0.0.1:%d", 40000+i)
	return []records.Record{
		{Exporter: "a", Flow: i, Kind: flow.KindClosed, Role: flow.RoleClient, Local: client, Remote: "10.0.0.2:80", Names: [2]string{"shop/web", "shop/api"}, Start: start, End: end, Tx: 100, Rx: 1000, Observed: true},
		{Exporter: "b", Flow: i, Kind: flow.KindClosed, Role: flow.RoleServer, Local: "10.0.0.2:80", Remote: client, Names: [2]string{"shop/api", "shop/web"}, Start: start + 0.001, End: end + 0.002, Tx: 1000, Rx: 100, Observed: true},
	}
}

// long is a connection that lives over several minutes, as both ends record it.
func long(i uint64, start, end float64) []records.Record {
	var out []records.Record
	whole := pair(i, start, end)
	for side := range whole {
		r := whole[side]
		seq := uint32(0)
		for at := start + 5; at < end; at += 30 {
			a := r
			a.Kind, a.State, a.Seq, a.End = flow.KindActive, 1, seq, at
			out, seq = append(out, a), seq+1
		}
		r.Seq = seq
		out = append(out, r)
	}
	return out
}

// TestClassesAcrossMinutes: ends that lie in different minutes, long connections, and records of one end alone, each counted once.
func TestClassesAcrossMinutes(t *testing.T) {
	s := schematest.Migrated(t)
	var rows []records.Record
	rows = append(rows, pair(1, 10, 20)...)
	rows = append(rows, pair(2, 55, 59.999)...)    // the server's record lies in the next minute
	rows = append(rows, pair(3, 118, 119.9995)...) // likewise
	rows = append(rows, long(4, 30, 400)...)       // 7 minutes
	rows = append(rows, pair(5, 200, 201)[:1]...)  // the server has no exporter
	rows = append(rows, pair(6, 210, 211)[1:]...)  // the client has none
	rows = append(rows, pair(1, 4000, 4001)...)    // the same port in the next hour: another connection
	rows[len(rows)-2].Flow, rows[len(rows)-1].Flow = 101, 101
	rows[0].Local, rows[0].Known = "172.17.0.2:33000", rows[0].Local // a container behind a masquerade
	rows[3].Local, rows[3].Known = "172.17.0.3:8080", rows[3].Local  // and one behind a port of its host
	replay := pair(7, 220, 221)                                      // a recording is in no edge
	replay[0].Replay, replay[1].Replay = true, true
	rows = append(rows, replay...)
	records.Load(t, s, t0, rows)
	want := "shop/web\tshop/api\t80\tclient_only\t1\t1\t0\t100\t1000\n" +
		"shop/web\tshop/api\t80\tserver_only\t1\t1\t0\t100\t1000\n" +
		"shop/web\tshop/api\t80\tboth\t5\t5\t0\t" // 4 connections of one record and 14 records of the long one
	want += fmt.Sprintf("%d\t%d\n", 100*(4+14), 1000*(4+14))
	if diff := cmp.Diff(want, edges(t, s, "edges_1m")); diff != "" {
		t.Errorf("from single records (-want +got):\n%s", diff)
	}
	settled(t, s) // else a slow machine rightly computes it again
	r := newRollup(t, s, "c1")
	step(t, r, at(2*3600))
	for _, table := range []string{"edges_1m", "edges_1h", "edges_1m_gens", "edges_1h_gens"} {
		want := want
		if table == "edges_1h_gens" {
			want = strings.Replace(want, "both\t5\t5\t0\t1800\t18000", "both\t4\t4\t0\t1700\t17000", 1) // the second hour is not over
		}
		if diff := cmp.Diff(want, edges(t, s, table)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", table, diff)
		}
	}
	open := schematest.Query(t, s, "SELECT toMinute(minute), sum(open) FROM "+s.Database+".edges_1m GROUP BY minute HAVING sum(open) > 0 ORDER BY minute")
	if open != "0\t1\n1\t1\n2\t1\n3\t1\n4\t1\n5\t1\n" {
		t.Errorf("open connections by minute:\n%s", open)
	}
	closed := schematest.Query(t, s, "SELECT step, count(), uniq(start) FROM "+s.Database+".closed GROUP BY step ORDER BY step")
	step(t, r, at(2*3600))
	if again := schematest.Query(t, s, "SELECT step, count(), uniq(start) FROM "+s.Database+".closed GROUP BY step ORDER BY step"); again != closed {
		t.Errorf("computed again though nothing happened: %s, then %s", closed, again)
	}
}

// TestDuplicatesRenamesAndLateRecords: a record that comes twice changes nothing; one that is late, or is named late, moves everything to
// where it belongs; and another collector does the same work to the same end.
func TestDuplicatesRenamesAndLateRecords(t *testing.T) {
	s := schematest.Migrated(t)
	unnamed := pair(2, 30, 31)[:1]
	unnamed[0].Names[1], unnamed[0].Why = "", flow.WhyPending
	records.Load(t, s, t0, append(pair(1, 10, 20), unnamed...))
	settled(t, s)
	first, second := newRollup(t, s, "c1"), newRollup(t, s, "c2")
	step(t, first, at(2*3600))
	want := "shop/web\t\t80\tclient_only\t1\t1\t0\t100\t1000\n" + "shop/web\tshop/api\t80\tboth\t1\t1\t0\t100\t1000\n"
	for _, table := range []string{"edges_1m", "edges_1h"} {
		if diff := cmp.Diff(want, edges(t, s, table)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", table, diff)
		}
	}
	computedLongAgo(t, s)
	records.Load(t, s, t0, append(pair(1, 10, 20), unnamed...))
	step(t, second, at(2*3600))
	for _, table := range []string{"edges_1m", "edges_1h"} {
		if diff := cmp.Diff(want, edges(t, s, table)); diff != "" {
			t.Errorf("%s after a repeat (-want +got):\n%s", table, diff)
		}
	}
	computedLongAgo(t, s)
	named := unnamed
	named[0].Names[1], named[0].Why, named[0].Version = "shop/api", 0, 7
	records.Load(t, s, t0, append(named, pair(3, 1000, 1001)...))
	step(t, first, at(2*3600))
	step(t, second, at(2*3600))
	want = "shop/web\tshop/api\t80\tclient_only\t1\t1\t0\t100\t1000\n" + "shop/web\tshop/api\t80\tboth\t2\t2\t0\t200\t2000\n"
	for _, table := range []string{"edges_1m", "edges_1h"} {
		if diff := cmp.Diff(want, edges(t, s, table)); diff != "" {
			t.Errorf("%s after late names and records (-want +got):\n%s", table, diff)
		}
	}
}

// TestHalfAComputationIsNotSeen: rows without a commit, and a commit that covers less, change no answer.
func TestHalfAComputationIsNotSeen(t *testing.T) {
	s := schematest.Migrated(t)
	records.Load(t, s, t0, pair(1, 10, 20))
	r := newRollup(t, s, "c1")
	step(t, r, at(2*3600))
	want := edges(t, s, "edges_1m")
	killed := newRollup(t, s, "killed")
	if err := killed.insertMinute(t.Context(), t0, t0.Add(time.Minute), killed.newGen(0), 2); err != nil {
		t.Fatal(err)
	}
	if got := edges(t, s, "edges_1m"); got != want {
		t.Errorf("an uncommitted computation is seen:\n%s", got)
	}
	if err := killed.commit(t.Context(), "minute", due{Start: t0.Unix()}, killed.newGen(0), covered{Rows: 1, Started: "2026-01-01 00:00:00.000"}); err != nil {
		t.Fatal(err)
	}
	if got := edges(t, s, "edges_1m"); got != want {
		t.Errorf("a computation that covers less is the answer:\n%s", got)
	}
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".closed UPDATE started = started - toIntervalHour(2) WHERE 1 SETTINGS mutations_sync = 2")
	clean(t, r, time.Now().Add(2*time.Hour))
	if got := edges(t, s, "edges_1m_gens"); got != want {
		t.Errorf("after cleaning:\n%s", got)
	}
}

func clean(t *testing.T, r *Rollup, now time.Time) {
	t.Helper()
	r.cleaned = now.Add(-3 * time.Hour)
	if err := r.clean(t.Context(), now); err != nil {
		t.Fatal(err)
	}
}

// TestReplacedLately: who has looked up that a computation counts can read it though it is replaced, and another collector cleans, before that.
func TestReplacedLately(t *testing.T) {
	s := schematest.Migrated(t)
	records.Load(t, s, t0, pair(1, 10, 20))
	r := newRollup(t, s, "c1")
	step(t, r, at(2*3600))
	settled(t, s)
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".closed UPDATE started = started - toIntervalHour(2) WHERE 1 SETTINGS mutations_sync = 2")
	counted := schematest.Query(t, s, "SELECT gen FROM "+s.Database+".closed_latest WHERE step = 'minute' ORDER BY start LIMIT 1")
	records.Load(t, s, t0, pair(2, 11, 21))
	step(t, r, at(2*3600))
	gen, err := strconv.ParseInt(strings.TrimSpace(counted), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	left := func(what, want string) {
		t.Helper()
		if got := schematest.Query(t, s, "SELECT sum(connections) FROM "+s.Database+".edges_1m_gens WHERE gen = "+counted); got != want {
			t.Errorf("%s: %s connections are left, want %s", what, got, want)
		}
	}
	clean(t, r, time.Now().Add(2*time.Hour))
	left("replaced now, by the server's clock", "1\n")
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".closed UPDATE started = started - toIntervalHour(2) WHERE 1 SETTINGS mutations_sync = 2")
	clean(t, r, time.Unix(0, gen+1).Add(abandonedIn))
	left("replaced now, by the collector's clock", "1\n")
	clean(t, r, time.Now().Add(2*time.Hour))
	left("replaced long ago", "0\n")
}

// TestFailuresAreToldApart: that cleaning failed is not said of the edges.
func TestFailuresAreToldApart(t *testing.T) {
	s := schematest.Migrated(t)
	schematest.Query(t, s, "DROP TABLE "+s.Database+".reachability_gens")
	var told strings.Builder
	r := New(Config{Every: 10 * time.Millisecond}, s, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&told, nil)))
	r.cleaned = time.Now().Add(-2 * cleanEvery)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	var done sync.WaitGroup
	done.Go(func() { r.Run(ctx) })
	for ctx.Err() == nil && testutil.ToFloat64(r.metrics.errors) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	stop()
	done.Wait()
	if text := told.String(); !strings.Contains(text, "replaced edges not removed") || strings.Contains(text, "not computed") || testutil.ToFloat64(r.metrics.errors) != 1 {
		t.Error(text)
	}
}

// TestClockAhead: an hour whose minutes were computed by a collector with a clock ahead is computed once.
func TestClockAhead(t *testing.T) {
	s := schematest.Migrated(t)
	records.Load(t, s, t0, append(pair(1, 10, 20), pair(2, 4000, 4001)...))
	ahead, r := newRollup(t, s, "ahead"), newRollup(t, s, "c1")
	ahead.gens = uint64(time.Now().Add(time.Hour).UnixNano())
	for _, minute := range []time.Duration{0, time.Hour} {
		if err := ahead.minute(t.Context(), due{Start: t0.Add(minute).Unix()}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if err := r.hours(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".closed WHERE step = 'hour'"); got != "1\n" {
		t.Errorf("the hour was computed %s times", got)
	}
}

func TestSlicesAddUp(t *testing.T) {
	s := schematest.Migrated(t)
	var rows []records.Record
	for i := range uint64(50) {
		rows = append(rows, pair(i, 1, 2)...)
	}
	records.Load(t, s, t0, rows)
	r := newRollup(t, s, "c1")
	gen := r.newGen(0)
	if err := r.insertMinute(t.Context(), t0, t0.Add(time.Minute), gen, 3*sliceRows); err != nil {
		t.Fatal(err)
	}
	if got, want := edges(t, s, "edges_1m_gens"), "shop/web\tshop/api\t80\tboth\t50\t50\t0\t5000\t50000\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestFrozenMinutesAreLeftAlone(t *testing.T) {
	s := schematest.Migrated(t)
	records.Load(t, s, t0, pair(1, 10, 20))
	r := newRollup(t, s, "c1")
	step(t, r, t0.Add(schema.DefaultRawTTL))
	if got := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".closed"); got != "0\n" {
		t.Errorf("%s computations of a frozen minute", got)
	}
	if got := testutil.ToFloat64(r.metrics.tooLate); got != 2 {
		t.Errorf("%g records are too late, want 2", got)
	}
}

func TestWhoRecordedWhat(t *testing.T) {
	s := schematest.Migrated(t)
	rows := pair(1, 10, 20)
	rows[1].Names[1], rows[1].Why = "", flow.WhyGap
	records.Load(t, s, t0, rows)
	want := "a\tshop/web\t1\t{}\nb\tshop/api\t1\t{'gap':1}\n"
	ask := "SELECT exporter_id, workload, records, unnamed FROM " + s.Database + ".recorded_1m ORDER BY ALL"
	if got := schematest.Query(t, s, ask); got != want {
		t.Errorf("from single records: %s", got)
	}
	step(t, newRollup(t, s, "c1"), at(2*3600))
	if got := schematest.Query(t, s, ask); got != want {
		t.Errorf("computed: %s", got)
	}
}

// TestRollupsInEdges: a record that stands for many connections counts as them, once where both ends have summed them up, and as attempts in reachability.
func TestRollupsInEdges(t *testing.T) {
	s := schematest.Migrated(t)
	sum := func(role uint32, stands, fell uint32) records.Record {
		r := records.Record{
			Exporter: "a", Flow: 1, Kind: flow.KindRollup, Role: role, Local: "10.0.0.1:0", Remote: "10.0.0.2:80", Names: [2]string{"shop/web", "shop/api"},
			Start: 1, End: 55, Tx: 1000, Rx: 5000, Observed: stands > 0, Stands: stands, Fell: fell, Reason: flow.CloseRefused,
		}
		if role == flow.RoleServer {
			r.Exporter, r.Local, r.Remote, r.Names, r.Tx, r.Rx = "b", r.Remote, r.Local, [2]string{"shop/api", "shop/web"}, r.Rx, r.Tx
		}
		return r
	}
	rest := sum(flow.RoleClient, 0, 0) // of connections that were opened before
	rest.Flow, rest.Seq = 2, 3
	db := sum(flow.RoleClient, 7, 7)
	db.Flow, db.Remote, db.Names[1] = 3, "10.0.0.3:5432", "shop/db"
	records.Load(t, s, t0, []records.Record{sum(flow.RoleClient, 40, 3), sum(flow.RoleServer, 37, 0), rest, db})
	want := "shop/web\tshop/api\t80\tboth\t40\t0\t3\t2000\t10000\nshop/web\tshop/db\t5432\tclient_only\t7\t0\t7\t1000\t5000\n"
	r := newRollup(t, s, "c1")
	for _, when := range []string{"from single records", "computed"} {
		if diff := cmp.Diff(want, edges(t, s, "edges_1m")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
		got := schematest.Query(t, s, "SELECT server_workload, sum(e.attempts), sum(e.successes), sum(e.failures), sumMap(e.failures_by_cause) FROM "+s.Database+".reachability AS e GROUP BY ALL ORDER BY ALL")
		if diff := cmp.Diff("shop/api\t40\t37\t3\t{'connect.refused':3}\nshop/db\t7\t0\t7\t{'connect.refused':7}\n", got); diff != "" {
			t.Errorf("reachability, %s (-want +got):\n%s", when, diff)
		}
		step(t, r, at(2*3600))
	}
}

// TestOlderThanTheStore: a collector that knows the columns of another version computes nothing and closes nothing, says so, and one of the store's version
// computes all of it afterwards.
func TestOlderThanTheStore(t *testing.T) {
	s := schematest.Migrated(t)
	records.Load(t, s, t0, pair(1, 10, 20))
	settled(t, s)
	table := s.Database + ".edges_1m_gens"
	schematest.Query(t, s, "ALTER TABLE "+table+" RENAME COLUMN rtt_us_histogram TO of_another_version")
	err := newRollup(t, s, "old").Step(t.Context(), at(600))
	if err == nil || !strings.Contains(err.Error(), "No such column rtt_us_histogram in table "+table) {
		t.Error(err)
	}
	if n := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".closed"); n != "0\n" {
		t.Errorf("%s minutes are closed", n)
	}
	schematest.Query(t, s, "ALTER TABLE "+table+" RENAME COLUMN of_another_version TO rtt_us_histogram")
	step(t, newRollup(t, s, "new"), at(600))
	if got, want := edges(t, s, "edges_1m_gens"), "shop/web\tshop/api\t80\tboth\t1\t1\t0\t100\t1000\n"; got != want {
		t.Errorf("healed (-want +got):\n%s", cmp.Diff(want, got))
	}
}
