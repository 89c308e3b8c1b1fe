package e2e

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/deploy/world"
)

// Paths break in eight ways and look broken in others. The test runs each once with short timings; `make bench-paths` runs it ten times with the
// defaults, for clients that wait as long as the kernel does and for those that do not.
var (
	pathsTimings = flag.String("paths.timings", "short", "of the judge: short, or default")
	pathsClients = flag.String("paths.clients", "short", "how long clients wait for a connect: short (1.5 s), or kernel (two minutes)")
)

// brokenPath is a way to break the path to a host of its own, and what must be said of it.
type brokenPath struct {
	name, verdict string
	cut           func(r *rig, host string)
	heal          func(r *rig, host string)
}

const (
	pathPort    = 7000
	pathRequest = 300
)

func brokenPaths() []brokenPath {
	firewall := func(in, out string) func(*rig, string) {
		return func(r *rig, host string) { r.must(r.world.Firewall(host, in, out)) }
	}
	open := firewall("", "")
	return []brokenPath{
		{"killed", "no_listener", func(r *rig, host string) { r.procs[host].Kill() }, (*rig).revive},
		{"rejects", "rejected", firewall("tcp dport 7000 reject with tcp reset", ""), open},
		{"drops", "dropped", firewall("tcp dport 7000 drop", ""), open},
		{"busy", "listener_overflow", (*rig).freeze, (*rig).thaw},
		{"away", "unreachable", firewall("tcp dport 7000 reject with icmpx type host-unreachable", ""), open},
		{"resets", "reset", firewall("tcp dport 7000 tcp flags & psh == psh reject with tcp reset", ""), open},
		{"mute", "no_reply", firewall("", "tcp sport 7000 meta length > 120 drop"), open},
		{"fussy", "early_close", (*rig).fuss, (*rig).calm},
	}
}

// must ends the test on an error.
func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// revive starts a host's server, again if need be.
func (r *rig) revive(host string) {
	r.t.Helper()
	p, err := r.world.Spawn(host, host)
	r.must(err)
	r.procs[host] = p
	r.must(p.Listen(r.ctx, world.Listen{Port: pathPort}))
}

func (r *rig) freeze(host string) { r.must(unix.Kill(r.procs[host].PID(), syscall.SIGSTOP)) }
func (r *rig) thaw(host string)   { r.must(unix.Kill(r.procs[host].PID(), syscall.SIGCONT)) }

// fuss puts a server in place of the host's that sends an alert of TLS and closes.
func (r *rig) fuss(host string) {
	r.t.Helper()
	r.procs[host].Kill()
	r.must(r.world.In(host, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", pathPort))
		if err != nil {
			return err
		}
		r.fussy = l
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					_, _ = io.CopyN(io.Discard, conn, pathRequest) // what is unread makes a reset of the close
					_, _ = conn.Write([]byte{21, 3, 3, 0, 2, 2, 40})
					_ = conn.Close()
				}()
			}
		}()
		return nil
	}))
}

func (r *rig) calm(host string) {
	r.must(r.fussy.Close())
	r.revive(host)
}

// pathsWorld: one client of all that breaks, one of all that only looks broken, and a server for each.
func pathsWorld() []world.Host {
	names := []string{"client", "steady", "idler", "quitter"}
	for _, b := range brokenPaths() {
		names = append(names, b.name)
	}
	names = append(names, "idle", "left", "drained", "old", "renewed", "aborted")
	var hosts []world.Host
	for i, name := range names {
		h := world.Host{Name: name, Number: byte(11 + i), Workload: "paths/" + name, Instance: name + "-1"}
		if name == "old" { // replaced by the next
			h.Workload = "paths/renewed"
		}
		hosts = append(hosts, h)
	}
	return hosts
}

func (r *rig) pathCall(host string) world.Call {
	c := world.Call{To: netip.AddrPortFrom(r.world.IPv4(host), pathPort), Request: pathRequest, Response: 1_000}
	if *pathsClients == "short" {
		c.Timeout = 1500 * time.Millisecond
	}
	return c
}

// calls makes a client ask the hosts by turns, each five times a second.
func (r *rig) calls(client, job string, hosts ...string) {
	r.t.Helper()
	var calls []world.Call
	for _, h := range hosts {
		calls = append(calls, r.pathCall(h))
	}
	r.must(r.procs[client].Begin(world.Job{ID: job, Every: 200 * time.Millisecond / time.Duration(len(hosts)), Parallel: 12, Calls: calls}))
}

