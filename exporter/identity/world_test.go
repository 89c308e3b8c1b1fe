package identity

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// namespace makes a network namespace with an interface d0.
func namespace(t *testing.T, name string) (path string) {
	t.Helper()
	name = fmt.Sprintf("tbid%d%s", os.Getpid(), name)
	path = "/run/netns/" + name
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		if _, err := os.Stat(path); err == nil {
			ip(t, "netns", "del", name)
		}
	})
	ip(t, "-n", name, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ip(t, "-n", name, "link", "set", "d0", "up")
	ip(t, "-n", name, "link", "set", "d1", "up")
	return path
}

func in(path string, args ...string) []string {
	return append([]string{"-n", filepath.Base(path)}, args...)
}

// story is what a subscriber heard, without times, which it checks: no range reaches beyond what was verified.
type story struct {
	t       *testing.T
	changes <-chan Change
	open    map[claimKey]int64
	before  int64 // nothing heard began earlier
	lines   []string
}

func listen(t *testing.T, b *Book) *story {
	full, changes := b.Subscribe(t.Context())
	s := &story{t: t, changes: changes, open: map[claimKey]int64{}, before: time.Now().UnixNano()}
	for _, c := range full {
		s.claim(&c)
	}
	s.lines = nil
	return s
}

func (s *story) claim(c *Claim) {
	s.open[keyOf(c)] = c.FromNs
	s.lines = append(s.lines, fmt.Sprintf("%s is %s", text(c.Key), c.Workload))
}

func text(k Key) string {
	out := k.Network + " " + addrString(k.Addr)
	if k.PortTo != 0 {
		out += fmt.Sprintf(":%d-%d", k.PortFrom, k.PortTo)
	}
	return out
}

// after lets act happen and returns what was heard until b's watermark has passed it.
func (s *story) after(b *Book, act func()) []string {
	s.t.Helper()
	s.lines = nil
	act()
	passed := time.Now().UnixNano()
	eventually(s.t, "the watermark", func() bool { return b.VerifiedTo(time.Now().UnixNano()) > passed })
	for {
		select {
		case c, ok := <-s.changes:
			if !ok {
				s.t.Fatal("cut off")
			}
			s.take(c)
			continue
		default:
		}
		return s.lines
	}
}

func (s *story) take(c Change) {
	s.t.Helper()
	before := s.before
	for _, r := range c.Releases {
		// it ends where it was last looked at: on a machine that stands still for a while, that was some time ago
		from, there := s.open[keyOf(&r.Claim)]
		if !there || r.AtNs < from || r.AtNs < before-int64(hole) || r.AtNs > time.Now().UnixNano() {
			s.t.Errorf("release of %s at %d: open %v, from %d, act at %d", text(r.Key), r.AtNs, there, from, before)
		}
		delete(s.open, keyOf(&r.Claim))
		s.lines = append(s.lines, fmt.Sprintf("%s not %s: %s", text(r.Key), r.Workload, r.Reason))
	}
	for i := range c.Claims {
		if c.Claims[i].FromNs < before || c.Claims[i].FromNs > time.Now().UnixNano() {
			s.t.Errorf("claim of %s from %d, act at %d", text(c.Claims[i].Key), c.Claims[i].FromNs, before)
		}
		s.claim(&c.Claims[i])
	}
}

func (s *story) want(b *Book, act func(), want ...string) {
	s.t.Helper()
	s.before = time.Now().UnixNano()
	if diff := cmp.Diff(want, s.after(b, act)); diff != "" {
		s.t.Error(diff)
	}
}

