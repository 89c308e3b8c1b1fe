package app

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"tributary/exporter/config"
	"tributary/service/spool"
	"tributary/service/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runApp starts an exporter and returns a function that stops it and waits.
func runApp(t *testing.T, c config.Config) (a *App, stop func() error) {
	t.Helper()
	a, err := New(c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	a.names.own = ownProcess{} // the connections of the test are those of a workload
	a.drainMost = time.Minute  // a machine that stands still for a while does not change who is judged by what
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = stop() })
	for end := time.Now().Add(30 * time.Second); len(a.unready()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the exporter does not get ready: %v; %v", a.unready(), stop())
		}
	}
	return a, stop
}

func testConfig(t *testing.T, collector string) config.Config {
	c := config.Default()
	c.Collector, c.MetricsListen, c.Spool.Dir = collector, "127.0.0.1:0", t.TempDir()
	c.ShutdownTimeout = time.Minute
	c.Workload, c.Instance, c.Socket = "test/app", "app-1", filepath.Join(t.TempDir(), "socket")
	return c
}

// exchange serves n connections on network's loopback address: connection i asks with i+1 bytes and is answered with 3*i+2.
func exchange(t *testing.T, address string, n int) (port uint32) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	var server sync.WaitGroup
	server.Go(func() {
		for range n {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 4)
			_, _ = io.ReadFull(conn, head)
			i := binary.BigEndian.Uint32(head)
			_, _ = io.CopyN(io.Discard, conn, int64(i))
			_, _ = conn.Write(make([]byte, 3*i+2))
			_ = conn.Close()
		}
	})
	for i := range uint32(n) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(binary.BigEndian.AppendUint32(nil, i))
		_, _ = conn.Write(make([]byte, i))
		if got, _ := io.Copy(io.Discard, conn); got != int64(3*i+2) {
			t.Errorf("connection %d was answered with %d bytes", i, got)
		}
		_ = conn.Close()
	}
	server.Wait()
	return uint32(listener.Addr().(*net.TCPAddr).Port)
}

func TestRealConnectionsBecomeExactRows(t *testing.T) {
	testenv.NeedRoot(t)
	c := startCollector(t)
	a, stop := runApp(t, testConfig(t, c.address))
	const n = 211
	var asked, answered uint64
	for i := range uint64(n) {
		asked, answered = asked+4+i, answered+3*i+2
	}
	ports := map[uint32]string{exchange(t, "127.0.0.1:0", n): "127.0.0.1", exchange(t, "[::1]:0", n): "::1"}
	refused := closedPort(t)
	for range 7 {
		if _, err := net.Dial("tcp", refused.String()); err == nil {
			t.Fatal("a closed port answered")
		}
	}
	drained(t, a)
	balance(t, a, scrape(t, a))
	c.awaitWatermarks(t, 1)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for port, host := range ports {
		clients, tx, rx := c.count(func(r row) bool {
			return r.remotePort == port && r.role == "client" && r.kind == "closed" && r.remote.String() == host && r.workload == "test/app" && r.comm != ""
		})
		if diff := cmp.Diff([]uint64{n, asked, answered}, []uint64{uint64(clients), tx, rx}); diff != "" {
			t.Errorf("clients of %s (-want +got): %s", host, diff)
		}
		servers, tx, rx := c.count(func(r row) bool { return r.localPort == port && r.role == "server" && r.kind == "closed" })
		if diff := cmp.Diff([]uint64{n, answered, asked}, []uint64{uint64(servers), tx, rx}); diff != "" {
			t.Errorf("servers of %s (-want +got): %s", host, diff)
		}
	}
	failed, _, _ := c.count(func(r row) bool {
		return r.remotePort == uint32(refused.Port()) && r.role == "client" && r.kind == "failed" && r.errno == 111
	})
	if failed != 7 {
		t.Errorf("%d refused connections, want 7", failed)
	}
	s := a.spool.Stats()
	if s.Appended != s.Acked || int(s.Acked.Rows) != len(c.rows) || c.mark == 0 || c.last["ring.read"] == 0 {
		t.Errorf("books %+v, %d rows, %d watermarks, counters %v", s, len(c.rows), c.mark, c.last)
	}
}

