package embedded

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tributary/service/testenv"
)

const (
	libraryEnv    = "TRIBUTARY_COLLECTOR_EMBEDDED_LIBRARY"
	testParentEnv = "TRIBUTARY_TEST_EMBEDDED_PARENT"
)

// TestMain is also the child: a process opens the engine once, so the tests never open it themselves. With testParentEnv it is
// a parent for the test that kills one.
func TestMain(m *testing.M) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch {
	case os.Getenv(childEnv) != "":
		ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer cancel()
		if err := RunChild(ctx, logger); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getenv(testParentEnv) != "":
		runTestParent(os.Getenv(testParentEnv))
	}
	code := m.Run()
	shared.mu.Lock()
	if shared.store != nil {
		shared.store.Stop()
		_ = os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

func runTestParent(dir string) {
	store, err := New(testConfig(dir))
	if err == nil {
		err = store.Start(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

var shared struct {
	mu    sync.Mutex
	store *Store
	dir   string
}

func libraryPath() string {
	if path := os.Getenv(libraryEnv); path != "" {
		return path
	}
	path, _ := filepath.Abs("../../bin/libchdb.so")
	return path
}

func testConfig(dir string) Config {
	return Config{
		DataDir: dir, Listen: "127.0.0.1:0", LibraryPath: libraryPath(), Command: []string{os.Args[0]},
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func needEngine(t *testing.T) {
	t.Helper()
	testenv.NeedFile(t, libraryPath(), "run make engine (deploy/dev/fetch-engine.sh)")
}

// sharedStore is one running store for all tests that do not kill it.
func sharedStore(t *testing.T) *Store {
	t.Helper()
	needEngine(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.store == nil {
		dir, err := os.MkdirTemp("", "tributary-embedded-")
		if err != nil {
			t.Fatal(err)
		}
		store, err := New(testConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		shared.store, shared.dir = store, dir
	}
	return shared.store
}

// ask is one request; zero fields are left out.
type ask struct {
	method, path, body string
	params             url.Values
	header             http.Header
	writer             bool
}

type reply struct {
	status int
	body   string
	header http.Header
}

func (r reply) code() string { return r.header.Get("X-ClickHouse-Exception-Code") }

func do(t *testing.T, s *Store, a ask) reply {
	t.Helper()
	method := a.method
	if method == "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(t.Context(), method, s.URL()+a.path+"?"+a.params.Encode(), bytes.NewReader([]byte(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range a.header {
		request.Header[name] = values
	}
	if a.writer {
		request.SetBasicAuth(s.Credential().User, s.Credential().Password)
	}
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{response.StatusCode, string(body), response.Header}
}

// read asks without credentials, write with them; both expect success.
func read(t *testing.T, s *Store, sql string) string {
	t.Helper()
	r := do(t, s, ask{body: sql})
	if r.status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", sql, r.status, r.body)
	}
	return strings.TrimRight(r.body, "\n")
}

func write(t *testing.T, s *Store, sql string) reply {
	t.Helper()
	r := do(t, s, ask{body: sql, writer: true})
	if r.status != http.StatusOK {
		t.Fatalf("%s: status %d: %s", sql, r.status, r.body)
	}
	return r
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}
