package embedded

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

func TestProbesAndPaths(t *testing.T) {
	s := sharedStore(t)
	for _, c := range []struct {
		ask
		status int
		body   string
	}{
		{ask{method: http.MethodGet}, 200, "Ok.\n"},
		{ask{method: http.MethodGet, path: "/ping"}, 200, "Ok.\n"},
		{ask{method: http.MethodHead, path: "/ping"}, 200, ""},
		{ask{method: http.MethodGet, path: "/", params: values("query", "SELECT 1")}, 200, "1\n"},
		{ask{method: http.MethodHead, params: values("query", "SELECT 1")}, 200, ""},
		{ask{method: http.MethodPost, params: values("query", "SELECT 1")}, 200, "1\n"},
		{ask{method: http.MethodPost, params: values("query", "SELECT"), body: "2"}, 200, "2\n"},
		{ask{method: http.MethodPost, body: "SELECT 3 FORMAT CSV"}, 200, "3\n"},
		{ask{method: http.MethodGet, path: "/nothing"}, 404, "There is no handle /nothing\n\nUse / or /ping for health checks and queries.\n"},
		{ask{method: http.MethodPut, body: "SELECT 1"}, 405, ""},
	} {
		r := do(t, s, c.ask)
		if r.status != c.status || r.body != c.body {
			t.Errorf("%s %q %v: %d %q, want %d %q", c.method, c.path, c.params, r.status, r.body, c.status, c.body)
		}
	}
}

