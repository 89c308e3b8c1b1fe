package app

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"tributary/service/testenv"
)

// command runs a command line and returns what it printed, or its error's text.
func command(ctx context.Context, args ...string) string {
	cmd := NewCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	if err := cmd.ExecuteContext(ctx); err != nil {
		return err.Error()
	}
	return out.String()
}

// TestFilterWhileRunning changes what is recorded through the local socket: connections made right after a change obey it.
func TestFilterWhileRunning(t *testing.T) {
	testenv.NeedRoot(t)
	c := startCollector(t)
	cfg := testConfig(t, c.address)
	a, stop := runApp(t, cfg)
	awaitSocket(t, cfg.Socket)
	ask := func(want string, args ...string) {
		t.Helper()
		if got := command(t.Context(), append(args, "--socket", cfg.Socket)...); !strings.Contains(got, want) {
			t.Errorf("%v: %s", args, got)
		}
	}
	ask("filter_keep   -", "filter")
	seen := exchange(t, "127.0.0.1:0", 20)
	drop := closedPort(t)
	ask("filter_drop   port="+port(drop.Port()), "filter", "set", "--filter-drop", "port="+port(drop.Port()), "--active-every", "10s")
	dropped := exchange(t, drop.String(), 20)
	ask(`"filter_keep":["remote_port=1"]`, "filter", "set", "--filter-keep", "remote_port=1", "-o", "json")
	kept := exchange(t, "127.0.0.1:0", 20)
	ask("active_every  10s", "filter", "clear")
	after := exchange(t, "127.0.0.1:0", 20)

	for say, args := range map[string][]string{
		"is no port":        {"filter", "set", "--filter-drop", "port=http"},
		"keeps nothing":     {"filter", "set", "--filter-drop", "port=80", "--filter-keep", "local_port=80"},
		"sample-rate 0":     {"filter", "set", "--sample-rate", "0"},
		"above 1000000":     {"filter", "set", "--sample-rate", "1000001"},
		"between 5s":        {"filter", "set", "--active-every", "1s"},
		"table or json":     {"filter", "-o", "xml"},
		"sample_rate   1\n": {"filter"}, // nothing of all that holds
	} {
		ask(say, args...)
	}
	if got := command(t.Context(), "filter", "--socket", "/nowhere"); !strings.Contains(got, "no exporter answers on the socket /nowhere") {
		t.Error(got)
	}
	drained(t, a)
	m := scrape(t, a)
	if m[`filter_records_total{verdict="filtered"}`] < 80 {
		t.Errorf("%v records filtered", m[`filter_records_total{verdict="filtered"}`])
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[uint32]int{seen: 40, dropped: 0, kept: 0, after: 40} {
		if n, _, _ := c.count(func(r row) bool { return r.localPort == p || r.remotePort == p }); n != want {
			t.Errorf("port %d: %d records, want %d", p, n, want)
		}
	}
	if _, err := os.Stat(cfg.Socket); err == nil {
		t.Error("the socket is left behind")
	}
}

func port(n uint16) string { return strconv.Itoa(int(n)) }

func awaitSocket(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if info, err := os.Stat(path); err == nil {
			if info.Mode().Perm() != 0o600 {
				t.Errorf("the socket has mode %v", info.Mode())
			}
			return
		}
	}
	t.Fatal("no socket within 30 s")
}
