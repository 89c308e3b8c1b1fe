package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func startStore(t *testing.T, cfg Config) *Store {
	t.Helper()
	store, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Stop)
	if err := store.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return store
}

func TestKilledChildIsStartedAgainAndKeepsAcknowledgedRows(t *testing.T) {
	needEngine(t)
	cfg := testConfig(t.TempDir())
	cfg.Life = "one & only"
	registry := prometheus.NewRegistry()
	cfg.Registerer = registry
	dir := cfg.DataDir
	s := startStore(t, cfg)
	write(t, s, "CREATE TABLE tributary.kept (a UInt64) ENGINE = MergeTree ORDER BY a")
	first := childInDir(t, dir, 0)
	acknowledged := 0
	for round := range 3 {
		for range 20 {
			write(t, s, fmt.Sprintf("INSERT INTO tributary.kept VALUES (%d)", acknowledged))
			acknowledged++
		}
		if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		next := 0
		eventually(t, "a new child", func() bool { next = childInDir(t, dir, first); return next != 0 })
		first = next
		// The request waits in the socket's backlog until the new child answers.
		eventually(t, "an answer", func() bool { return selectOne(t.Context(), http.DefaultClient, s.URL()) })
		if got := read(t, s, "SELECT getMacro('"+LifeMacro+"'), substitution FROM system.macros"); got != "one & only\tone & only" {
			t.Errorf("its life is called %q", got)
		}
		if got := read(t, s, "SELECT count(), uniqExact(a) FROM tributary.kept"); got != fmt.Sprintf("%d\t%d", acknowledged, acknowledged) {
			t.Errorf("after kill %d: %s of %d rows", round, got, acknowledged)
		}
	}
	want := "# HELP tributary_collector_embedded_restarts_total Times the embedded ClickHouse engine's process ended by itself and was started again.\n" +
		"# TYPE tributary_collector_embedded_restarts_total counter\ntributary_collector_embedded_restarts_total 3\n" +
		"# HELP tributary_collector_embedded_up 1 while the embedded ClickHouse engine's process runs.\n" +
		"# TYPE tributary_collector_embedded_up gauge\ntributary_collector_embedded_up 1\n"
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	s.Stop()
	if !gone(first) {
		t.Error("the child lives after Stop")
	}
	s.Stop() // twice is fine
	if left, _ := filepath.Glob(filepath.Join(dir, "clickhouse", "tmp", "*")); len(left) > 0 {
		t.Errorf("left in the temporary directory: %v", left)
	}
	// Started again on the same directory: everything is there.
	again := startStore(t, testConfig(dir))
	if got := read(t, again, "SELECT count() FROM tributary.kept"); got != strconv.Itoa(acknowledged) {
		t.Errorf("after a clean restart: %s of %d rows", got, acknowledged)
	}
	if again.Credential() != s.Credential() {
		t.Error("the credential changed")
	}
}

// childInDir finds the child that works in dir.
func childInDir(t *testing.T, dir string, not int) int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if cwd, err := os.Readlink(link); err == nil && cwd == dir && pid != not && pid != os.Getpid() {
			return pid
		}
	}
	return 0
}

func TestChildDiesWithKilledParent(t *testing.T) {
	needEngine(t)
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), testParentEnv+"="+dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = parent.Process.Kill(); _ = parent.Wait() }()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the parent says %q, %v", line, err)
	}
	child := childInDir(t, dir, 0)
	if child == 0 {
		t.Fatal("no child")
	}
	// A second collector on the same directory is refused while the first lives.
	second, err := New(testConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "another collector uses the data directory") {
		t.Errorf("second store: %v", err)
		second.Stop()
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	eventually(t, "the child is gone", func() bool { return gone(child) || childInDir(t, dir, 0) == 0 })
	// And a new one can start at once.
	if got := read(t, startStore(t, testConfig(dir)), "SELECT 1"); got != "1" {
		t.Errorf("new store answers %q", got)
	}
}

// A parent that was killed is started again before its child is quite gone, which still has the socket.
func TestStartWaitsForADyingChild(t *testing.T) {
	needEngine(t)
	dying, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { dying.Close() })
	cfg := testConfig(t.TempDir())
	cfg.Listen = dying.Addr().String()
	if got := read(t, startStore(t, cfg), "SELECT 1"); got != "1" {
		t.Errorf("it answers %q", got)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	noLibrary := filepath.Join(t.TempDir(), "libchdb.so")
	for name, c := range map[string]struct {
		change func(*Config)
		engine bool
		want   string
	}{
		"no library":    {func(c *Config) { c.LibraryPath = noLibrary }, false, "run make engine"},
		"port in use":   {func(c *Config) { c.Listen = busy.Addr().String() }, true, "cannot listen on"},
		"data dir":      {func(c *Config) { c.DataDir = filepath.Join(blocked, "data") }, true, "data directory cannot be used"},
		"not a library": {func(c *Config) { c.LibraryPath = blocked }, false, "does not start: exit status 1: open the engine: load"},
		"public listen": {func(c *Config) { c.Listen = "0.0.0.0:8123" }, false, "no loopback address"},
		"no such child": {func(c *Config) { c.Command = []string{"/nonexistent"} }, true, "start the engine's process"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.engine {
				needEngine(t)
			}
			cfg := testConfig(t.TempDir())
			c.change(&cfg)
			store, err := New(cfg)
			if err == nil {
				err = store.Start(t.Context())
				store.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want …%s…", err, c.want)
			}
		})
	}
}

func TestStopBeforeStart(t *testing.T) {
	store, err := New(testConfig(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	store.Stop()
	store.Stop()
}

// TestAbandonedQueryIsKilled: the client goes away, and the engine stops working for it.
func TestAbandonedQueryIsKilled(t *testing.T) {
	s := sharedStore(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	const heavy = "SELECT count() FROM numbers(1000000000000) WHERE NOT ignore(number * 7)"
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL(), strings.NewReader(heavy))
	if err != nil {
		t.Fatal(err)
	}
	if response, err := http.DefaultClient.Do(request); err == nil {
		response.Body.Close()
		t.Fatal("the query ended by itself")
	}
	eventually(t, "no such query runs", func() bool {
		return read(t, s, "SELECT count() FROM system.processes WHERE query LIKE '%ignore(number%' AND query NOT LIKE '%processes%'") == "0"
	})
	for range 2 * readerSlots { // every connection works afterwards
		read(t, s, "SELECT 1")
	}
	r := do(t, s, ask{body: heavy, params: values("max_execution_time", "1")})
	if r.code() != "159" || r.status != http.StatusRequestTimeout {
		t.Errorf("max_execution_time: %d %s", r.status, r.body)
	}
}