func TestHeadersOfAnAnswer(t *testing.T) {
	s := sharedStore(t)
	r := do(t, s, ask{body: "SELECT number FROM numbers(5) FORMAT JSONEachRow", params: values("query_id", "my-query", "database", "system")})
	for name, want := range map[string]string{
		"X-Clickhouse-Query-Id": "my-query", "X-Clickhouse-Format": "JSONEachRow", "X-Clickhouse-Timezone": read(t, s, "SELECT timezone()"),
		"X-Clickhouse-Server-Display-Name": "tributary-embedded", "Content-Type": "application/x-ndjson; charset=UTF-8",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	var sum struct {
		ReadRows   string `json:"read_rows"`
		ResultRows string `json:"result_rows"`
	}
	if err := json.Unmarshal([]byte(r.header.Get("X-ClickHouse-Summary")), &sum); err != nil || sum.ReadRows != "5" || sum.ResultRows != "5" {
		t.Errorf("summary %q: %+v, %v", r.header.Get("X-ClickHouse-Summary"), sum, err)
	}
	if id := do(t, s, ask{body: "SELECT 1"}).header.Get("X-ClickHouse-Query-Id"); len(id) != 36 {
		t.Errorf("query id of its own: %q", id)
	}
}

func TestExceptionCodes(t *testing.T) {
	s := sharedStore(t)
	for _, c := range []struct {
		sql, code string
		status    int
	}{
		{"SELEC 1", "62", 400},
		{"", "62", 400},
		{"SELECT * FROM tributary.no_such_table", "60", 404},
		{"SELECT * FROM no_such_database.t", "81", 404},
		{"SELECT nothing", "47", 404},
		{"SELECT no_such_function(1)", "46", 404},
		{"SELECT 1 FORMAT NoSuchFormat", "73", 404},
		{"SELECT toUInt8('x')", "6", 400},
		{"SELECT throwIf(1)", "395", 500},
		{"SELECT {x:UInt8}", "456", 500},
		{"INSERT INTO tributary.no_such_table VALUES (1)", "60", 404},
		{"INSERT INTO tributary.codes VALUES ('x')", "6", 400},
		{"INSERT INTO tributary.codes FORMAT JSONEachRow {\"a\":\"x\"}", "27", 400},
		{"INSERT INTO tributary.codes (b) VALUES (1)", "16", 500},
		{"INSERT INTO tributary.codes FORMAT Nope 1", "73", 404},
		{"CREATE TEMPORARY TABLE x (a UInt8)", "48", 501},
		{"SELECT 1 INTO OUTFILE '/tmp/x'", "497", 403},
		{"SELECT 1; SELECT 2", "62", 400},
		{"SELECT 1 SETTINGS no_such_setting = 1", "115", 404},
		{"SELECT 1 SETTINGS max_memory_usage = 100000000000", "452", 500},
	} {
		write(t, s, "CREATE TABLE IF NOT EXISTS tributary.codes (a UInt8) ENGINE = MergeTree ORDER BY a")
		r := do(t, s, ask{body: c.sql, writer: true})
		if r.code() != c.code || r.status != c.status {
			t.Errorf("%s: code %s status %d (%s), want %s %d", c.sql, r.code(), r.status, strings.TrimSpace(r.body), c.code, c.status)
		}
		if !strings.HasPrefix(r.body, "Code: "+c.code+". DB::Exception: ") || strings.Count(r.body, "DB::Exception") != 1 || strings.Count(r.body, "(version ") != 1 {
			t.Errorf("%s: body %q", c.sql, r.body)
		}
	}
	if got := read(t, s, "SELECT count() FROM tributary.codes"); got != "0" {
		t.Errorf("failed inserts left %s rows", got)
	}
	r := do(t, s, ask{method: http.MethodGet, writer: true, params: values("query", "DROP TABLE tributary.codes")})
	if r.code() != "164" {
		t.Errorf("DROP by GET: %d %s", r.status, r.body)
	}
	r = do(t, s, ask{body: "SELECT 1", params: values("no_such_setting", "1"), writer: true})
	if r.code() != "115" || r.status != 404 {
		t.Errorf("unknown setting in the URL: %d %s", r.status, r.body)
	}
	r = do(t, s, ask{body: "SELECT " + strings.Repeat(" ", maxQueryBytes)})
	if r.status != 413 {
		t.Errorf("long statement: %d %.100s", r.status, r.body)
	}
}

func TestInsertsOfText(t *testing.T) {
	s := sharedStore(t)
	write(t, s, "DROP TABLE IF EXISTS tributary.texts")
	write(t, s, "CREATE TABLE tributary.texts (a UInt32, b String DEFAULT concat('d', toString(a)), c UInt8 DEFAULT 5) ENGINE = MergeTree ORDER BY a")
	for _, c := range []struct{ query, body, want string }{
		{"", "INSERT INTO texts VALUES (1, 'one', 1), (2, 'it''s; -- two', 2)", "1\tone\t1\n2\tit\\'s; -- two\t2"},
		{"", "INSERT INTO texts (a) VALUES (3)", "3\td3\t5"},
		{"INSERT INTO texts (c, a) VALUES", "(9, 4)", "4\td4\t9"},
		{"INSERT INTO texts (c, a) VALUES (9, 5),", "(9, 6)", "5\td5\t9\n6\td6\t9"},
		{"INSERT INTO texts FORMAT JSONEachRow", `{"b":"x","a":7}{"a":8}`, "7\tx\t5\n8\td8\t5"},
		{"", "insert into texts /* c */ format JSONEachRow\n{\"a\":9}\n\n{\"a\":10}", "9\td9\t5\n10\td10\t5"},
		{"INSERT INTO texts SETTINGS max_insert_threads = 1 FORMAT TSV", "11\t\\n\\n\t1\n", "11\t\\n\\n\t1"},
		{"INSERT INTO texts (* EXCEPT(c)) FORMAT CSV", "12,\"a\n\nDROP TABLE texts; SELECT 1\"\n", "12\ta\\n\\nDROP TABLE texts; SELECT 1\t5"},
		{"INSERT INTO texts SELECT 13, 'sel', 1", "", "13\tsel\t1"},
		{"INSERT INTO tributary.`texts` FORMAT CSVWithNames", "c,a\n1,14\n", "14\td14\t1"},
		{"INSERT INTO texts FORMAT JSONEachRow", "", ""},
	} {
		write(t, s, "TRUNCATE TABLE texts")
		r := do(t, s, ask{body: c.body, params: values("query", c.query, "database", "tributary"), writer: true})
		if r.status != 200 || r.body != "" {
			t.Errorf("%s %s: %d %s", c.query, c.body, r.status, r.body)
			continue
		}
		if got := read(t, s, "SELECT * FROM texts ORDER BY a"); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.query, c.body, got, c.want)
		}
	}
}

