package embedded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitInsert(t *testing.T) {
	for text, want := range map[string]insertHead{
		"INSERT INTO t FORMAT Native":                          {"INSERT INTO t ", "Native", 27},
		"INSERT INTO t FORMAT Native\n\n\n":                    {"INSERT INTO t ", "Native", 28},
		"insert into t(a,`format`) format  CSV \r\n1":          {"insert into t(a,`format`) ", "CSV", 40},
		"/* FORMAT x */ INSERT INTO t VALUES (1)":              {"/* FORMAT x */ INSERT INTO t ", "Values", 35},
		"INSERT INTO \"VALUES\" -- VALUES\n (a) VALUES(1)":     {"INSERT INTO \"VALUES\" -- VALUES\n (a) ", "Values", 42},
		"INSERT INTO t SETTINGS x = 'FORMAT CSV' FORMAT TSV 1": {"INSERT INTO t SETTINGS x = 'FORMAT CSV' ", "TSV", 51},
	} {
		got, ok := splitInsert(text)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(insertHead{})); !ok || diff != "" {
			t.Errorf("%q: %v %s", text, ok, diff)
		}
	}
	for _, text := range []string{
		"", "SELECT 1 FORMAT Native", "INSERT INTO t SELECT 1 FORMAT Native", "INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x",
		"INSERT INTO t FROM INFILE 'x' FORMAT CSV", "INSERT INTO t (SELECT 1)", "INSERT INTO t", "INSERT INTO t FORMAT", "INSERT INTO t 'VALUES'",
	} {
		if got, ok := splitInsert(text); ok {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestTokens(t *testing.T) {
	var got []string
	for _, token := range tokens("SELECT `a\\`b`, 'x''\\'y', \"q\", $h$ ' $h$ # c\n-- d\n/* e */ + 1.5") {
		got = append(got, token.text)
	}
	want := []string{"SELECT", "a`b", ",", "", ",", "q", ",", "", "+", "1", ".", "5"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPlainSelect: only what can be read in one way is not shown to the engine's parser.
func TestPlainSelect(t *testing.T) {
	for _, text := range []string{
		"SELECT 1", "select count() from flows where local_workload != '' and x = {x:String}", "WITH 1 AS a\nSELECT a, 'it''s', 'FORMAT', [1][1] FROM t AS f UNION ALL SELECT 2",
	} {
		if st, ok := plainSelect(text); !ok || !st.reads() || st.format != "" {
			t.Errorf("%q: %v %+v", text, ok, st)
		}
	}
	for _, text := range []string{
		"", " ", "1", "(SELECT 1)", "FROM t SELECT 1", "SHOW TABLES", "EXPLAIN SELECT 1", "SET a = 1", "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", "SELECT 1; SELECT 2", "SELECT 1;",
		"SELECT 1 -- c", "SELECT 1 /* c */", "SELECT 1 # c", "SELECT 1--1", "SELECT 'a\\'b'", "SELECT `a`", "SELECT \"a\"", "SELECT $a$ b $a$", "SELECT 'ä'", "SELECT\u00a01", "SELECT ‘a’",
		"SELECT 1 format CSV", "SELECT 1 INTO OUTFILE 'x'", "SELECT 1 settings readonly = 0", "SELECT 1 PARALLEL WITH SELECT 2", "SELECT\x001",
	} {
		if _, ok := plainSelect(text); ok {
			t.Errorf("%q is taken for plain", text)
		}
	}
}

// FuzzTokens: any text is read to its end, in order.
func FuzzTokens(f *testing.F) {
	for _, seed := range []string{"SELECT 1", "'", "`", "$a$", "$a$ $a$", "/*", "--", "\\", "\xff'\\", "INSERT INTO t FORMAT CSV 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at := 0
		for _, token := range tokens(text) {
			if token.start < at || token.end <= token.start || token.end > len(text) {
				t.Fatalf("token %+v after offset %d in %q", token, at, text)
			}
			at = token.end
		}
		if head, ok := splitInsert(text); ok && (head.data > len(text) || !strings.HasPrefix(text, head.into)) {
			t.Fatalf("%+v of %q", head, text)
		}
	})
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	made, err := EnsureCredential(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, passwordFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 || made.User != "tributary" || len(made.Password) != 64 {
		t.Errorf("%v %v, user %s, %d characters", info.Mode(), err, made.User, len(made.Password))
	}
	again, err := EnsureCredential(dir)
	if err != nil || again != made {
		t.Errorf("second call: %v, same %v", err, again == made)
	}
	if strings.Contains(made.String(), made.Password) {
		t.Error("the password is printed")
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureCredential(dir); err == nil {
		t.Error("a password that others can read is accepted")
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(path, 0o600)
	if _, err := EnsureCredential(dir); err == nil {
		t.Error("a short password is accepted")
	}
	if _, err := ReadCredential(""); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("no directory: %v", err)
	}
	if _, err := EnsureCredential(filepath.Join(dir, "missing")); err == nil {
		t.Error("no directory, no error")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".password-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
