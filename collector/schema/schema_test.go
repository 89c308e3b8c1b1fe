package schema_test

import (
	"flag"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
