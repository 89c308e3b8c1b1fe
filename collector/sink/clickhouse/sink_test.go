package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

// request is one insert that a fake server got.
type request struct {
	query url.Values
	body  string
	rows  int
}

// fake is a ClickHouse that remembers inserts and answers as told.
type fake struct {
	*httptest.Server
	mu     sync.Mutex
	got    []request
	answer func(n int, w http.ResponseWriter) // n counts requests from 1; nil answers 200
}

func newFake(t *testing.T, answer func(n int, w http.ResponseWriter)) *fake {
	t.Helper()
	f := &fake{answer: answer}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		_, rows := decodeBlock(t, body)
		f.mu.Lock()
		f.got = append(f.got, request{query: r.URL.Query(), body: string(body), rows: len(rows)})
		n := len(f.got)
		f.mu.Unlock()
		if f.answer != nil {
			f.answer(n, w)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) requests() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]request(nil), f.got...)
}

func (f *fake) server() schema.Server { return schema.Server{URL: f.URL, Database: "tributary"} }

func start(t *testing.T, cfg Config) (*Sink, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	s, err := New(cfg, registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s, registry
}

// write hands a batch over and returns where its answer will be.
func write(s *Sink, b *flow.Batch) chan error {
	done := make(chan error, 2)
	s.Write(b, func(err error) { done <- err })
	return done
}

func await(t *testing.T, done chan error, want error) {
	t.Helper()
	select {
	case err := <-done:
		if !errors.Is(err, want) {
			t.Fatalf("done got %v, want %v", err, want)
		}
	case <-time.After(time.Minute):
		t.Fatal("no answer in a minute")
	}
}

// books returns every counter and gauge that is not zero.
func books(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), "tributary_collector_clickhouse_")
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if m.Histogram != nil {
				v = float64(m.GetHistogram().GetSampleCount())
			}
			if v != 0 && name != "inserted_bytes_total" {
				out[name] = v
			}
		}
	}
	return out
}

func checkBooks(t *testing.T, r *prometheus.Registry, want map[string]float64) {
	t.Helper()
	if diff := cmp.Diff(want, books(t, r)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestOneBlockIsOneInsert(t *testing.T) {
	f := newFake(t, nil)
	s, registry := start(t, Config{Server: f.server(), BlockRows: 1000, BlockAge: time.Hour})
	var all []chan error
	for i := range 7 {
		b := makeBatch(i, 300, uint64(i*300), day)
		all = append(all, write(s, b))
		b.Reset() // Write has copied
	}
	for _, done := range all[:6] {
		await(t, done, nil)
	}
	if s.Ready() != nil {
		t.Errorf("ready %v", s.Ready())
	}
	if err := s.Close(t.Context()); err != nil { // the end of what was begun
		t.Error(err)
	}
	await(t, all[6], nil)
	got := f.requests()
	rows := []int{}
	tokens := map[string]bool{}
	for _, r := range got {
		rows = append(rows, r.rows)
		tokens[r.query.Get("insert_deduplication_token")] = true
		want := "INSERT INTO tributary.flows_raw (" + strings.Join(schema.Names(), ", ") + ") FORMAT Native"
		if r.query.Get("query") != want || r.query.Get("async_insert") != "0" || r.query.Get("max_insert_threads") != "1" {
			t.Errorf("query %v", r.query)
		}
	}
	if total := rows[0] + rows[len(rows)-1] + rows[1]; len(got) != 3 || total != 2100 || len(tokens) != 3 {
		t.Errorf("inserts of %v rows under %d tokens", rows, len(tokens))
	}
	if s.Pending() != 0 {
		t.Errorf("pending %d", s.Pending())
	}
	checkBooks(t, registry, map[string]float64{
		"received_rows_total": 2100, "written_rows_total": 2100, "inserts_total": 3, "insert_duration_seconds": 3, "insert_rows": 3,
	})
}

func TestBlocksAreCutAtTheDay(t *testing.T) {
	f := newFake(t, nil)
	s, _ := start(t, Config{Server: f.server(), BlockAge: 30 * time.Millisecond, Inserters: 1})
	b := makeBatch(1, 90, 1, day)
	for i := range b.U64[flow.EndTimeNs] {
		b.U64[flow.EndTimeNs][i] = day + uint64(i%6)*dayNs // more days than blocks may be open
	}
	await(t, write(s, b), nil)
	total := 0
	for _, r := range f.requests() {
		total += r.rows
		_, rows := decodeBlock(t, []byte(r.body))
		for _, row := range rows {
			if row["end_time_ns"][:10] != rows[0]["end_time_ns"][:10] {
				t.Fatalf("a block of %s and %s", row["end_time_ns"], rows[0]["end_time_ns"])
			}
		}
	}
	if total != 90 || len(f.requests()) != 6 {
		t.Errorf("%d rows in %d inserts", total, len(f.requests()))
	}
}

func TestRetriesSendTheSameBytes(t *testing.T) {
	refuse := func(status, code int, text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			if code != 0 {
				w.Header().Set("X-ClickHouse-Exception-Code", fmt.Sprint(code))
			}
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}
	}
	cut := func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter)
		say    string
	}{
		"500":             {refuse(500, 0, ""), "refuses an insert: HTTP status 500"},
		"too many parts":  {refuse(500, 252, "Code: 252. DB::Exception: Too many parts"), "Too many parts"},
		"disk full":       {refuse(500, 243, "Code: 243. DB::Exception: No space left\n"), "its disk is full: Code: 243"},
		"200 but failed":  {refuse(200, 0, "Code: 241. DB::Exception: Memory limit"), "Memory limit"},
		"cut after taken": {cut, "does not answer (EOF)"},
	} {
		t.Run(name, func(t *testing.T) {
			var sink *Sink
			ready := make(chan error, 1)
			f := newFake(t, func(n int, w http.ResponseWriter) {
				if n == 3 {
					ready <- sink.Ready()
					return
				}
				c.answer(w)
			})
			s, registry := start(t, Config{Server: f.server(), BlockAge: time.Millisecond, Inserters: 1})
			sink = s
			await(t, write(s, makeBatch(1, 100, 1, day)), nil)
			got := f.requests()
			if len(got) < 3 || got[0].body != got[2].body || got[0].query.Encode() != got[2].query.Encode() {
				t.Errorf("%d requests that differ", len(got))
			}
			if err := <-ready; err == nil || !strings.Contains(err.Error(), c.say) || strings.Contains(err.Error(), "\n") {
				t.Errorf("while failing, Ready says %v", err)
			}
			if s.Ready() != nil {
				t.Errorf("after the recovery, Ready says %v", s.Ready())
			}
			checkBooks(t, registry, map[string]float64{
				"received_rows_total": 100, "written_rows_total": 100, "retries_total transient": 2, "inserts_total": 1,
				"insert_duration_seconds": 1, "insert_rows": 1,
			})
		})
	}
}

