package schema_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flow"
)

var update = flag.Bool("update", false, "write the golden files and docs/record.md")

func TestMain(m *testing.M) {
	schematest.Main(m)
}

var quiet = slog.New(slog.DiscardHandler)

func TestFieldsAreTheBatchsColumns(t *testing.T) {
	have := map[string]schema.Field{}
	for _, f := range schema.Fields() {
		if _, twice := have[f.Name]; twice {
			t.Errorf("%s is there twice", f.Name)
		}
		if f.Doc == "" || f.Origin == "" || f.Codec == "" || f.Type == "" {
			t.Errorf("%s is not described", f.Name)
		}
		have[f.Name] = f
	}
	headers := []string{"exporter_id", "host", "boot_id", "batch_seq", "received_time_ns"}
	for _, name := range headers {
		if _, ok := have[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for f := range flow.NumU32 {
		if got := have[f.Spec().Name]; got.Source != schema.Column32 || got.U32 != f || got.Name == "" {
			t.Errorf("%s is not described", f.Spec().Name)
		}
	}
	for f := range flow.NumU64 {
		if got := have[f.Spec().Name]; got.Source != schema.Column64 || got.U64 != f {
			t.Errorf("%s is not described", f.Spec().Name)
		}
	}
	if want := int(flow.NumU32) + int(flow.NumU64) + len(headers); len(have) != want {
		t.Errorf("%d fields, want %d", len(have), want)
	}
}

// golden compares text with a file, or writes it.
func golden(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Errorf("%s is not what the table of fields says; run: go test ./collector/schema -update", file)
	}
}

func TestGoldenDDL(t *testing.T) {
	ddl, err := schema.DDL(schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/schema.sql", ddl)
}

// TestClusterDDL: what a cluster gets is made of the same statements. It cannot be run here.
func TestClusterDDL(t *testing.T) {
	ddl, err := schema.ClusterDDL(schema.Options{}, "main")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range schema.Tables() {
		if !strings.Contains(ddl, " tributary."+name+" ON CLUSTER main") {
			t.Errorf("%s is not made on the cluster", name)
		}
	}
	for _, want := range []string{
		"UNTESTED", "CREATE TABLE IF NOT EXISTS tributary.flows_raw_local ON CLUSTER main\n",
		"ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/tributary/flows_raw', '{replica}', version)",
		"ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/tributary/edges_1m_gens', '{replica}')",
		"ENGINE = Distributed(main, tributary, closed_local, cityHash64((step, start, gen)))", "ALTER TABLE tributary.closed_local ON CLUSTER main MODIFY TTL",
		"FROM tributary.flows_raw_local GROUP BY at",
	} {
		if !strings.Contains(ddl, want) {
			t.Errorf("there is no %q", want)
		}
	}
	if strings.Contains(ddl, "non_replicated") {
		t.Error("a setting of tables that are not replicated is left")
	}
	for _, name := range []string{"", "a b", "'; DROP TABLE flows --"} {
		if _, err := schema.ClusterDDL(schema.Options{}, name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func TestRecordDocs(t *testing.T) { golden(t, "../../docs/record.md", schema.RecordDocs()) }

func TestOptions(t *testing.T) {
	for name, o := range map[string]schema.Options{
		"database":  {Database: "a; DROP TABLE flows --"},
		"ttl":       {RawTTL: time.Minute},
		"ttl parts": {RawTTL: 90 * time.Minute},
	} {
		if _, err := schema.Migrations(o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestParseServer(t *testing.T) {
	for raw, want := range map[string]string{
		"http://ch":                      "http://ch:8123 tributary  ",
		"https://u:p%40@ch.example/db":   "https://ch.example:8443 db u p@",
		"http://[::1]:9000/":             "http://[::1]:9000 tributary  ",
		"ch:8123":                        "error",
		"tcp://ch:9000":                  "error",
		"http://ch/a-b":                  "error",
		"http://ch/a%3B%20DROP%20TABLE":  "error",
		"http://u:secret@[broken":        "error",
		"http://127.0.0.1:8123/tribu_2":  "http://127.0.0.1:8123 tribu_2  ",
		"http://127.0.0.1:8123/?query=x": "http://127.0.0.1:8123 tributary  ",
	} {
		s, err := schema.ParseServer(raw)
		got := fmt.Sprintf("%s %s %s %s", s.URL, s.Database, s.User, s.Password)
		if err != nil {
			got = "error"
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: the error shows the password", raw)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q (%v)", raw, got, want, err)
		}
	}
}

func TestMigrateTwiceAndAtOnce(t *testing.T) {
	s := schematest.Server(t)
	var group sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		group.Go(func() { errs[i] = schema.Migrate(t.Context(), s, schema.Options{}, quiet) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	if got := schematest.Query(t, s, "SELECT version, name FROM "+s.Database+".schema_migrations FINAL ORDER BY version"); got != steps(t) {
		t.Errorf("schema_migrations: %q", got)
	}
	tables := schematest.Query(t, s, "SELECT name FROM system.tables WHERE database = '"+s.Database+"' ORDER BY name")
	want := slices.Sorted(slices.Values(schema.Tables()))
	if tables != strings.Join(want, "\n")+"\n" {
		t.Errorf("tables: %q", tables)
	}
	var columns strings.Builder
	for _, f := range schema.Fields() {
		fmt.Fprintf(&columns, "%s\t%s\t%s\n", f.Name, f.Type, f.Doc)
	}
	if got := schematest.Query(t, s, "SELECT name, type, comment FROM system.columns WHERE table = 'flows_raw' AND database = '"+s.Database+"' ORDER BY position"); got != columns.String() {
		t.Errorf("columns of flows_raw:\n%s", got)
	}
	names := strings.Join(schema.Names(), "\n") + "\n"
	if got := schematest.Query(t, s, "SELECT name FROM system.columns WHERE table = 'flows' AND database = '"+s.Database+"' ORDER BY position"); got != names {
		t.Errorf("columns of flows:\n%s", got)
	}
}

func TestMigrateAfterAFailureInItsMiddle(t *testing.T) {
	s := schematest.Migrated(t)
	schematest.Query(t, s, "DROP VIEW "+s.Database+".edges")
	schematest.Query(t, s, "TRUNCATE TABLE "+s.Database+".schema_migrations")
	if err := schema.Migrate(t.Context(), s, schema.Options{}, quiet); err != nil {
		t.Fatal(err)
	}
	schematest.Query(t, s, "SELECT * FROM "+s.Database+".edges")
}

// TestMigrateFromEachRelease: testdata/states holds what a release left behind, statements and rows; from there everything becomes what
// a new database has, though several collectors begin at once, and the rows are still there.
func TestMigrateFromEachRelease(t *testing.T) {
	const describe = "SELECT table, name, type FROM system.columns WHERE database = '%s' ORDER BY table, position"
	fresh := schematest.Migrated(t)
	want := schematest.Query(t, fresh, fmt.Sprintf(describe, fresh.Database))
	states, err := filepath.Glob("testdata/states/*.sql")
	if err != nil || len(states) == 0 {
		t.Fatalf("no states: %v", err)
	}
	for _, file := range states {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := schematest.Server(t)
		for statement := range strings.SplitSeq(strings.ReplaceAll(string(text), "$database", s.Database), ";\n") {
			if strings.TrimSpace(statement) != "" {
				schematest.Query(t, s, statement)
			}
		}
		var group sync.WaitGroup
		errs := make([]error, 3)
		for i := range errs {
			group.Go(func() { errs[i] = schema.Migrate(t.Context(), s, schema.Options{}, quiet) })
		}
		group.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if got := schematest.Query(t, s, fmt.Sprintf(describe, s.Database)); got != want {
			t.Errorf("%s: columns after the migration:\n%s", file, got)
		}
		if got := schematest.Query(t, s, "SELECT sum(connections) FROM "+s.Database+".edges"); got != "3\n" {
			t.Errorf("%s: %s of 3 connections are left", file, got)
		}
		if got := schematest.Query(t, s, "SELECT uniq(minute) FROM "+s.Database+".touched"); got == "0\n" {
			t.Errorf("%s: no minute is going to be computed", file)
		}
		if filepath.Base(file) == "0014.sql" {
			checkTakenOver(t, s)
		}
	}
}

// checkTakenOver: histograms have what the states of migration 14 had, 1 to 1000 µs and 1 to 100, once in a minute and once in an hour.
func checkTakenOver(t *testing.T, s schema.Server) {
	t.Helper()
	if got := schematest.Query(t, s, "SELECT rtt_us_p50, rtt_us_p95, rtt_us_p99, connect_us_p50, connect_us_p95 FROM "+s.Database+".edges WHERE rtt_us_p50 > 0"); got != "512\t891\t1024\t49\t97\n" {
		t.Errorf("quantiles: %s", got)
	}
	for _, table := range []string{"edges_1m_gens", "edges_1h_gens"} {
		got := schematest.Query(t, s, "SELECT arraySum(mapValues(rtt_us_histogram)), rtt_us_histogram[45], arraySum(mapValues(connect_us_histogram)) FROM "+s.Database+"."+table)
		if want := "1000\t71\t100\n"; got != want {
			t.Errorf("%s: %q, want %q", table, got, want)
		}
	}
}

// TestQuantiles: those of edges are within 7.2 % of the exact ones, whatever the times are like, and as many rows as there are.
func TestQuantiles(t *testing.T) {
	s := schematest.Migrated(t)
	r := rand.New(rand.NewPCG(1, 2))
	const n = 2000
	for name, draw := range map[string]func() float64{
		"lognormal":    func() float64 { return 150 * math.Exp(r.NormFloat64()) },
		"two humps":    func() float64 { return []float64{90, 60_000}[r.IntN(2)] * (1 + r.Float64()/5) },
		"all the same": func() float64 { return 12_345 },
		"wide":         func() float64 { return math.Exp2(3 + 29*r.Float64()) },
	} {
		micros := make([]uint32, n)
		for i := range micros {
			micros[i] = uint32(min(draw(), math.MaxUint32))
		}
		schematest.Query(t, s, fmt.Sprintf(`INSERT INTO %s.flows_raw (exporter_id, flow_id, kind, role, start_observed, local_addr, local_port, remote_addr, remote_port, local_workload, remote_workload,
start_time_ns, end_time_ns, srtt_us) SELECT '%s', number, 'closed', 'client', true, '::1', number, '::2', 80, '%[2]s', 'shop/api', now64(9), now64(9), %[3]s[number + 1] FROM numbers(%[4]d)`,
			s.Database, name, strings.ReplaceAll(fmt.Sprint(micros), " ", ","), n))
		slices.Sort(micros)
		var got [3]float64
		answer := schematest.Query(t, s, "SELECT rtt_us_p50, rtt_us_p95, rtt_us_p99 FROM "+s.Database+".edges WHERE client_workload = '"+name+"'")
		if _, err := fmt.Sscan(answer, &got[0], &got[1], &got[2]); err != nil {
			t.Fatalf("%s: %q: %v", name, answer, err)
		}
		for i, q := range []float64{0.5, 0.95, 0.99} {
			exact := float64(micros[int(math.Ceil(q*n))-1])
			if off := math.Abs(got[i] - exact); off > exact*0.072+0.5 {
				t.Errorf("%s: quantile %g is %g, and exactly %g", name, q, got[i], exact)
			}
		}
	}
}

func TestMigrateFollowsTheTTL(t *testing.T) {
	s := schematest.Migrated(t)
	for range 2 {
		if err := schema.Migrate(t.Context(), s, schema.Options{RawTTL: 48 * time.Hour}, quiet); err != nil {
			t.Fatal(err)
		}
	}
	got := schematest.Query(t, s, "SELECT engine_full FROM system.tables WHERE name = 'flows_raw' AND database = '"+s.Database+"'")
	if !strings.Contains(got, "toIntervalHour(48)") || !strings.Contains(got, "fsync_after_insert = 1") {
		t.Errorf("engine: %s", got)
	}
}

// TestSkipIndexes: look-ups through the view use them.
func TestSkipIndexes(t *testing.T) {
	s := schematest.Migrated(t)
	schematest.Query(t, s, "INSERT INTO "+s.Database+".flows_raw (exporter_id, flow_id, local_addr, remote_addr, end_time_ns) SELECT 'e', 1, '::1', '::2', now64(9)")
	for condition, index := range map[string]string{
		"local_addr = toIPv6('::9')": "local_addr_filter", "remote_addr IN (toIPv6('::8'), toIPv6('::9'))": "remote_addr_filter", "flow_id = 7": "flow_filter",
	} {
		plan := schematest.Query(t, s, "EXPLAIN indexes = 1 SELECT host FROM "+s.Database+".flows WHERE "+condition)
		if !strings.Contains(plan, "Name: "+index) || !strings.Contains(plan, "Granules: 0/1") {
			t.Errorf("%s does not use %s:\n%s", condition, index, plan)
		}
	}
}

// TestMinuteRanges: a condition on the time alone reads what it asks for, through the views too.
func TestMinuteRanges(t *testing.T) {
	s := schematest.Migrated(t)
	for table, step := range map[string]string{"edges_1m_gens": "minute", "edges_1h_gens": "hour", "recorded_1m_gens": "minute", "reachability_gens": "minute"} {
		kept := s.Database + "." + table
		schematest.Query(t, s, fmt.Sprintf("INSERT INTO %s (%s, gen) SELECT now('UTC') - toIntervalHour(2 * number), 1 FROM numbers(2)", kept, step))
		plan := schematest.Query(t, s, fmt.Sprintf("EXPLAIN indexes = 1 SELECT count() FROM %s WHERE %s >= now('UTC') - toIntervalMinute(1)", strings.TrimSuffix(kept, "_gens"), step))
		if !strings.Contains(plan, "Name: "+step+"_range") {
			t.Errorf("%s reads everything:\n%s", table, plan)
		}
		if step == "hour" || table == "edges_1m_gens" {
			plan = schematest.Query(t, s, fmt.Sprintf("EXPLAIN indexes = 1 SELECT count() FROM %s WHERE client_workload = 'a/b' OR server_workload = 'a/b'", kept))
			if !strings.Contains(plan, "Name: ends_filter") {
				t.Errorf("%s reads everything for one workload:\n%s", table, plan)
			}
		}
	}
}

// steps are all migrations as schema_migrations lists them.
func steps(t *testing.T) string {
	t.Helper()
	all, err := schema.Migrations(schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, m := range all {
		fmt.Fprintf(&b, "%d\t%s\n", m.Version, m.Name)
	}
	return b.String()
}

func TestMigrateRefuses(t *testing.T) {
	t.Run("a newer database", func(t *testing.T) {
		s := schematest.Migrated(t)
		schematest.Query(t, s, "INSERT INTO "+s.Database+".schema_migrations (version, name) SELECT 99, 'future'")
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if !errors.Is(err, schema.ErrNewer) || !strings.Contains(err.Error(), fmt.Sprintf("version 99 and this program knows %d", strings.Count(steps(t), "\n"))) {
			t.Error(err)
		}
	})
	t.Run("a table changed by hand", func(t *testing.T) {
		s := schematest.Migrated(t)
		schematest.Query(t, s, "ALTER TABLE "+s.Database+".flows_raw DROP COLUMN comm")
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "column comm should be LowCardinality(String)") {
			t.Error(err)
		}
	})
	t.Run("a wrong password", func(t *testing.T) {
		s := schematest.Server(t)
		s.Password = "wrong"
		err := schema.Migrate(t.Context(), s, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "516") && !strings.Contains(err.Error(), "AUTHENTICATION_FAILED") || strings.Contains(err.Error(), "wrong") {
			t.Error(err)
		}
	})
	t.Run("an old server", func(t *testing.T) {
		old := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "18.16.1") }))
		defer old.Close()
		err := schema.Migrate(t.Context(), schema.Server{URL: old.URL, Database: "tributary"}, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "has version 18.16.1; Tributary needs 23.9 or later") {
			t.Error(err)
		}
	})
	t.Run("another kind of server", func(t *testing.T) {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "<html>") }))
		defer web.Close()
		err := schema.Migrate(t.Context(), schema.Server{URL: web.URL, Database: "tributary"}, schema.Options{}, quiet)
		if err == nil || !strings.Contains(err.Error(), "is not ClickHouse") {
			t.Error(err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		err := schema.Migrate(context.Background(), schema.Server{URL: "http://127.0.0.1:1", Database: "tributary"}, schema.Options{}, quiet)
		want := "the ClickHouse server at http://127.0.0.1:1 does not answer (dial tcp 127.0.0.1:1: connect: connection refused): is it running, and is the URL right?"
		if err == nil || err.Error() != want {
			t.Error(err)
		}
	})
}