// drained waits until everything that happened up to now has been read from the ring.
func drained(t *testing.T, a *App) {
	t.Helper()
	if err := a.source.get().Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func closedPort(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// scrape reads /metrics as Prometheus does.
func scrape(t *testing.T, a *App) map[string]float64 {
	t.Helper()
	out := make(map[string]float64)
	for line := range strings.Lines(get(t, a, "/metrics")) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && !strings.HasPrefix(line, "#") {
			out[strings.TrimPrefix(name, "tributary_exporter_")], _ = strconv.ParseFloat(value, 64)
		}
	}
	return out
}

func get(t *testing.T, a *App, path string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + a.metrics.Addr() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// balance checks the books of one scrape. Connections go on meanwhile (the scrape is one), so each book is only required to be no
// further than the one before it by what can have moved between two readings.
func balance(t *testing.T, a *App, m map[string]float64) {
	t.Helper()
	handed := m[`ring_records_total{source="ring"}`] + m[`ring_records_total{source="walk"}`]
	decoded := m[`event_decoded_total{kind="active"}`] + m[`event_decoded_total{kind="closed"}`] + m[`event_decoded_total{kind="failed"}`]
	rows := m["batch_sealed_rows_total"] + m["batch_open_rows"] + m["batch_refused_rows_total"]
	delivered := m["spool_acked_rows_total"] + m["spool_rejected_rows_total"] + m["spool_pending_rows"]
	for _, reason := range spool.Reasons() {
		delivered += m[`spool_dropped_rows_total{reason="`+reason.String()+`"}`]
	}
	for name, pair := range map[string][2]float64{
		"ring and decoded": {handed, decoded + m["ring_invalid_total"]},
		"decoded and rows": {decoded, rows},
		"sealed and spool": {m["batch_sealed_rows_total"], m[`spool_taken_rows_total{source="sealed"}`]},
		"spool":            {m[`spool_taken_rows_total{source="sealed"}`], delivered},
		"probe":            {m["probe_ends_total"], m["probe_submitted_total"] + m[`probe_lost_total{reason="ring_full"}`]},
	} {
		if diff := pair[0] - pair[1]; diff < -20 || diff > 20 {
			t.Errorf("the books of %s differ: %v", name, pair)
		}
	}
	if m[`spool_taken_rows_total{source="sealed"}`] != delivered {
		t.Errorf("the spool's own book must balance in every scrape: %v in, %v out", m[`spool_taken_rows_total{source="sealed"}`], delivered)
	}
	if got := get(t, a, "/readyz"); got != "ready\n" {
		t.Errorf("readyz: %s", got)
	}
	if decoded == 0 {
		t.Error("nothing was decoded")
	}
}

// Without a collector and without a directory a stop loses what there is, and says so; with a directory it is there for the next run.
func TestStopWithoutACollector(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	for _, c := range []struct {
		name, dir, say string
		lost           func(spool.Stats) spool.Count
	}{
		{"in memory", "", "these rows are lost", func(s spool.Stats) spool.Count { return s.Dropped[spool.Shutdown] }},
		{"on disk", dir, "left on disk for the next start", func(s spool.Stats) spool.Count { return s.Pending }},
		{"no directory", "/proc/nowhere", "these rows are lost", func(s spool.Stats) spool.Count { return s.Dropped[spool.Shutdown] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var text bytes.Buffer
			config := testConfig(t, closedPort(t).String())
			config.ShutdownTimeout, config.Spool.Dir = 100*time.Millisecond, c.dir
			a, err := New(config, slog.New(slog.NewTextHandler(&text, nil)))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- a.Run(ctx) }()
			for !a.source.running.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			exchange(t, "127.0.0.1:0", 5)
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			s := a.spool.Stats()
			if lost := c.lost(s); lost.Rows < 10 || s.Appended != lost || strings.Count(text.String(), fmt.Sprintf("rows=%d", lost.Rows)) != 1 {
				t.Errorf("books: %+v, %s", s, text.String())
			}
			if !strings.Contains(text.String(), c.say) {
				t.Errorf("it does not say %q: %s", c.say, text.String())
			}
		})
	}
	left, err := spool.Inspect(dir, "")
	if err != nil || left.Total.Rows < 10 || left.Pid != 0 {
		t.Errorf("left on disk: %+v, %v", left, err)
	}
}

func TestErrorsAtTheStartAreSentences(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	c := testConfig(t, "127.0.0.1:1")
	c.MetricsListen = taken.Addr().String()
	a, err := New(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("a port in use: %v", err)
	}
	c.TLS.CA = "/nowhere/ca.pem"
	if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "/nowhere/ca.pem") {
		t.Errorf("a missing certificate: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // in the output, or in the error
	}{
		{[]string{"--check"}, "valid"},
		{[]string{"run", "--check"}, "valid"},
		{[]string{"--dump", "--zone", "eu-1"}, "zone: eu-1"},
		{[]string{"--version"}, "tributary-exporter "},
		{[]string{"--scope", "cgroup"}, "--scope cgroup"},
		{[]string{"--nonsense"}, "unknown flag"},
		{[]string{"surplus"}, "surplus"},
		{[]string{"--check", "--tls-ca", "/nowhere"}, "/nowhere"},
		{[]string{"spool", "--spool-dir", t.TempDir()}, "total to send"},
		{[]string{"spool", "--spool-dir", "/nowhere"}, "open the spool directory"},
		{[]string{"spool", "--spool-dir", ""}, "--spool-dir"},
		{[]string{"spool", "-o", "xml"}, "table or json"},
	} {
		cmd := NewCommand()
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetArgs(c.args)
		err := cmd.ExecuteContext(t.Context())
		if got := fmt.Sprint(out.String(), err); !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.args, got)
		}
	}
}
