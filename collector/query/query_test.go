package query

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

func TestMain(m *testing.M) { schematest.Main(m) }

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
	got, err := c.edges(t.Context(), window{until: t0.Add(202 * time.Second)}, clock(), edgeFilter{})
	if err != nil {
		t.Fatal(err)
	}
	stamp := func(sec float64) string {
		return t0.Add(time.Duration(sec * 1e9)).Format("2006-01-02T15:04:05.000Z")
	}
	web := Edge{
		ClientWorkload: "shop/web", ClientWhy: "named", ServerWhy: "named", RttUsP50: 512, RttUsP95: 512, RttUsP99: 512, ConnectUsP50: 294, ConnectUsP95: 294, ConnectUsP99: 294,
		FailuresByReason: map[string]uint64{},
	}
	api, db, silent, outside := web, web, web, web
	api.ServerWorkload, api.ServerPort, api.Connections, api.Closed, api.ServerOnly, api.Both = "shop/api", 80, 4, 4, 1, 3
	api.BytesToServer, api.BytesToClient, api.FirstSeen, api.LastSeen = 3*110+3, 3*1100+7, stamp(0), stamp(201)
	db.ServerWorkload, db.ServerPort, db.Connections, db.Failures, db.ClientOnly = "shop/db", 5432, 1, 1, 1
	db.FailuresByReason, db.FirstSeen, db.LastSeen = map[string]uint64{"refused": 1}, stamp(30), stamp(30)
	silent.ServerWhy, silent.ServerPort, silent.Connections, silent.ClientOnly = "no_evidence", 9, 1, 1
	silent.FirstSeen, silent.LastSeen = stamp(40), stamp(43)
	outside.ClientWorkload, outside.ClientWhy, outside.ServerWorkload, outside.ServerPort = "", "external", "shop/api", 80
	outside.ConnectUsP50, outside.ConnectUsP95, outside.ConnectUsP99 = 0, 0, 0
	outside.Connections, outside.Closed, outside.ServerOnly, outside.BytesToServer, outside.BytesToClient = 1, 1, 1, 5, 50
	outside.FirstSeen, outside.LastSeen = stamp(20), stamp(21)
	if diff := cmp.Diff([]Edge{api, db, silent, outside}, got); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	for until, want := range map[float64]string{6.5: "api 2", 44: "silent 1", 65.5: "api 1"} {
		got, err := c.edges(t.Context(), window{until: t0.Add(time.Duration(until * 1e9))}, clock(), edgeFilter{})
		if err != nil {
			t.Fatal(err)
		}
		open := func(e *Edge) uint64 { return e.Open }
		waiting := func(e *Edge) uint64 { return e.Unanswered }
		if text := fmt.Sprintf("api %d", total(got, open)); want != text && want != fmt.Sprintf("silent %d", total(got, waiting)) {
			t.Errorf("open at %g s: %s, want %s", until, text, want)
		}
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
	if err := Map(t.Context(), c, MapOptions{Since: "-1h", Format: FormatTable}, clock, &out); err != nil {
		t.Fatal(err)
	}
	want := `CLIENT      SERVER                       PORT  CONNECTIONS  OPEN  FAILURES  TO SERVER  TO CLIENT  RTT P50  CONNECT P50  CONNECT P95  FAILED BY
shop/web    shop/api                       80            4     0         0      333 B     3.3 kB   512 µs       294 µs       294 µs  
shop/web    shop/db                      5432            1     0         1        0 B        0 B   512 µs       294 µs       294 µs  refused 1
shop/web    (unattributed: no_evidence)     9            1     0         0        0 B        0 B   512 µs       294 µs       294 µs  
(external)  shop/api                       80            1     0         0        5 B       50 B   512 µs            -            -  
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("map (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := Map(t.Context(), c, MapOptions{Since: t0.Add(100 * time.Second).Format(time.RFC3339), Format: FormatJSON}, clock, &out); err != nil {
		t.Fatal(err)
	}
	var e Edge
	if err := json.Unmarshal(out.Bytes(), &e); err != nil || e.ClientWorkload != "shop/web" || e.Connections != 1 || e.BytesToClient != 7 {
		t.Errorf("%v %s", err, out.String())
	}
	out.Reset()
	if err := Map(t.Context(), c, MapOptions{Since: "now", Format: FormatTable}, clock, &out); err != nil || out.String() != "no connections were recorded in this time\n" {
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
	var e *schema.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "has a collector of this version been started") {
		t.Error(err)
	}
	err = SQL(t.Context(), client(t, schema.Server{URL: "http://127.0.0.1:1", Database: "d"}), "SELECT 1", FormatTable, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "is it running") {
		t.Error(err)
	}
}

// TestTooMuch: what asks for too much, or for too long, ends with a word on how to ask for less.
func TestTooMuch(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	for statement, want := range map[string]string{
		"SELECT count() FROM system.numbers SETTINGS max_execution_time = 1":                "took too long",
		"SELECT a.* FROM flows AS a, flows AS b, flows AS c SETTINGS max_result_rows = 100": "too large",
	} {
		if err := SQL(t.Context(), client(t, s), statement, FormatTable, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

// TestOtherVersions: a database that is half migrated, or newer, says so where an answer fails for that.
func TestOtherVersions(t *testing.T) {
	s := migrated(t)
	c := client(t, s)
	ask := func(statement string) string {
		t.Helper()
		err := SQL(t.Context(), c, statement, FormatTable, &bytes.Buffer{})
		if err == nil {
			t.Fatal("a column that is not there was read")
		}
		return err.Error()
	}
	if text := ask("SELECT no_such_column FROM flows"); strings.Contains(text, "schema version") {
		t.Errorf("of this version: %s", text)
	}
	schematest.Query(t, s, "ALTER TABLE "+s.Database+".edges_1h_gens RENAME COLUMN rtt_us_histogram TO something_else")
	schematest.Query(t, s, "INSERT INTO "+s.Database+".schema_migrations (version, name) SELECT 99, 'future'")
	if text := ask("SELECT rtt_us_histogram FROM edges_1h_gens"); !strings.Contains(text, "has schema version 99 and this program is of version") || !strings.Contains(text, "ask with the program") {
		t.Errorf("newer: %s", text)
	}
	schematest.Query(t, s, "TRUNCATE TABLE "+s.Database+".schema_migrations")
	schematest.Query(t, s, "INSERT INTO "+s.Database+".schema_migrations (version, name) SELECT 3, 'half way'")
	schematest.Query(t, s, "DROP VIEW "+s.Database+".edges")
	for _, statement := range []string{"SELECT rtt_us_histogram FROM edges_1h_gens", "SELECT * FROM edges"} {
		if text := ask(statement); !strings.Contains(text, "has schema version 3 and this program is of version") || !strings.Contains(text, "has yet to do it") {
			t.Errorf("half migrated: %s", text)
		}
	}
}

// TestReaderWithoutCredentials asks as anybody on the host may: the database is tributary.
func TestReaderWithoutCredentials(t *testing.T) {
	s := migrated(t)
	load(t, s, world())
	c := client(t, schema.Server{URL: s.URL, Database: s.Database})
	var out bytes.Buffer
	if err := errors.Join(
		Map(t.Context(), c, MapOptions{Since: "-1h", Format: FormatTable}, clock, &out),
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

// TestObserveFollows: by the clock of the store, also where the clock of whoever asks is wrong.
func TestObserveFollows(t *testing.T) {
	s := migrated(t)
	first, second := world()[:2], world()[2:3]
	arrive := func(r []records.Record) { records.Load(t, s, time.Now().Truncate(time.Second), r) }
	arrive(first)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := &lines{want: 3, stop: cancel}
	done := make(chan error, 1)
	ahead := func() time.Time { return time.Now().Add(5 * time.Minute) }
	go func() {
		done <- Observe(ctx, client(t, s), ObserveOptions{Since: t0.Format(time.RFC3339), Follow: true, Format: FormatJSON}, ahead, out)
	}()
	time.Sleep(200 * time.Millisecond)
	arrive(second)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines, want each of 3 records once", n)
	}
}

func TestWhois(t *testing.T) {
	s := migrated(t)
	rows := []records.Record{
		{Exporter: "a", Flow: 1, Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.7:1", Remote: "10.0.0.2:80", Names: [2]string{"shop/old", ""}, Start: 0, End: 10},
		{Exporter: "a", Flow: 2, Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.7:2", Remote: "10.0.0.2:80", Names: [2]string{"shop/new", ""}, Start: 20, End: 30},
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
	unknown := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(WhoisAnswer{Address: "10.0.0.7", At: t0, Source: "ownership", Answers: []WhoisOwner{{Network: "lab", Evidence: "none", Why: "no_evidence"}}})
	}))
	defer unknown.Close()
	c = client(t, schema.Server{URL: "http://127.0.0.1:1", Database: "none"}) // the collector knows nothing, and the store does not answer
	if got := ask(unknown.URL, 5); !strings.HasSuffix(got, "(unattributed: no_evidence)") {
		t.Errorf("%q", got)
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
	for _, args := range [][]string{{"sql"}, {"map", "-o", "xml"}, {"observe", "--last", "-3"}, {"observe", "--since", "soon"}, {"whois"}, {"whois", "10.0.0.1", "--at", "2999-01-01T00:00:00Z"}} {
		if _, err := run(args...); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