func TestAShortInsertIsRepeatedUnderANewToken(t *testing.T) {
	f := newFake(t, func(n int, w http.ResponseWriter) {
		w.Header().Set("X-ClickHouse-Summary", map[bool]string{true: `{"written_rows":"60"}`, false: `{"written_rows":"100"}`}[n == 1])
	})
	s, registry := start(t, Config{Server: f.server(), BlockAge: time.Millisecond})
	await(t, write(s, makeBatch(1, 100, 1, day)), nil)
	got := f.requests()
	if len(got) != 2 || got[0].body != got[1].body || got[0].query.Get("insert_deduplication_token") == got[1].query.Get("insert_deduplication_token") {
		t.Errorf("%d requests", len(got))
	}
	checkBooks(t, registry, map[string]float64{
		"received_rows_total": 100, "written_rows_total": 100, "retries_total short": 1, "inserts_total": 1,
		"insert_duration_seconds": 1, "insert_rows": 1,
	})
}

func TestWhatMustBeRepairedKeepsTheRows(t *testing.T) {
	f := newFake(t, func(_ int, w http.ResponseWriter) {
		w.Header().Set("X-ClickHouse-Exception-Code", "60")
		w.WriteHeader(404)
		fmt.Fprint(w, "Code: 60. DB::Exception: Unknown table (UNKNOWN_TABLE)")
	})
	s, registry := start(t, Config{Server: f.server(), BlockAge: time.Millisecond, Inserters: 1})
	done := write(s, makeBatch(1, 100, 1, day))
	for s.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "100 rows") {
		t.Errorf("Close: %v", err)
	}
	await(t, done, ErrClosed)
	if len(f.requests()) != 1 {
		t.Errorf("%d tries in a moment", len(f.requests()))
	}
	checkBooks(t, registry, map[string]float64{
		"received_rows_total": 100, "dropped_rows_total closed": 100, "retries_total repair": 1, "failing": 1,
	})
}

func TestUnreachable(t *testing.T) {
	s, _ := start(t, Config{Server: schema.Server{URL: "http://127.0.0.1:1", Database: "tributary"}, BlockAge: time.Millisecond})
	done := write(s, makeBatch(1, 10, 1, day))
	for s.Ready() == nil {
		time.Sleep(time.Millisecond)
	}
	want := "the ClickHouse server at http://127.0.0.1:1 does not answer (dial tcp 127.0.0.1:1: connect: connection refused): is it running, and is the URL right?"
	if got := s.Ready().Error(); got != want {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.Close(ctx)
	await(t, done, ErrClosed)
}

func TestWriteWaitsForRoom(t *testing.T) {
	release := make(chan struct{})
	f := newFake(t, func(int, http.ResponseWriter) { <-release })
	s, _ := start(t, Config{Server: f.server(), BlockAge: time.Hour, MaxPendingBytes: 40_000, Inserters: 1})
	first := write(s, makeBatch(1, 100, 1, day))
	second := make(chan chan error)
	go func() { second <- write(s, makeBatch(2, 100, 101, day)) }()
	select {
	case <-second:
		t.Fatal("Write did not wait")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	await(t, first, nil)
	done := <-second
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	await(t, done, nil)
}

func TestCloseEarlyLateAndTwice(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, err := New(Config{Server: schema.Server{URL: "http://127.0.0.1:1", Database: "tributary"}}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	before := write(s, makeBatch(1, 10, 1, day)) // never started
	if err := s.Close(t.Context()); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	await(t, before, ErrClosed)
	await(t, write(s, makeBatch(1, 10, 1, day)), ErrClosed)
	_ = s.Close(t.Context())
	if s.Start(t.Context()) == nil {
		t.Error("a closed sink started")
	}
	if s.Pending() != 0 {
		t.Errorf("%d bytes pending", s.Pending())
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := schema.Server{URL: "http://h:1", Database: "d"}
	for name, c := range map[string]Config{
		"no server":      {},
		"password":       {Server: schema.Server{URL: "http://u:p@h:1", Database: "d"}},
		"database":       {Server: schema.Server{URL: "http://h:1", Database: "d; DROP"}},
		"rows":           {Server: good, BlockRows: -1},
		"compression":    {Server: good, Compression: "gzip"},
		"inserters":      {Server: good, Inserters: 99},
		"negative bytes": {Server: good, MaxPendingBytes: -5},
	} {
		if _, err := New(c, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c := (Config{Server: good}).withDefaults(); c.Compression != CompressionLZ4 {
		t.Error("no compression over a network")
	}
}