func TestPaths(t *testing.T) {
	r := bareRig(t, false)
	if *pathsTimings == "short" {
		t.Setenv("TRIBUTARY_COLLECTOR_REACHABILITY_EVERY", "1s")
		t.Setenv("TRIBUTARY_COLLECTOR_REACHABILITY_OPEN_AFTER", "6s")
		t.Setenv("TRIBUTARY_COLLECTOR_REACHABILITY_CLOSE_AFTER", "5s")
	}
	r.observe(pathsWorld())
	r.preparePaths()
	warm, heals := 12*time.Second, time.Minute
	if *pathsTimings != "short" {
		warm, heals = time.Minute, 4*time.Minute
		r.ctx = t.Context()
	}
	time.Sleep(warm)
	if rows := r.rows("SELECT * EXCEPT evidence FROM regressions"); len(rows) > 0 {
		t.Fatalf("before anything broke: %q", rows)
	}
	broke := time.Now()
	for _, b := range brokenPaths() {
		b.cut(r, b.name)
	}
	r.lookBroken()
	r.expectBroken(broke)
	for _, b := range brokenPaths() {
		b.heal(r, b.name)
	}
	r.waitFor(uint64(len(brokenPaths())), heals, "SELECT countIf(closed_why = 'healed') FROM regressions")
	r.exporter.kill()
	time.Sleep(3 * time.Second)
	r.startExporter("--identity", r.identity(), "--sample-rate", "20")
	r.collector.end(t)
	r.startCollector()
	time.Sleep(warm)
	if n := r.number("SELECT count() FROM regressions WHERE times > 1 OR open"); n > 0 {
		t.Errorf("alarms after the exporter was killed, began to sample, and the collector was restarted: %q", r.rows("SELECT * EXCEPT evidence FROM regressions WHERE times > 1 OR open"))
	}
}

// preparePaths starts servers and clients.
func (r *rig) preparePaths() {
	r.t.Helper()
	r.must(r.world.In("busy", func() error { // a short queue
		return os.WriteFile("/proc/sys/net/core/somaxconn", []byte("4"), 0)
	}))
	if *pathsClients != "short" {
		for _, client := range []string{"client", "steady"} {
			r.must(r.world.In(client, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_syn_retries", []byte("6"), 0) }))
		}
	}
	for _, h := range pathsWorld()[4:] {
		r.must(r.procs[h.Name].Listen(r.ctx, world.Listen{Port: pathPort}))
	}
	for _, b := range brokenPaths() {
		p, err := r.world.Spawn("client", "to-"+b.name) // a program of its own: what waits holds up nothing else
		r.must(err)
		r.procs["to-"+b.name] = p
		r.calls("to-"+b.name, b.name, b.name)
	}
	r.calls("steady", "steady", "drained", "old", "aborted")
	r.calls("idler", "idle", "idle")
	r.calls("quitter", "left", "left")
}

// lookBroken does what is no break: a path becomes idle, a client stops, a server is taken out of service, all instances of another are
// replaced, and a client aborts what it opens.
func (r *rig) lookBroken() {
	r.t.Helper()
	r.must(r.procs["idler"].Quiet(r.ctx))
	r.procs["quitter"].Kill()
	r.world.Retire("drained")
	r.identity()
	time.Sleep(2 * time.Second) // the exporter reads the file once a second
	r.procs["drained"].Kill()
	r.calls("steady", "renewed", "renewed")
	r.procs["old"].Kill()
	r.must(r.world.In("steady", func() error {
		for range 30 {
			conn, err := net.Dial("tcp", r.pathCall("aborted").To.String())
			if err != nil {
				return err
			}
			_, _ = conn.Write([]byte("never mind"))
			_ = conn.(*net.TCPConn).SetLinger(0)
			_ = conn.Close()
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}))
}

// expectBroken waits until each break is found, and compares.
func (r *rig) expectBroken(broke time.Time) {
	r.t.Helper()
	deadline := broke.Add(90 * time.Second)
	want := map[string]string{}
	for _, b := range brokenPaths() {
		want["paths/"+b.name] = b.verdict
	}
	for time.Now().Before(deadline) {
		if n := r.number("SELECT count() FROM regressions"); n >= uint64(len(want)) {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	time.Sleep(3 * time.Second) // what is wrongly found comes no later
	for _, row := range r.rows("SELECT server_workload, verdict, client_workload, opened_at, explanation FROM regressions ORDER BY opened_at") {
		opened, err := time.Parse("2006-01-02 15:04:05.000", row[3])
		r.must(err)
		r.t.Logf("%-14s %-18s after %4.1f s: %s", row[0], row[1], opened.Sub(broke).Seconds(), row[4])
		if want[row[0]] == "" {
			r.t.Errorf("%s → %s is no regression: %q", row[2], row[0], row)
		} else if want[row[0]] != row[1] {
			r.t.Errorf("%s: the verdict is %s, want %s; its attempts: %q", row[0], row[1], want[row[0]], r.attempts(row[0]))
		}
		delete(want, row[0])
	}
	for server, verdict := range want {
		r.t.Errorf("%s was not found (%s); its attempts: %q", server, verdict, r.attempts(server))
	}
	if r.t.Failed() {
		r.t.Log(strings.Join(slices.Collect(strings.Lines(tail(filepath.Join(r.dir, "tributary-collector.log")))), ""))
	}
}

// attempts are what the store has of those to a server, by how they ended.
func (r *rig) attempts(server string) [][]string {
	return r.rows(fmt.Sprintf("SELECT kind, last_state, close_reason, errno, count(), sum(tx_bytes), sum(rx_bytes) FROM flows WHERE role = 'client' AND remote_workload = '%s' GROUP BY ALL", server))
}