func TestParameters(t *testing.T) {
	s := sharedStore(t)
	r := do(t, s, ask{
		body:   "SELECT {n:UInt8} + 1, {text:String}, {list:Array(String)} -- {n}",
		params: values("param_n", "41", "param_text", `it's \\ a\ttab`, "param_list", "['a','b']"),
	})
	if r.body != "42\tit\\'s \\\\ a\\ttab\t['a','b']\n" {
		t.Errorf("%d %q", r.status, r.body)
	}
}

// nativeBlock is 2 rows of (a UInt32, b String) at revision 0, columns in another order than the table's.
func nativeBlock(t *testing.T) []byte {
	t.Helper()
	b := proto.ColStr{}
	b.Append("x\n\ny")
	b.Append("\x00")
	a := proto.ColUInt32{1, 0x0a0a0a0a}
	var buffer proto.Buffer
	block := proto.Block{Columns: 2, Rows: 2}
	if err := block.EncodeRawBlock(&buffer, 0, []proto.InputColumn{{Name: "b", Data: b}, {Name: "a", Data: a}}); err != nil {
		t.Fatal(err)
	}
	return buffer.Buf
}

func TestNativeInsertIsExactWithEveryCompression(t *testing.T) {
	s := sharedStore(t)
	raw := nativeBlock(t)
	framed := compress.NewWriter(0, compress.LZ4)
	if err := framed.Compress(raw); err != nil {
		t.Fatal(err)
	}
	pack := func(w io.WriteCloser, to *bytes.Buffer) string {
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return to.String()
	}
	var g, z, l bytes.Buffer
	zw, _ := zstd.NewWriter(&z)
	for name, c := range map[string]struct {
		body     string
		encoding string
		params   []string
	}{
		"plain":  {string(raw), "", nil},
		"two":    {string(raw) + string(raw), "", nil},
		"framed": {string(framed.Data), "", []string{"decompress", "1"}},
		"gzip":   {pack(gzip.NewWriter(&g), &g), "gzip", nil},
		"zstd":   {pack(zw, &z), "zstd", nil},
		"lz4":    {pack(lz4.NewWriter(&l), &l), "lz4", nil},
	} {
		write(t, s, "CREATE OR REPLACE TABLE tributary.native (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
		a := ask{body: c.body, writer: true, params: values(append(c.params, "query", "INSERT INTO native FORMAT Native")...), header: http.Header{}}
		if c.encoding != "" {
			a.header.Set("Content-Encoding", c.encoding)
		}
		r := do(t, s, a)
		rows := "2"
		if name == "two" {
			rows = "4"
		}
		if r.status != 200 || !strings.Contains(r.header.Get("X-ClickHouse-Summary"), `"written_rows":"`+rows+`"`) {
			t.Errorf("%s: %d %s, summary %s", name, r.status, r.body, r.header.Get("X-ClickHouse-Summary"))
		}
		if got := read(t, s, "SELECT DISTINCT a, hex(b) FROM native ORDER BY a"); got != "1\t780A0A79\n168430090\t00" {
			t.Errorf("%s: %q", name, got)
		}
		// Cut anywhere, nothing of it may be stored and the answer may not be 200.
		if name == "two" {
			continue
		}
		write(t, s, "TRUNCATE TABLE native")
		a.body = c.body[:len(c.body)-1]
		if r := do(t, s, a); r.status == 200 {
			t.Errorf("%s, cut: status 200", name)
		}
		if got := read(t, s, "SELECT count() FROM native"); got != "0" {
			t.Errorf("%s, cut: %s rows", name, got)
		}
	}
}

func TestCompressedAnswers(t *testing.T) {
	s := sharedStore(t)
	want := read(t, s, "SELECT number FROM numbers(100000)") + "\n"
	unpack := map[string]func(io.Reader) io.Reader{
		"gzip": func(r io.Reader) io.Reader { g, _ := gzip.NewReader(r); return g },
		"zstd": func(r io.Reader) io.Reader { z, _ := zstd.NewReader(r); return z },
		"lz4":  func(r io.Reader) io.Reader { return lz4.NewReader(r) },
	}
	for encoding, reader := range unpack {
		a := ask{body: "SELECT number FROM numbers(100000)", params: values("enable_http_compression", "1"), header: http.Header{"Accept-Encoding": {encoding}}}
		r := do(t, s, a)
		got, err := io.ReadAll(reader(strings.NewReader(r.body)))
		if err != nil || string(got) != want || r.header.Get("Content-Encoding") != encoding {
			t.Errorf("%s: %d bytes, %v, %q", encoding, len(got), err, r.header.Get("Content-Encoding"))
		}
	}
	for _, method := range []string{"LZ4", "ZSTD"} {
		r := do(t, s, ask{body: "SELECT number FROM numbers(100000)", params: values("compress", "1", "network_compression_method", method)})
		got, err := io.ReadAll(&framedReader{compress.NewReader(strings.NewReader(r.body))})
		if err != nil || string(got) != want {
			t.Errorf("%s frames: %d bytes, %v", method, len(got), err)
		}
	}
}

// TestSettingsOfWriters: the settings the sink sends, and that none outlives its request.
func TestSettingsOfWriters(t *testing.T) {
	s := sharedStore(t)
	write(t, s, "CREATE OR REPLACE TABLE tributary.dedup (a UInt32, b String) ENGINE = MergeTree ORDER BY a SETTINGS non_replicated_deduplication_window = 100")
	insert := func(token string) {
		r := do(t, s, ask{body: string(nativeBlock(t)), writer: true, params: values("query", "INSERT INTO dedup FORMAT Native",
			"insert_deduplication_token", token, "max_insert_block_size", "1000000", "insert_deduplicate", "1", "max_execution_time", "30", "async_insert", "0")})
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	for _, step := range []struct{ token, rows string }{{"one", "2"}, {"one", "2"}, {"two", "4"}, {"one", "4"}} {
		insert(step.token)
		if got := read(t, s, "SELECT count() FROM dedup"); got != step.rows {
			t.Errorf("after token %s: %s rows, want %s", step.token, got, step.rows)
		}
	}
	for range 2 * writerSlots {
		r := do(t, s, ask{body: "SELECT getSetting('insert_deduplication_token')", writer: true})
		if r.body != "\n" {
			t.Errorf("token after the request: %q", r.body)
		}
	}
	r := do(t, s, ask{body: "SELECT count() FROM dedup", params: values("final", "1", "max_threads", "1"), writer: true})
	if r.body != "4\n" {
		t.Errorf("final in the URL: %d %s", r.status, r.body)
	}
	if got := read(t, s, "SELECT name, value FROM system.merge_tree_settings WHERE name IN ('fsync_after_insert', 'fsync_part_directory', 'min_rows_to_fsync_after_merge') ORDER BY name"); got !=
		"fsync_after_insert\t1\nfsync_part_directory\t1\nmin_rows_to_fsync_after_merge\t1" { // a merge replaces what was synced
		t.Errorf("merge tree settings: %q", got)
	}
	for _, sql := range []string{"SET max_threads = 1", "USE system"} { // accepted and forgotten, as without a session on a server
		write(t, s, sql)
	}
	if r := do(t, s, ask{body: "SELECT currentDatabase()", writer: true}); r.body != "tributary\n" {
		t.Errorf("database after USE: %s", r.body)
	}
}

// TestAnswersAreNotMixed: what a statement had written before it failed, or before its client went away, is in no other answer.
func TestAnswersAreNotMixed(t *testing.T) {
	s := sharedStore(t)
	const failing = "SELECT number, throwIf(number = 300000) AS \"left behind\" FROM numbers(1000000) SETTINGS max_block_size = 1000 FORMAT "
	for _, format := range []string{"TSVWithNamesAndTypes", "JSONCompactEachRowWithNamesAndTypes", "RowBinaryWithNamesAndTypes", "CSVWithNames", "JSON"} {
		for range readerSlots {
			if r := do(t, s, ask{body: failing + format}); r.code() != "395" {
				t.Errorf("%s: %d %.100s", format, r.status, r.body)
			}
		}
		for range 2 * readerSlots {
			if got := do(t, s, ask{body: "SELECT 1"}).body; got != "1\n" {
				t.Errorf("behind %s: %.200q", format, got)
			}
		}
	}
}
