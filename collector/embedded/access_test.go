package embedded

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadersAreFenced tries each forbidden thing, in several spellings, without credentials. A statement counts as refused when it
// fails and nothing of the secret shows; the canary tables and files must be as before.
func TestReadersAreFenced(t *testing.T) {
	s := sharedStore(t)
	dir := t.TempDir()
	secret, outfile := filepath.Join(dir, "secret"), filepath.Join(dir, "out")
	if err := os.WriteFile(secret, []byte("s3cr3t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, s, "CREATE TABLE IF NOT EXISTS tributary.canary (a UInt32, name String) ENGINE = MergeTree ORDER BY a")
	write(t, s, "TRUNCATE TABLE tributary.canary")
	write(t, s, "INSERT INTO tributary.canary SELECT 1, 'one'")
	write(t, s, "CREATE TABLE IF NOT EXISTS default.hidden (a String) ENGINE = MergeTree ORDER BY a")
	write(t, s, "INSERT INTO default.hidden SELECT 's3cr3t'")
	write(t, s, "CREATE OR REPLACE VIEW tributary.leak AS SELECT * FROM file('"+secret+"', LineAsString)")
	statements := []string{
		"SELECT * FROM file('FILE', LineAsString)",
		"SELECT * FROM `file`('FILE', LineAsString)",
		`SELECT * FROM "file"('FILE', LineAsString)`,
		"SELECT * FROM/**/file/**/('FILE', LineAsString)",
		"SELECT * FROM -- comment\n file('FILE', LineAsString)",
		"sElEcT * fRoM file('FILE', LineAsString)",
		"FROM file('FILE', LineAsString) SELECT *",
		"SELECT (SELECT * FROM file('FILE', LineAsString))",
		"WITH x AS (SELECT * FROM file('FILE', LineAsString)) SELECT * FROM x",
		"SELECT 1 UNION ALL SELECT * FROM file('FILE', LineAsString)",
		"SELECT 1 WHERE 1 IN (SELECT count() FROM file('FILE', LineAsString))",
		"SELECT * FROM (SELECT 1) AS a, (SELECT * FROM file('FILE', LineAsString)) AS b",
		"SELECT * FROM loop(file('FILE', LineAsString)) LIMIT 1",
		"DESCRIBE TABLE file('FILE', LineAsString)",
		"DESCRIBE (SELECT * FROM file('FILE', LineAsString))",
		"EXPLAIN SELECT * FROM file('FILE', LineAsString)",
		"EXPLAIN PIPELINE SELECT file('FILE')",
		"EXPLAIN QUERY TREE SELECT file('FILE')",
		"SELECT file('FILE')",
		"SELECT `file`('FILE')",
		"SELECT `fi\\x6ce`('FILE')",
		"SELECT file /* */ ('FILE')",
		"SELECT * APPLY file FROM (SELECT 'FILE' AS x)",
		"SELECT * APPLY(`file`) FROM (SELECT 'FILE' AS x)",
		"SELECT arrayMap(file, ['FILE'])",
		"SELECT arrayMap(x -> file(x), ['FILE'])",
		"WITH file AS f SELECT f('FILE')",
		"WITH (x -> file(x)) AS f SELECT f('FILE')",
		"SELECT * FROM viewIfPermitted(SELECT file('FILE') ELSE null('x String'))",
		"SELECT * FROM view(SELECT * FROM file('FILE', LineAsString))",
		"SELECT * FROM tributary.leak",
		"SELECT * FROM merge('tributary', '^leak$')",
		"SELECT * FROM default.`FILE`",
		"SELECT * FROM `default`.hidden",
		"SELECT * FROM default.hidden",
		"SELECT * FROM merge('default', '.*')",
		"SELECT * FROM merge(REGEXP('.*'), 'hidden')",
		"SHOW CREATE TABLE default.hidden",
		"SELECT * FROM url('http://127.0.0.1:9/', CSV, 'a String')",
		"SELECT * FROM urlCluster('x', 'http://127.0.0.1:9/', CSV, 'a String')",
		"SELECT * FROM s3('http://127.0.0.1:9/bucket/key', CSV, 'a String')",
		"SELECT * FROM azureBlobStorage('a', 'b', 'c', 'd', 'e')",
		"SELECT * FROM hdfs('hdfs://127.0.0.1:9/x', CSV, 'a String')",
		"SELECT * FROM remote('127.0.0.1', system.one)",
		"SELECT * FROM remoteSecure('127.0.0.1', system.one)",
		"SELECT * FROM cluster('default', system.one)",
		"SELECT * FROM clusterAllReplicas('default', system.one)",
		"SELECT * FROM mysql('127.0.0.1:9', 'a', 'b', 'c', 'd')",
		"SELECT * FROM postgresql('127.0.0.1:9', 'a', 'b', 'c', 'd')",
		"SELECT * FROM mongodb('127.0.0.1:9', 'a', 'b', 'c', 'd', 'x String')",
		"SELECT * FROM redis('127.0.0.1:9', 'k', 'k String, v String')",
		"SELECT * FROM sqlite('FILE', 'y')",
		"SELECT * FROM odbc('DSN=x', 'a', 'b')",
		"SELECT * FROM jdbc('x', 'a', 'b')",
		"SELECT * FROM executable('cat', TSV, 'a String')",
		"SELECT * FROM iceberg('http://127.0.0.1:9/bucket/key')",
		"SELECT * FROM icebergLocal('FILE')",
		"SELECT * FROM deltaLakeLocal('FILE')",
		"SELECT * FROM input('a String')",
		"SELECT * FROM dictionary('x')",
		"SELECT dictGet('x', 'y', 1)",
		"SELECT catboostEvaluate('FILE', 1)",
		"SELECT aiGenerate('x', 'y')",
		"SELECT addressToLine(1)",
		"SELECT 1 INTO OUTFILE 'OUT'",
		"SELECT 1 INTO/**/OUTFILE 'OUT' TRUNCATE",
		"SELECT 1 into outfile 'OUT' AND STDOUT FORMAT CSV",
		"SELECT 1 FORMAT CSV SETTINGS output_format_schema = 'OUT'",
		"SELECT 1 SETTINGS readonly = 0",
		"SELECT 1 SETTINGS max_threads = 1, readonly = 0",
		"SELECT 1 FORMAT JSON SETTINGS allow_ddl = 1",
		"SELECT (SELECT 1 SETTINGS allow_introspection_functions = 1)",
		"SELECT 'a' SETTINGS format_template_row = 'FILE' FORMAT Template",
		"SELECT 'a' SETTINGS format_schema = 'FILE:M' FORMAT Protobuf",
		"SELECT 1 SETTINGS max_memory_usage = 100000000000",
		"SELECT 1; SELECT 2",
		"SELECT 1; DROP TABLE tributary.canary",
		"SELECT 1 PARALLEL WITH DROP TABLE tributary.canary",
		"INSERT INTO tributary.canary VALUES (2, 'two')",
		"/* */ INSERT INTO tributary.canary SELECT 2, 'two'",
		"INSERT INTO FUNCTION file('OUT', CSV, 'a String') SELECT 'x'",
		"INSERT INTO tributary.canary FROM INFILE 'FILE' FORMAT CSV",
		"CREATE TABLE tributary.made (a UInt8) ENGINE = Memory",
		"CREATE TEMPORARY TABLE made (a UInt8)",
		"CREATE VIEW tributary.made AS SELECT 1",
		"CREATE FUNCTION made AS (x) -> x",
		"CREATE USER made",
		"CREATE DATABASE made",
		"ALTER TABLE tributary.canary DELETE WHERE 1",
		"DELETE FROM tributary.canary WHERE 1",
		"TRUNCATE TABLE tributary.canary",
		"OPTIMIZE TABLE tributary.canary FINAL",
		"RENAME TABLE tributary.canary TO tributary.made",
		"DROP TABLE tributary.canary",
		"DETACH TABLE tributary.canary",
		"ATTACH TABLE tributary.made FROM 'OUT' (a UInt8) ENGINE = MergeTree ORDER BY a",
		"SET readonly = 0",
		"SET ROLE writer",
		"SET DEFAULT ROLE writer TO default",
		"EXECUTE AS default SELECT 1",
		"GRANT ALL ON *.* TO default",
		"USE default",
		"SYSTEM FLUSH LOGS",
		"SYSTEM SHUTDOWN",
		"KILL QUERY WHERE 1",
		"BACKUP TABLE tributary.canary TO File('OUT')",
		"RESTORE TABLE tributary.canary FROM File('OUT')",
		"BEGIN TRANSACTION",
		"CHECK TABLE tributary.canary",
		"WATCH tributary.canary",
		"exit",
		"SELECT nothing FROM tributary.canary -- { serverError UNKNOWN_IDENTIFIER }",
		"SELECT nothing FROM tributary.canary /* { serverError 47 } */",
	}
	for _, template := range statements {
		sql := strings.NewReplacer("'FILE", "'"+secret, "`FILE`", "`"+secret+"`", "'OUT'", "'"+outfile+"'").Replace(template)
		t.Run(template, func(t *testing.T) {
			for _, a := range []ask{{body: sql}, {method: http.MethodGet, params: values("query", sql)}} {
				r := do(t, s, a)
				t.Logf("%s: %.160s", r.code(), r.body)
				if r.status < 400 || r.code() == "" {
					t.Errorf("status %d, code %q: %s", r.status, r.code(), r.body)
				}
				if strings.Contains(r.body, "s3cr3t") {
					t.Errorf("the answer shows the secret: %s", r.body)
				}
			}
		})
	}
	if _, err := os.Stat(outfile); err == nil {
		t.Error("a reader wrote a file")
	}
	if got := read(t, s, "SELECT * FROM tributary.canary"); got != "1\tone" {
		t.Errorf("canary is now %q", got)
	}
	if got := read(t, s, "SELECT count() FROM system.tables WHERE name = 'made'"); got != "0" {
		t.Errorf("a reader made %s tables", got)
	}
}

func TestReadersMayRead(t *testing.T) {
	s := sharedStore(t)
	write(t, s, "CREATE TABLE IF NOT EXISTS tributary.readable (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
	write(t, s, "TRUNCATE TABLE tributary.readable")
	write(t, s, "INSERT INTO tributary.readable SELECT 1, 'x'")
	write(t, s, "CREATE OR REPLACE VIEW tributary.readable_view AS SELECT a + 1 AS c FROM tributary.readable")
	for sql, want := range map[string]string{
		"SELECT * FROM readable":                                                            "1\tx",
		"SELECT * FROM tributary.readable":                                                  "1\tx",
		"SELECT c FROM tributary.readable_view -- a comment":                                "2",
		"WITH x AS (SELECT a FROM readable) SELECT a FROM x":                                "1",
		"(SELECT 1) UNION ALL (SELECT 1)":                                                   "1\n1",
		"SELECT number FROM numbers(2)":                                                     "0\n1",
		"EXISTS TABLE tributary.readable":                                                   "1",
		"SHOW TABLES FROM tributary LIKE 'readable'":                                        "readable",
		"SELECT a FROM readable SETTINGS max_threads = 1, final = 0, max_result_rows = 10":  "1",
		"SELECT a FROM readable FORMAT CSV SETTINGS output_format_csv_crlf_end_of_line = 0": "1",
		"SELECT 'a ; -- b' AS x":                                                            "a ; -- b",
		"SELECT count() > 100 FROM system.columns":                                          "1",
		"SELECT currentRoles()":                                                             "[]",
		"SELECT getSetting('implicit_select'), getSetting('readonly')":                      "false\t2",
	} {
		if got := read(t, s, sql); got != want {
			t.Errorf("%s: %q, want %q", sql, got, want)
		}
	}
	if got := read(t, s, "DESCRIBE TABLE readable"); !strings.HasPrefix(got, "a\tUInt32") {
		t.Errorf("DESCRIBE: %q", got)
	}
	if got := read(t, s, "EXPLAIN SELECT a FROM readable"); got == "" {
		t.Error("EXPLAIN is empty")
	}
}

// TestParametersOfReaders: what a URL can do without credentials.
func TestParametersOfReaders(t *testing.T) {
	s := sharedStore(t)
	const one = "SELECT getSetting('max_threads')"
	if r := do(t, s, ask{body: one, params: values("max_threads", "1")}); r.body != "1\n" {
		t.Errorf("max_threads in the URL: %d %s", r.status, r.body)
	}
	for i := range 2 * readerSlots { // and gone with the request, on every connection
		if got := read(t, s, one); got == "1" {
			t.Errorf("try %d: the setting stayed", i)
		}
	}
	for name, params := range map[string][]string{
		"setting":           {"readonly", "0", "allow_ddl", "1"},
		"file setting":      {"format_template_row", "/etc/passwd"},
		"quoted name":       {"max_threads = 1, readonly", "0"},
		"database":          {"database", "default"},
		"database quoted":   {"database", "system`; DROP"},
		"format":            {"default_format", "CSV INTO OUTFILE 'x'"},
		"session":           {"session_id", "x"},
		"wrong password":    {"user", "tributary", "password", "x"},
		"user alone":        {"user", "tributary"},
		"unknown user":      {"user", "somebody", "password", ""},
		"default with one":  {"user", "default", "password", "x"},
		"protocol revision": {"client_protocol_version", "x"},
	} {
		if r := do(t, s, ask{body: "SELECT 1", params: values(params...)}); r.status < 400 || r.code() == "" {
			t.Errorf("%s: status %d, code %q: %s", name, r.status, r.code(), r.body)
		}
	}
	r := do(t, s, ask{body: "SELECT {f:Identifier}('/etc/hostname')", params: values("param_f", "file")})
	if r.status != http.StatusForbidden {
		t.Errorf("function by parameter: %d %s", r.status, r.body)
	}
	r = do(t, s, ask{body: "SELECT 1", writer: true, params: values("readonly", "1")})
	if r.body != "1\n" {
		t.Errorf("readonly=1 with the credential: %d %s", r.status, r.body)
	}
	r = do(t, s, ask{body: "DROP TABLE tributary.canary", writer: true, params: values("readonly", "1")})
	if r.code() != "497" {
		t.Errorf("DROP with readonly=1: %d %s", r.status, r.body)
	}
}

// TestSettingsDoNotStay: a request with other settings than the one before, with a wrong one, or without any finds those it asks for and no others, on every
// connection; and none of them changes what a statement is taken for.
func TestSettingsDoNotStay(t *testing.T) {
	s := sharedStore(t)
	const one = "SELECT getSetting('max_threads'), getSetting('max_block_size'), getSetting('max_execution_time')"
	usual := read(t, s, one)
	_, rest, _ := strings.Cut(usual, "\t")
	for i := range 2 * readerSlots {
		if got := do(t, s, ask{body: one, params: values("max_threads", "1", "limit", "1")}).body; got != "1\t"+rest+"\n" {
			t.Errorf("try %d, of two settings: %q", i, got)
		}
		if got := do(t, s, ask{body: one, params: values("max_threads", "1", "max_execution_time", "7")}).body; !strings.HasPrefix(got, "1\t") || !strings.HasSuffix(got, "\t7\n") {
			t.Errorf("try %d, of two others: %q", i, got)
		}
		if r := do(t, s, ask{body: one, params: values("max_threads", "2", "max_block_size", "many")}); r.status < 400 {
			t.Errorf("try %d, a wrong one: %s", i, r.body)
		}
		if got := read(t, s, one); got != usual {
			t.Errorf("try %d, without: %q, want %q", i, got, usual)
		}
		do(t, s, ask{body: "SELECT 1", params: values("offset", "1")})
		if r := do(t, s, ask{body: "SELECT 1 FROM file('/etc/hostname', LineAsString) FORMAT CSV"}); r.code() != "497" {
			t.Errorf("try %d, behind an offset: %d %s", i, r.status, r.body)
		}
	}
}

func TestWebPagesAreRefused(t *testing.T) {
	s := sharedStore(t)
	for name, header := range map[string]http.Header{
		"origin":      {"Origin": {"http://example.com"}},
		"null origin": {"Origin": {"null"}},
		"cross-site":  {"Sec-Fetch-Site": {"cross-site"}},
		"same-origin": {"Sec-Fetch-Site": {"same-origin"}},
	} {
		for _, writer := range []bool{false, true} {
			if r := do(t, s, ask{body: "SELECT 1", header: header, writer: writer}); r.status != http.StatusForbidden {
				t.Errorf("%s, credential %v: status %d", name, writer, r.status)
			}
		}
	}
	request, _ := http.NewRequest(http.MethodGet, s.URL()+"/?query=SELECT+1", nil)
	request.Host = "rebound.example.com:8123"
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("foreign Host: status %d", response.StatusCode)
	}
}