// An address that comes, moves and goes is claimed by whoever has it, in order, and for no moment longer.
func TestPresence(t *testing.T) {
	testenv.NeedRoot(t)
	a, c := namespace(t, "a"), namespace(t, "b")
	b, registry := newBook(t, Options{}, `
workloads:
- {workload: s/a, instance: a1, netns: `+a+`}
- {workload: s/b, instance: b1, netns: `+c+`}
- {workload: s/x, instance: x1, addresses: [10.209.0.9]}
- {workload: s/p, instance: p1, addresses: [10.209.0.9], ports: 100-200}
`)
	ip(t, in(a, "addr", "add", "10.209.0.1/24", "dev", "d0")...)
	running(t, b)
	s := listen(t, b)
	if len(s.open) != 1 {
		t.Fatalf("at the start: %v", s.open)
	}
	act := func(path string, args ...string) func() { return func() { ip(t, in(path, args...)...) } }
	s.want(b, act(a, "addr", "add", "10.209.0.2/24", "dev", "d0"), "default 10.209.0.2 is s/a")
	s.want(b, func() {
		act(a, "addr", "del", "10.209.0.2/24", "dev", "d0")()
		act(c, "addr", "add", "10.209.0.2/24", "dev", "d0")()
	}, "default 10.209.0.2 not s/a: gone", "default 10.209.0.2 is s/b")
	s.want(b, act(c, "addr", "add", "fd09::1/64", "dev", "d0", "nodad"), "default fd09::1 is s/b")
	s.want(b, act(c, "addr", "change", "fd09::1/64", "dev", "d0", "preferred_lft", "0"), "default fd09::1 not s/b: gone")
	s.want(b, act(c, "addr", "add", "127.0.0.5/8", "dev", "d0"))
	s.want(b, act(c, "link", "del", "d0"), "default 10.209.0.2 not s/b: gone")
	s.want(b, func() { ip(t, "netns", "del", filepath.Base(a)) }, "default 10.209.0.1 not s/a: gone")
	absent := []string{"s/a: " + a + " is no network namespace", "s/x: 10.209.0.9 is on no interface of this host", "s/p: 10.209.0.9 is on no interface of this host"}
	eventually(t, "the absent entries", func() bool { return cmp.Equal(absent, b.Absent()) })
	third := namespace(t, "c")
	s.after(b, act(third, "addr", "add", "10.209.0.9/24", "dev", "d0"))
	eventually(t, "the claims of an address listed in the file", func() bool { s.lines = nil; s.after(b, func() {}); return len(s.open) == 2 })
	checkBooks(t, registry, b)
}

// checkBooks compares the whole map of counters with what must hold between them.
func checkBooks(t *testing.T, registry *prometheus.Registry, b *Book) {
	t.Helper()
	m := metricsOf(t, registry)
	claims, _ := b.Subscribe(t.Context())
	sum := m["releases_total moved"] + m["releases_total gone"] + m["releases_total stopped"] + m["releases_total shared"]
	if m["claims_total"] != sum+m["open_claims"] || int(m["open_claims"]) != len(claims) {
		t.Errorf("the books of claims do not balance: %v", m)
	}
}

func metricsOf(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "tributary_exporter_identity_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

// A namespace without a name lives as long as its processes.
func TestProcessNamespace(t *testing.T) {
	testenv.NeedRoot(t)
	b, _ := newBook(t, Options{}, "workloads: [{workload: s/x, instance: x1, addresses: [10.209.1.1]}]\n")
	running(t, b)
	s := listen(t, b)
	cmd := exec.Command("sh", "-c", "ip link add d0 type veth peer name d1 && ip addr add 10.209.1.1/24 dev d0 && echo && exec sleep 60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claim", func() bool { s.after(b, func() {}); return len(s.open) == 1 })
	s.want(b, func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, "the end of the namespace", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return len(b.claims) == 0
		})
	}, "default 10.209.1.1 not s/x: gone")
}

