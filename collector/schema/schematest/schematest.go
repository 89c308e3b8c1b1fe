// Package schematest gives tests the real ClickHouse engine: one embedded store for a test program, and a database of its own for
// each test. Its users call Main from TestMain, because the engine runs in a child process that is the test program again.
package schematest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tributary/collector/embedded"
	"tributary/collector/schema"
	"tributary/service/testenv"
)

const (
	childArg   = "embedded-child"
	libraryEnv = "TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY"
)

// Main is the whole of a TestMain.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == childArg {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := embedded.RunChild(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	shared.mu.Lock()
	if shared.store != nil {
		shared.store.Stop()
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

var shared struct {
	mu    sync.Mutex
	store *embedded.Store
	dir   string
	// statements make what the migrations make; nil before they were asked for
	statements []string
}

func libraryPath() string {
	if path := os.Getenv(libraryEnv); path != "" {
		return path
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "bin", "libchdb.so")
}

// Config is of an engine of a test's own, which it may kill.
func Config(dir string) embedded.Config {
	return embedded.Config{DataDir: dir, Listen: "127.0.0.1:0", LibraryPath: libraryPath(), Command: []string{os.Args[0], childArg}}
}

// Store returns the test program's engine. The test is skipped, and fails in CI, where the library is missing.
func Store(t testing.TB) *embedded.Store {
	t.Helper()
	testenv.NeedFile(t, libraryPath(), "run make engine")
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.store != nil {
		return shared.store
	}
	dir, err := os.MkdirTemp("", "tributary-schematest-")
	if err != nil {
		t.Fatal(err)
	}
	store, err := embedded.New(Config(dir))
	if err == nil {
		err = store.Start(context.Background())
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		t.Fatal(err)
	}
	shared.store, shared.dir = store, dir
	return store
}

// Server returns the engine as a writer sees it, with the name of a database that does not exist yet and is dropped after the test.
func Server(t testing.TB) schema.Server {
	t.Helper()
	store := Store(t)
	name := make([]byte, 6)
	if _, err := rand.Read(name); err != nil {
		t.Fatal(err)
	}
	c := store.Credential()
	s := schema.Server{URL: store.URL(), Database: "test_" + hex.EncodeToString(name), User: c.User, Password: c.Password}
	t.Cleanup(func() { Query(t, s, "DROP DATABASE IF EXISTS "+s.Database) })
	return s
}

// Migrated returns a server whose database has the schema: what the migrations have made of a first database of this test program, made again by the statements
// that the engine shows of it. That takes a third of the time.
func Migrated(t testing.TB) schema.Server {
	t.Helper()
	s := Server(t)
	statements := templateOf(t, s)
	Query(t, s, "CREATE DATABASE "+s.Database)
	for _, statement := range statements {
		Query(t, s, strings.ReplaceAll(statement, template+".", s.Database+"."))
	}
	Query(t, s, fmt.Sprintf("INSERT INTO %s.schema_migrations SELECT * FROM %s.schema_migrations", s.Database, template))
	return s
}

// template is the database that the migrations have made.
const template = "schematest_template"

// templateOf returns the statements that make its tables, then its views.
func templateOf(t testing.TB, s schema.Server) []string {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.statements != nil {
		return shared.statements
	}
	s.Database = template
	if err := schema.Migrate(context.Background(), s, schema.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	text := Query(t, s, "SELECT create_table_query || '\\0' FROM system.tables WHERE database = '"+template+"' ORDER BY endsWith(engine, 'View'), name")
	for statement := range strings.SplitSeq(text, "\x00\n") {
		if statement != "" {
			shared.statements = append(shared.statements, statement)
		}
	}
	return shared.statements
}

const queryTimeout = time.Minute

// Query runs a statement and returns its answer as TabSeparatedRaw. An error ends the test.
func Query(t testing.TB, s schema.Server, statement string) string {
	t.Helper()
	q := url.Values{"default_format": {"TabSeparatedRaw"}, "wait_end_of_query": {"1"}}
	r, err := http.NewRequest(http.MethodPost, s.URL+"/?"+q.Encode(), strings.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	s.Authorize(r)
	answer, err := (&http.Client{Timeout: queryTimeout}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", statement, answer.Status, body, err)
	}
	return string(body)
}
