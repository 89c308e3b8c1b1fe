package world

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

// ownerArg starts the test binary as the owner of a world that is about to be killed.
const ownerArg = "world-test-owner"

func TestMain(m *testing.M) {
	RunChild()
	if len(os.Args) == 2 && os.Args[1] == ownerArg {
		ownUntilKilled()
	}
	os.Exit(m.Run())
}

var testHosts = []Host{
	{Name: "a", Number: 11, Workload: "test/a", Instance: "a-1"},
	{Name: "b", Number: 12, Workload: "test/b", Instance: "b-1", ByAddress: true},
	{Name: "c", Number: 130, Workload: "test/c"},
	{Name: "outside", Number: 1, Outside: true},
}

func startWorld(t *testing.T) (*World, context.Context) {
	t.Helper()
	testenv.NeedRoot(t)
	w := New(testHosts, t.Output())
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return w, ctx
}

func spawn(t *testing.T, w *World, host string, ports ...uint16) *Process {
	t.Helper()
	p, err := w.Spawn(host, host)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		if err := p.Listen(t.Context(), Listen{Port: port}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// What one program sent is what the other received, on both families and whoever closes first.
func TestBothEndsAgree(t *testing.T) {
	w, ctx := startWorld(t)
	a, b := spawn(t, w, "a"), spawn(t, w, "b", 80)
	_ = b
	const n = 211
	job := Job{ID: "sizes", Parallel: 8}
	var tx, rx uint64
	for i := range uint64(n) {
		to := w.IPv4("b")
		if i%2 == 1 {
			to = w.IPv6("b")
		}
		c := Call{
			To: netip.AddrPortFrom(to, 80), Request: 16 + i*i*3, Response: i * i * i % 100_000, Rounds: 1 + int(i%3), ServerCloses: i%5 == 0,
		}
		job.Calls = append(job.Calls, c)
		tx, rx = tx+c.Request*uint64(c.Rounds), rx+c.Response*uint64(c.Rounds)
	}
	truth, err := w.RunPlan(ctx, []Step{{By: a, Job: job}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range truth.Connections {
		if c.Client.Error != "" || c.Server.Error != "" || c.Client.Tx != c.Server.Rx || c.Client.Rx != c.Server.Tx {
			t.Errorf("ends differ: %+v\n%+v", c.Client, *c.Server)
		}
	}
	want := map[Edge]Sum{{"test/a", "test/b", 80}: {Connections: n, Tx: tx, Rx: rx}}
	if d := cmp.Diff(want, truth.Edges()); d != "" {
		t.Error(d)
	}
}

func TestFailures(t *testing.T) {
	w, ctx := startWorld(t)
	a := spawn(t, w, "a")
	spawn(t, w, "b", 81)
	if err := w.DropPort("b", 81); err != nil {
		t.Fatal(err)
	}
	to := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(w.IPv4("b"), port) }
	truth, err := w.RunPlan(ctx, []Step{
		{By: a, Job: Job{ID: "refused", Calls: []Call{{To: to(99), Request: 16}}}},
		{By: a, Job: Job{ID: "dropped", Calls: []Call{{To: to(81), Request: 16}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]syscall.Errno{}
	for _, c := range truth.Connections {
		got[c.Client.Job] = c.Client.Errno
		if took := time.Duration(c.Client.End - c.Client.Start); took > 30*time.Second {
			t.Errorf("%s took %v", c.Client.Job, took)
		}
	}
	if d := cmp.Diff(map[string]syscall.Errno{"refused": syscall.ECONNREFUSED, "dropped": syscall.ETIMEDOUT}, got); d != "" {
		t.Error(d)
	}
	want := map[Edge]Sum{{"test/a", "test/b", 99}: {Connections: 1, Failures: 1}, {"test/a", "test/b", 81}: {Connections: 1, Failures: 1}}
	if d := cmp.Diff(want, truth.Edges()); d != "" {
		t.Error(d)
	}
}

// Connections that run while an address moves belong to whoever had it.
func TestMove(t *testing.T) {
	w, ctx := startWorld(t)
	a := spawn(t, w, "a")
	spawn(t, w, "b", 80)
	spawn(t, w, "c", 80)
	addr := w.FloatingAddress(200)
	if err := w.Assign(addr, "b"); err != nil {
		t.Fatal(err)
	}
	err := a.Begin(Job{ID: "moving", Every: 10 * time.Millisecond, Parallel: 4, Calls: []Call{{To: netip.AddrPortFrom(addr, 80), Request: 100, Response: 1000}}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := w.Move(addr, "b", "c"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := a.Quiet(ctx); err != nil {
		t.Fatal(err)
	}
	truth, err := w.Settle(ctx)
	if err != nil {
		t.Fatal(err)
	}
	edges := truth.Edges()
	b, c := edges[Edge{"test/a", "test/b", 80}], edges[Edge{"test/a", "test/c", 80}]
	if b.Connections < 20 || c.Connections < 20 {
		t.Errorf("want connections to both owners, got %+v", edges)
	}
	for _, conn := range truth.Connections {
		if s := conn.Server; s != nil && s.Error == "" && conn.Client.Error == "" && w.workloadOf(w.ownerOf(addr, s.Start)) != conn.ServerWorkload {
			t.Errorf("served by %s, which had lost the address: %+v", conn.ServerWorkload, conn.Client)
		}
	}
}

func TestOutsideAndNames(t *testing.T) {
	w, ctx := startWorld(t)
	a := spawn(t, w, "a", 80)
	outside := spawn(t, w, "outside", 443)
	truth, err := w.RunPlan(ctx, []Step{
		{By: outside, Job: Job{ID: "in", Calls: []Call{{To: netip.AddrPortFrom(w.IPv4("a"), 80)}, {To: netip.AddrPortFrom(w.IPv6("a"), 80)}}}},
		{By: a, Job: Job{ID: "out", Calls: []Call{{To: netip.AddrPortFrom(w.IPv4("outside"), 443)}, {To: netip.AddrPortFrom(w.IPv6("outside"), 443)}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[Edge]Sum{{"", "test/a", 80}: {Connections: 2}, {"test/a", "", 443}: {Connections: 2}}
	if d := cmp.Diff(want, truth.Edges()); d != "" {
		t.Error(d)
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", outside.PID()))
	if err != nil || string(comm) != "outside\n" {
		t.Errorf("process name %q, %v", comm, err)
	}
}

func TestCloseEarlyLateTwice(t *testing.T) {
	w, _ := startWorld(t)
	p := spawn(t, w, "a", 80)
	prefix := w.run.prefix()
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := leftovers(t, prefix); len(left) > 0 {
		t.Error("left behind:", left)
	}
	if _, err := os.Stat(w.Dir()); !os.IsNotExist(err) {
		t.Error("directory is still there:", err)
	}
	if err := syscall.Kill(p.PID(), 0); err != syscall.ESRCH {
		t.Error("workload is still there:", err)
	}
	if err := w.Start(); err == nil {
		t.Error("a closed world started")
	}
	early := New(testHosts, nil)
	if err := early.Close(); err != nil {
		t.Error(err)
	}
}

// Two worlds at once have nothing in common.
func TestTwoWorlds(t *testing.T) {
	w1, ctx := startWorld(t)
	w2, _ := startWorld(t)
	if w1.Run() == w2.Run() || w1.IPv4("a") == w2.IPv4("a") || w1.IPv6("a") == w2.IPv6("a") {
		t.Fatal("worlds share a number or an address")
	}
	a1 := spawn(t, w1, "a")
	spawn(t, w2, "b", 80)
	truth, err := w1.RunPlan(ctx, []Step{{By: a1, Job: Job{ID: "across", Calls: []Call{{To: netip.AddrPortFrom(w2.IPv4("b"), 80)}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if truth.Connections[0].Client.Connected {
		t.Error("a connection from one world into the other")
	}
}

func TestHalfBuiltWorldLeavesNothing(t *testing.T) {
	testenv.NeedRoot(t)
	w := New([]Host{{Name: "a", Number: 11}, {Name: "a", Number: 12}}, nil)
	if err := w.Start(); err == nil {
		t.Fatal("two hosts of one name")
	}
	if left := leftovers(t, w.run.prefix()); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

// A killed owner leaves nothing either: not its processes, and soon not its namespaces.
func TestKilledOwner(t *testing.T) {
	testenv.NeedRoot(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	owner := exec.Command(exe, ownerArg)
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var prefix string
	var pid int
	if _, err := fmt.Fscan(out, &prefix, &pid); err != nil {
		owner.Process.Kill()
		t.Fatal(err)
	}
	if len(leftovers(t, prefix)) == 0 {
		t.Error("no namespace while the owner lives")
	}
	owner.Process.Kill()
	owner.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for len(leftovers(t, prefix)) > 0 || syscall.Kill(pid, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("left behind:", leftovers(t, prefix), "process:", syscall.Kill(pid, 0))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ownUntilKilled() {
	w := New(testHosts, os.Stderr)
	if err := w.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	p, err := w.Spawn("a", "a")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(w.run.prefix(), p.PID())
	unix.Pause()
}

// What a dead world left, and even its janitor missed, the next one removes.
func TestSweepAtStart(t *testing.T) {
	testenv.NeedRoot(t)
	r, err := acquireRun()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := newNamespace(r.prefix() + "stale")
	if err != nil {
		t.Fatal(err)
	}
	ns.close()
	if err := os.WriteFile(filepath.Join(netnsDir, r.prefix()+"half"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	prefix := r.prefix()
	r.lock.Close() // as a death does: the lock is free, everything else stays
	next, err := acquireRun()
	if err != nil {
		t.Fatal(err)
	}
	defer next.release()
	if left := leftovers(t, prefix); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

func leftovers(t *testing.T, prefix string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, netnsDir+"/"+prefix) {
			names = append(names, "mount "+strings.Fields(line)[1])
		}
	}
	return names
}
