package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/sink/clickhouse"
	"tributary/proto/flow"
)

// unmigrated returns the engine with an empty database tributary: the embedded store shows readers no other, so tests take turns with it.
func unmigrated(t *testing.T) schema.Server {
	t.Helper()
	s := schematest.Server(t)
	s.Database = schema.DefaultDatabase
	t.Cleanup(func() {
		for _, name := range []string{"edges", "flows", "flows_raw", "schema_migrations"} {
			schematest.Query(t, s, "DROP TABLE IF EXISTS tributary."+name)
		}
	})
	return s
}

func migrated(t *testing.T) schema.Server {
	t.Helper()
	s := unmigrated(t)
	if err := schema.Migrate(t.Context(), s, schema.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMain(m *testing.M) { schematest.Main(m) }

var t0 = time.Now().UTC().Truncate(time.Second).Add(-10 * time.Minute)

func clock() time.Time { return t0.Add(10 * time.Minute) }

// record is one flow record of the tests' world.
type record struct {
	exporter      string
	flow          uint64
	seq           uint32
	kind, role    uint32
	local, remote string // address:port
	names         [2]string
	why           uint32
	start, end    float64 // seconds after t0
	tx, rx        uint64
	reason, state uint32
	observed      bool
}

// world is a client and a server that both have an exporter, a client without a server's exporter, a caller from outside that only the
// server saw, a path that refuses and one that does not answer.
func world() []record {
	both := func(i uint64, port string, start float64) []record {
		return []record{
			{exporter: "a", flow: i, kind: flow.KindActive, role: flow.RoleClient, local: "10.0.0.1:" + port, remote: "10.0.0.2:80", names: [2]string{"shop/web", "shop/api"}, start: start, end: start + 5, tx: 100, rx: 1000, state: 1, observed: true},
			{exporter: "a", flow: i, seq: 1, kind: flow.KindClosed, role: flow.RoleClient, local: "10.0.0.1:" + port, remote: "10.0.0.2:80", names: [2]string{"shop/web", "shop/api"}, start: start, end: start + 9, tx: 10, rx: 100, reason: flow.CloseFinLocal, observed: true},
			{exporter: "b", flow: i, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "10.0.0.1:" + port, names: [2]string{"shop/api", "shop/web"}, start: start + 0.001, end: start + 9, tx: 1100, rx: 110, reason: flow.CloseFinRemote, observed: true},
		}
	}
	rows := append(both(1, "40000", 0), both(2, "40001", 1)...)
	return append(rows, append(both(3, "40000", 60), // the port again, later
		record{exporter: "b", flow: 10, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "10.0.0.1:40000", names: [2]string{"shop/api", "shop/web"}, start: 200, end: 201, tx: 7, rx: 3, observed: true}, // its client's record is lost
		record{exporter: "b", flow: 11, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "203.0.113.9:5555", names: [2]string{"shop/api", ""}, why: flow.WhyExternal, start: 20, end: 21, tx: 50, rx: 5, observed: true},
		record{exporter: "a", flow: 20, kind: flow.KindFailed, role: flow.RoleClient, local: "10.0.0.1:41000", remote: "10.0.0.3:5432", names: [2]string{"shop/web", "shop/db"}, start: 30, end: 30.001, reason: flow.CloseRefused, observed: true},
		record{exporter: "a", flow: 21, kind: flow.KindActive, role: flow.RoleClient, local: "[fd00::1]:41001", remote: "[fd00::9]:9", names: [2]string{"shop/web", ""}, why: flow.WhyNoEvidence, start: 40, end: 43, state: 2, observed: true},
		record{exporter: "a", flow: 30, kind: flow.KindActive, role: flow.RoleUnknown, local: "10.0.0.1:1", remote: "10.0.0.2:2", names: [2]string{"shop/web", "shop/api"}, start: 50, end: 51},
	)...)
}

func batch(rows []record) *flow.Batch {
	b := &flow.Batch{Rows: len(rows), Strings: []string{"", "default"}, AttrStrings: []string{""}, Addrs: [][16]byte{{}}}
	b.ExporterID, b.Seq, b.ReceivedTimeNs = rows[0].exporter, 1, t0.UnixNano()
	for f := range flow.NumU32 {
		b.Make32(f)
	}
	for f := range flow.NumU64 {
		b.Make64(f)
	}
	for i, r := range rows {
		local, remote := netip.MustParseAddrPort(r.local), netip.MustParseAddrPort(r.remote)
		b.Addrs = append(b.Addrs, local.Addr().As16(), remote.Addr().As16())
		b.Strings, b.AttrStrings = append(b.Strings, r.names[0]), append(b.AttrStrings, r.names[1])
		for f, v := range map[flow.U32]uint32{
			flow.RecordSeq: r.seq, flow.Network: 1, flow.Kind: r.kind, flow.Role: r.role, flow.CloseReason: r.reason, flow.LastState: r.state,
			flow.SampleRate: 1, flow.Connections: 1, flow.LocalAddr: uint32(2*i + 1), flow.RemoteAddr: uint32(2*i + 2),
			flow.LocalPort: uint32(local.Port()), flow.RemotePort: uint32(remote.Port()), flow.LocalWorkload: uint32(i + 2),
			flow.RemoteWorkload: uint32(i + 1), flow.RemoteWhy: r.why, flow.SrttUs: 500, flow.ConnectUs: 300,
		} {
			b.U32[f][i] = v
		}
		if r.kind == flow.KindFailed {
			b.U32[flow.Failures][i] = 1
		}
		if r.observed {
			b.U32[flow.StartObserved][i] = 1
		}
		at := func(s float64) uint64 { return uint64(t0.Add(time.Duration(s * 1e9)).UnixNano()) }
		b.U64[flow.FlowID][i] = r.flow
		b.U64[flow.StartTimeNs][i], b.U64[flow.IntervalStartNs][i], b.U64[flow.EndTimeNs][i] = at(r.start), at(r.start), at(r.end)
		b.U64[flow.TxBytes][i], b.U64[flow.RxBytes][i] = r.tx, r.rx
	}
	return b
}

// load writes rows as the collector does, one batch for each exporter.
func load(t *testing.T, s schema.Server, rows []record) {
	t.Helper()
	sink, err := clickhouse.New(clickhouse.Config{Server: s, BlockAge: time.Millisecond}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	byExporter := map[string][]record{}
	for _, r := range rows {
		byExporter[r.exporter] = append(byExporter[r.exporter], r)
	}
	for _, rows := range byExporter {
		sink.Write(batch(rows), func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func client(t *testing.T, s schema.Server) *Client {
	t.Helper()
	c := NewClient(s)
	t.Cleanup(c.Close)
	return c
}

func TestEdgesCountEachConnectionOnce(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	got, err := c.edges(t.Context(), window{})
	if err != nil {
		t.Fatal(err)
	}
	stamp := func(sec float64) string {
		return t0.Add(time.Duration(sec * 1e9)).Format("2006-01-02T15:04:05.000000000Z")
	}
	web := Edge{
		ClientWorkload: "shop/web", ClientWhy: "named", ServerWhy: "named", RttUsP50: 500, RttUsP95: 500, ConnectUsP50: 300, ConnectUsP95: 300,
		FailuresByReason: map[string]uint64{},
	}
	api, db, silent, outside := web, web, web, web
	api.ServerWorkload, api.ServerPort, api.Connections, api.ServerOnly = "shop/api", 80, 4, 1
	api.BytesToServer, api.BytesToClient, api.FirstSeen, api.LastSeen = 3*110+3, 3*1100+7, stamp(0), stamp(201)
	db.ServerWorkload, db.ServerPort, db.Connections, db.Failures = "shop/db", 5432, 1, 1
	db.FailuresByReason, db.FirstSeen, db.LastSeen = map[string]uint64{"refused": 1}, stamp(30), stamp(30.001)
	silent.ServerWhy, silent.ServerPort, silent.Connections, silent.Unanswered = "no_evidence", 9, 1, 1
	silent.FirstSeen, silent.LastSeen = stamp(40), stamp(43)
	outside.ClientWorkload, outside.ClientWhy, outside.ServerWorkload, outside.ServerPort = "", "external", "shop/api", 80
	outside.Connections, outside.ServerOnly, outside.BytesToServer, outside.BytesToClient = 1, 1, 5, 50
	outside.FirstSeen, outside.LastSeen = stamp(20), stamp(21)
	if diff := cmp.Diff([]Edge{api, db, silent, outside}, got); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	if rows := schematest.Query(t, s, "SELECT count(), sum(connections) FROM "+s.Database+".edges"); rows != "4\t7\n" {
		t.Errorf("view edges: %s", rows)
	}
}

func TestMap(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	var out bytes.Buffer
	if err := Map(t.Context(), c, "-1h", "", FormatTable, clock, &out); err != nil {
		t.Fatal(err)
	}
	want := `CLIENT      SERVER                       PORT  CONNECTIONS  OPEN  FAILURES  TO SERVER  TO CLIENT  RTT P50  CONNECT P50  CONNECT P95  FAILED BY
shop/web    shop/api                       80            4     0         0      333 B     3.3 kB   500 µs       300 µs       300 µs  
shop/web    shop/db                      5432            1     0         1        0 B        0 B   500 µs       300 µs       300 µs  refused 1
shop/web    (unattributed: no_evidence)     9            1     0         0        0 B        0 B   500 µs       300 µs       300 µs  no answer yet 1
(external)  shop/api                       80            1     0         0        5 B       50 B   500 µs       300 µs       300 µs  
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("map (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := Map(t.Context(), c, t0.Add(100*time.Second).Format(time.RFC3339), "", FormatJSON, clock, &out); err != nil {
		t.Fatal(err)
	}
	var e Edge
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || e.ClientWorkload != "shop/web" || e.Connections != 1 || e.BytesToClient != 7 {
		t.Errorf("%v %s", err, out.String())
	}
	out.Reset()
	if err := Map(t.Context(), c, "now", "", FormatTable, clock, &out); err != nil || out.String() != "no connections were recorded in this time\n" {
		t.Errorf("%v %s", err, out.String())
	}
}

func TestSQL(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	for statement, want := range map[string][2]string{
		"SELECT role, count() AS n FROM flows GROUP BY role ORDER BY n DESC": {
			"role     n\nclient   8\nserver   5\nunknown  1\n",
			`{"role":"client","n":8}` + "\n" + `{"role":"server","n":5}` + "\n" + `{"role":"unknown","n":1}` + "\n",
		},
		"SELECT 'a\x1b[31m' AS s, [1, 2] AS l, NULL AS z": {
			"s       l      z\na·[31m  [1,2]  null\n",
			`{"s":"a\u001B[31m","l":[1,2],"z":null}` + "\n",
		},
		"SELECT 1 AS x FORMAT CSV": {"1\n", "1\n"},
	} {
		for i, f := range []Format{FormatTable, FormatJSON} {
			var out bytes.Buffer
			if err := SQL(t.Context(), c, statement, f, &out); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
			if out.String() != want[i] {
				t.Errorf("%s as %s:\n%q, want\n%q", statement, f, out.String(), want[i])
			}
		}
	}
	for statement, say := range map[string]string{
		"SELEC 1":                           "SYNTAX_ERROR",
		"SELECT nothing FROM flows":         "UNKNOWN_IDENTIFIER",
		"":                                  "a statement is needed",
		"SELECT * FROM file('/etc/passwd')": "ACCESS_DENIED",
	} {
		err := SQL(t.Context(), c, statement, FormatTable, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", statement, err)
		}
	}
	if err := SQL(t.Context(), c, "INSERT INTO flows_raw (comm) VALUES ('x')", FormatTable, &bytes.Buffer{}); err == nil {
		t.Error("an insert was accepted")
	}
	if got := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".flows_raw"); got != "14\n" {
		t.Errorf("%s rows after refused statements", got)
	}
}

func TestErrorsNameWhatToDo(t *testing.T) {
	s := unmigrated(t)
	err := SQL(t.Context(), client(t, s), "SELECT count() FROM flows", FormatTable, &bytes.Buffer{})
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "has a collector been started") {
		t.Error(err)
	}
	err = SQL(t.Context(), client(t, schema.Server{URL: "http://127.0.0.1:1", Database: "d"}), "SELECT 1", FormatTable, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Error(err)
	}
}

// TestReaderWithoutCredentials asks as anybody on the host may: the database is tributary.
func TestReaderWithoutCredentials(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, schema.Server{URL: s.URL, Database: s.Database})
	var out bytes.Buffer
	if err := errors.Join(
		Map(t.Context(), c, "-1h", "", FormatTable, clock, &out),
		SQL(t.Context(), c, "SELECT * FROM edges", FormatTable, &out),
		Observe(t.Context(), c, ObserveOptions{Last: 3, Format: FormatTable}, clock, &out),
		Whois(t.Context(), c, WhoisOptions{Address: "10.0.0.1", Format: FormatTable}, clock, &out),
	); err != nil {
		t.Error(err)
	}
}

func TestObserve(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, s)
	var out bytes.Buffer
	if err := Observe(t.Context(), c, ObserveOptions{Last: 2, Format: FormatTable}, clock, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || !strings.Contains(lines[2], "closed  shop/web  →  shop/api  10.0.0.1:40000  10.0.0.2:80") || !strings.Contains(lines[2], "server") {
		t.Errorf("%s", out.String())
	}
	out.Reset()
	if err := Observe(t.Context(), c, ObserveOptions{Since: "-1h", Format: FormatJSON}, clock, &out); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(strings.TrimSpace(out.String()), "\n")
	var row map[string]any
	if err := json.Unmarshal([]byte(rows[0]), &row); err != nil || len(rows) != 14 || len(row) != len(schema.Fields()) {
		t.Errorf("%d rows of %d fields, %v", len(rows), len(row), err)
	}
}

// lines counts what is written, and ends the test's context at the wanted number of lines.
type lines struct {
	bytes.Buffer
	want int
	stop func()
}

func (l *lines) Write(p []byte) (int, error) {
	n, err := l.Buffer.Write(p)
	if strings.Count(l.String(), "\n") >= l.want {
		l.stop()
	}
	return n, err
}

func TestObserveFollows(t *testing.T) {
	s := migrated(t)
	first, second := world()[:2], world()[2:3]
	load(t, s, first)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out := &lines{want: 3, stop: cancel}
	done := make(chan error, 1)
	now := func() time.Time { return t0.Add(time.Second) } // rows are received at t0
	go func() {
		done <- Observe(ctx, client(t, s), ObserveOptions{Since: t0.Format(time.RFC3339), Follow: true, Format: FormatJSON}, now, out)
	}()
	time.Sleep(200 * time.Millisecond)
	load(t, s, second)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want each of 3 records once", n)
	}
}

func TestWhois(t *testing.T) {
	s := migrated(t)
	rows := []record{
		{exporter: "a", flow: 1, kind: flow.KindClosed, role: flow.RoleClient, local: "10.0.0.7:1", remote: "10.0.0.2:80", names: [2]string{"shop/old", ""}, start: 0, end: 10},
		{exporter: "a", flow: 2, kind: flow.KindClosed, role: flow.RoleClient, local: "10.0.0.7:2", remote: "10.0.0.2:80", names: [2]string{"shop/new", ""}, start: 20, end: 30},
	}
	load(t, s, rows)
	c := client(t, s)
	ask := func(api string, sec int) string {
		var out bytes.Buffer
		at := t0.Add(time.Duration(sec) * time.Second).Format(time.RFC3339)
		err := Whois(t.Context(), c, WhoisOptions{Address: "10.0.0.7", At: at, API: api, Format: FormatTable}, clock, &out)
		if err != nil {
			t.Fatal(err)
		}
		return strings.SplitN(out.String(), "\n", 2)[0]
	}
	for sec, want := range map[int]string{5: "shop/old, known by socket", 15: "(unattributed: gap)", 25: "shop/new, known by socket"} {
		if got := ask("", sec); !strings.HasSuffix(got, ": "+want) {
			t.Errorf("at %d s: %q, want %q", sec, got, want)
		}
	}
	if got := ask("http://127.0.0.1:1", 5); !strings.Contains(got, "shop/old") {
		t.Errorf("without the collector: %q", got)
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != WhoisPath || r.URL.Query().Get("address") != "10.0.0.7" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(WhoisAnswer{Address: "10.0.0.7", At: t0, Source: "ownership", Answers: []WhoisOwner{{Network: "lab", Workload: "shop/api", Instance: "api-1", Evidence: "claim"}}})
	}))
	defer api.Close()
	want := fmt.Sprintf("10.0.0.7 in network lab at %s: shop/api (api-1), known by claim", t0.Format(time.RFC3339))
	if got := ask(api.URL, 5); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if err := Whois(t.Context(), c, WhoisOptions{Address: "nonsense"}, clock, &bytes.Buffer{}); err == nil {
		t.Error("nonsense is an address")
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"-5m": "2026-11-20T11:55:00Z", "-2d": "2026-11-18T12:00:00Z", "now": "2026-11-20T12:00:00Z", "-1.5h": "2026-11-20T10:30:00Z",
		"2026-11-20T14:03:00+02:00": "2026-11-20T12:03:00Z", "5m": "", "-": "", "--5m": "", "yesterday": "", "": "", "-99999999999999d": "",
	} {
		got, err := ParseTime(text, now)
		if (err == nil) != (want != "") || (err == nil && got.UTC().Format(time.RFC3339) != want) {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	if _, err := parseWindow("-1m", "-5m", now); !errors.Is(err, errBackwards) {
		t.Error(err)
	}
}

func TestCommands(t *testing.T) {
	s := migrated(t)
	connect := func(context.Context) (Connection, error) { return Connection{Client: NewClient(s)}, nil }
	run := func(args ...string) (string, error) {
		for _, cmd := range Commands(connect) {
			if cmd.Name() == args[0] {
				var out bytes.Buffer
				cmd.SetOut(&out)
				cmd.SetErr(&out)
				cmd.SetArgs(args[1:])
				return out.String(), errors.Join(cmd.ExecuteContext(t.Context()))
			}
		}
		return "", fmt.Errorf("no verb %s", args[0])
	}
	for _, args := range [][]string{{"sql", "SELECT 1"}, {"map", "-o", "json"}, {"observe"}, {"whois", "10.0.0.1", "-o", "json"}, {"schema", "print"}} {
		if _, err := run(args...); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
	for _, args := range [][]string{{"sql"}, {"map", "-o", "xml"}, {"observe", "--last", "-3"}, {"observe", "--since", "soon"}, {"whois"}} {
		if _, err := run(args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