// Lost notifications are made good by listing anew; what vanished meanwhile is released as of the last verified moment.
func TestOverflow(t *testing.T) {
	testenv.NeedRoot(t)
	a := namespace(t, "o")
	b, registry := newBook(t, Options{}, "workloads: [{workload: s/a, instance: a1, netns: "+a+"}]\n")
	b.rcvbuf = 4096
	ip(t, in(a, "addr", "add", "10.209.3.1/32", "dev", "d0")...)
	running(t, b)
	s := listen(t, b)
	var script strings.Builder
	for i := range 100 {
		fmt.Fprintf(&script, "addr add 10.209.4.%d/32 dev d0\n", i+1)
	}
	script.WriteString("addr del 10.209.3.1/32 dev d0\n")
	batch := filepath.Join(t.TempDir(), "batch")
	write(t, batch, script.String())
	lines := s.after(b, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		ip(t, in(a, "-batch", batch)...)
	})
	if len(lines) != 101 || lines[0] != "default 10.209.3.1 not s/a: gone" || len(s.open) != 100 {
		t.Errorf("%d lines, first %q, %d open", len(lines), lines[0], len(s.open))
	}
	if m := metricsOf(t, registry); m["address_events_total lost"] == 0 {
		t.Errorf("nothing was lost: %v", m)
	}
	checkBooks(t, registry, b)
}

// Whoever stood still saw nothing: claims end at the last verified moment and begin anew.
func TestHole(t *testing.T) {
	testenv.NeedRoot(t)
	a := namespace(t, "h")
	ip(t, in(a, "addr", "add", "10.209.5.1/32", "dev", "d0")...)
	b, _ := newBook(t, Options{}, "workloads: [{workload: s/a, instance: a1, netns: "+a+"}]\n")
	base, offset := now(), moment{}
	b.clock = func() moment { return moment{base.wall + offset.wall, base.boot + offset.boot} }
	b.mu.Lock() // no goroutine runs: the test looks itself
	defer b.mu.Unlock()
	socket, all, refused, err := openNotifications(true, b.rcvbuf)
	if err != nil || refused != nil {
		t.Fatal(err, refused)
	}
	defer socket.close()
	b.presence.socket, b.presence.all = socket, all
	b.look(true)
	r := &reader{make(chan Change, 10)}
	b.readers[r] = struct{}{}
	second := int64(time.Second)
	for _, step := range []struct {
		wall, boot int64
		hole       bool
	}{{second, second, false}, {5 * second, 5 * second, true}, {second, second, false}, {10 * second, second, true}, {-20 * second, second, true}, {second, 4 * second, true}} {
		verified := b.verified
		offset.wall, offset.boot = offset.wall+step.wall, offset.boot+step.boot
		b.look(false)
		if got := len(r.changes) > 0; got != step.hole {
			t.Fatalf("step %+v: hole %v", step, got)
		}
		if !step.hole {
			continue
		}
		end, begin := <-r.changes, <-r.changes
		if len(end.Releases) != 1 || end.Releases[0].AtNs != max(verified, end.Releases[0].FromNs) || end.Releases[0].Reason != Gone {
			t.Errorf("step %+v: %+v, verified to %d", step, end, verified)
		}
		if len(begin.Claims) != 1 || begin.Claims[0].FromNs != b.clock().wall {
			t.Errorf("step %+v: %+v", step, begin)
		}
	}
}

// Somebody may give our own namespace an id in itself; its notifications carry that id from then on. The test runs once more in a
// namespace of its own.
func TestOwnNamespaceWithID(t *testing.T) {
	testenv.NeedRoot(t)
	const inside = "TRIBUTARY_TEST_OWN_NAMESPACE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestOwnNamespaceWithID$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ip(t, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	b, _ := newBook(t, Options{Workload: "base/host", Instance: "i"}, "")
	running(t, b)
	s := listen(t, b)
	s.want(b, func() { ip(t, "addr", "add", "10.209.7.1/24", "dev", "d0") }, "default 10.209.7.1 is base/host")
	f, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := netlink.SetNetNsIdByFd(int(f.Fd()), 42); err != nil {
		t.Fatal(err)
	}
	s.want(b, func() { ip(t, "addr", "add", "10.209.7.2/24", "dev", "d0") }, "default 10.209.7.2 is base/host")
	s.want(b, func() { ip(t, "addr", "del", "10.209.7.2/24", "dev", "d0") }, "default 10.209.7.2 not base/host: gone")
}
