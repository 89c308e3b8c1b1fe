package clickhouse

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flow"
)

// readBack compares every column of every row with the batches.
func readBack(t *testing.T, s schema.Server, table string, batches ...*flow.Batch) {
	t.Helper()
	got := strings.Split(strings.TrimSuffix(schematest.Query(t, s,
		"SELECT "+strings.Join(schema.Names(), ", ")+" FROM "+s.Database+"."+table+" ORDER BY flow_id, version SETTINGS session_timezone = 'UTC'"), "\n"), "\n")
	row := 0
	for _, b := range batches {
		for i := range b.Rows {
			if row >= len(got) {
				t.Fatalf("%d rows are not all", len(got))
			}
			cells := strings.Split(got[row], "\t")
			for c, f := range schema.Fields() {
				if want := cell(b, f, i); cells[c] != want {
					t.Fatalf("row %d: %s is %q, want %q", row, f.Name, cells[c], want)
				}
			}
			row++
		}
	}
	if row != len(got) {
		t.Errorf("%d rows, want %d", len(got), row)
	}
}

func TestEngineReadsBackEveryColumn(t *testing.T) {
	for _, how := range []Compression{CompressionNone, CompressionLZ4, CompressionZSTD} {
		t.Run(string(how), func(t *testing.T) {
			server := schematest.Migrated(t)
			s, registry := start(t, Config{Server: server, BlockAge: 20 * time.Millisecond, Compression: how})
			var batches []*flow.Batch
			for i := range 5 {
				b := makeBatch(i, 200, uint64(1+i*200), day)
				if i == 2 {
					keep := [][]uint64{b.U64[flow.FlowID], b.U64[flow.EndTimeNs]}
					b.U32, b.U64 = [flow.NumU32][]uint32{}, [flow.NumU64][]uint64{}
					b.U64[flow.FlowID], b.U64[flow.EndTimeNs] = keep[0], keep[1]
				}
				batches = append(batches, b)
				await(t, write(s, b), nil)
			}
			readBack(t, server, "flows", batches...)
			if got := books(t, registry)["written_rows_total"]; got != 1000 {
				t.Errorf("%v rows written", got)
			}
		})
	}
}

func TestEngineStoresARepeatedBlockOnce(t *testing.T) {
	server := schematest.Migrated(t)
	b, _ := newBlock()
	b.add(makeBatch(1, 1000, 1, day), &ticket{})
	var buf proto.Buffer
	if err := b.encode(&buf); err != nil {
		t.Fatal(err)
	}
	c := newClient(Config{Server: server}.withDefaults())
	defer c.close()
	for range 3 {
		if err := c.insert(t.Context(), "one-token", buf.Buf, 1000); err != nil {
			t.Fatal(err)
		}
	}
	if got := schematest.Query(t, server, "SELECT count() FROM "+server.Database+".flows_raw"); got != "1000\n" {
		t.Errorf("%s rows", got)
	}
}

// TestEngineShowsEachRecordOnce sends the same rows in other groups, as another collector would, and renames some.
func TestEngineShowsEachRecordOnce(t *testing.T) {
	server := schematest.Migrated(t)
	b := makeBatch(1, 600, 1, day)
	for i := range b.U32[flow.Version] {
		b.U32[flow.Version][i] = 1
	}
	parts := func(size int) (out []*flow.Batch) {
		for from := 0; from < b.Rows; from += size {
			var rows []int
			for i := from; i < min(from+size, b.Rows); i++ {
				rows = append(rows, i)
			}
			out = append(out, b.Select(rows))
		}
		return out
	}
	for _, size := range []int{600, 250, 100} {
		s, _ := start(t, Config{Server: server, BlockRows: size, BlockAge: time.Millisecond})
		for _, p := range parts(size) {
			await(t, write(s, p), nil)
		}
	}
	// the higher version comes first and the lower one again after it
	named := b.Select([]int{10, 20})
	for i := range named.Rows {
		named.U32[flow.Version][i] = 7
		named.U32[flow.RemoteWorkload][i] = 3
	}
	s, _ := start(t, Config{Server: server, BlockAge: time.Millisecond})
	await(t, write(s, named), nil)
	await(t, write(s, b.Select([]int{10, 20})), nil)

	got := schematest.Query(t, server, "SELECT count(), uniqExact(flow_id) FROM "+server.Database+".flows")
	if got != "600\t600\n" {
		t.Errorf("rows and records: %s", got)
	}
	got = schematest.Query(t, server, "SELECT flow_id, version, remote_workload FROM "+server.Database+".flows WHERE version > 1 ORDER BY flow_id")
	want := fmt.Sprintf("11\t7\t%[1]s\n21\t7\t%[1]s\n", b.AttrStrings[3])
	if got != want {
		t.Errorf("renamed rows %q, want %q", got, want)
	}
}

// TestEngineHasEveryRowOnceWhenAnswersAreLost puts a proxy before the engine that passes an insert on and cuts the connection before
// the answer, again and again.
func TestEngineHasEveryRowOnceWhenAnswersAreLost(t *testing.T) {
	server := schematest.Migrated(t)
	target, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	var n atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1)%3 == 0 {
			forward.ServeHTTP(w, r)
			return
		}
		forward.ServeHTTP(httptest.NewRecorder(), r)
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			conn.Close()
		}
	}))
	defer proxy.Close()
	cutting := server
	cutting.URL = proxy.URL
	s, registry := start(t, Config{Server: cutting, BlockRows: 500, BlockAge: 10 * time.Millisecond})
	var all []chan error
	for i := range 10 {
		all = append(all, write(s, makeBatch(i, 500, uint64(1+i*500), day)))
	}
	for _, done := range all {
		await(t, done, nil)
	}
	got := schematest.Query(t, server, "SELECT count(), uniqExact(flow_id) FROM "+server.Database+".flows_raw")
	if got != "5000\t5000\n" {
		t.Errorf("rows and records: %s", got)
	}
	if b := books(t, registry); b["written_rows_total"] != 5000 || b["retries_total transient"] < 10 || b["pending_rows"] != 0 {
		t.Errorf("books %v", b)
	}
}

func TestEngineRefusesWithAReason(t *testing.T) {
	server := schematest.Server(t) // nobody has migrated it
	s, _ := start(t, Config{Server: server, BlockAge: time.Millisecond})
	done := write(s, makeBatch(1, 10, 1, day))
	for s.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := s.Ready(); !strings.Contains(err.Error(), "refuses an insert") || !strings.Contains(err.Error(), server.Database) {
		t.Error(err)
	}
	select {
	case err := <-done:
		t.Errorf("done got %v", err)
	default:
	}
}

func TestEngineStoresALargeBlockAsOnePart(t *testing.T) {
	server := schematest.Migrated(t)
	s, _ := start(t, Config{Server: server, BlockAge: time.Hour})
	var last chan error
	for i := range 100 {
		last = write(s, makeBatch(i, 1000, uint64(i*1000), day))
	}
	await(t, last, nil)
	got := schematest.Query(t, server, "SELECT count(), sum(rows) FROM system.parts WHERE active AND database = '"+server.Database+"' AND table = 'flows_raw'")
	if got != "1\t100000\n" {
		t.Errorf("parts and rows: %s", got)
	}
}

// BenchmarkEngine is the time of a row from Write to the engine's answer, and the engine's CPU for it, merges included.
func BenchmarkEngine(b *testing.B) {
	server := schematest.Server(b)
	if err := schema.Migrate(b.Context(), server, schema.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Server: server}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err == nil {
		err = s.Start(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	var batches []*flow.Batch
	for i := range 100 {
		batches = append(batches, makeBatch(i, 1000, uint64(i*1000), day))
	}
	before, rows := engineCPU(b, server), uint64(0)
	for b.Loop() {
		for _, batch := range batches {
			s.Write(batch, func(error) {})
			rows += uint64(batch.Rows)
		}
	}
	if err := s.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
	b.ReportMetric(float64(engineCPU(b, server)-before)/float64(rows), "engine-ns/row")
}

// engineCPU returns the engine's CPU time in ns.
func engineCPU(b *testing.B, server schema.Server) uint64 {
	text := schematest.Query(b, server, "SELECT sum(value) FROM system.events WHERE event IN ('UserTimeMicroseconds', 'SystemTimeMicroseconds')")
	us, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return us * 1000
}
