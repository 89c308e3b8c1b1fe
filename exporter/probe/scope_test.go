package probe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
	"tributary/service/testenv"
)

// cgroup makes a cgroup (v2) for the test and returns its directory and id.
func cgroup(t *testing.T, parts ...string) (dir string, id uint64) {
	t.Helper()
	testenv.NeedRoot(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	root := ""
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "cgroup2" {
			root = f[1]
		}
	}
	if root == "" {
		testenv.Skip(t, "no cgroup v2 hierarchy is mounted")
	}
	dir = filepath.Join(append([]string{root}, parts...)...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { waitFor(t, func() bool { return os.Remove(dir) == nil }) }) // busy until its processes are reaped
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		t.Fatal(err)
	}
	return dir, stat.Ino
}

// in lets the command start inside the cgroup.
func in(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
}

// Of servers and clients in a cgroup, below it and beside it, a probe of the cgroup sees those in it and below
// it, with those that it found at its start; a probe of the whole host beside it sees all, as if it were alone.
func TestScopeOfACgroup(t *testing.T) {
	name := fmt.Sprintf("tprobe%d", os.Getpid())
	dir, id := cgroup(t, name)
	cgroup(t, name, "a")
	below, _ := cgroup(t, name, "a", "b")
	beside, _ := cgroup(t, name+"x")
	s := newSpace(t)
	servers := map[string]string{}
	for _, at := range []string{dir, below, beside} {
		servers[at] = s.serverIn(at)
	}
	old, err := s.dial(s.serverIn(below)) // a server serves one connection at a time
	if err != nil {
		t.Fatal(err)
	}
	host := newCapture(t, Options{}, s.inum)
	scoped := newCapture(t, Options{CgroupID: id}, s.inum)
	waitFor(t, func() bool { k, _ := scoped.probe.Counters(); return k.Found == 1 })
	w := &world{T: t, a: s}
	const rounds = 7
	for range rounds {
		for _, at := range servers {
			s.ask(at, "q")
		}
		for _, at := range []string{below, beside} { // clients, refused
			h := w.startIn(s, at)
			if err := h.try("connect 127.0.0.1:9"); !strings.Contains(err, "refused") {
				t.Fatal(err)
			}
			h.kill()
		}
	}
	old.Close()
	events := scoped.ends(rounds*(2+1) + 1)
	for _, e := range events {
		if e.Kind == event.KindClosed && e.Role != event.RoleServer || e.Kind == event.KindFailed && e.Role != event.RoleClient {
			t.Errorf("%s", e.String())
		}
	}
	all := host.ends(rounds*(3*2+2) + 2)
	for _, e := range events {
		if e.Kind == event.KindActive {
			continue
		}
		twin := find(t, all, e.Kind, e.LocalPort, e.RemotePort)
		if twin.SockCookie != e.SockCookie || twin.TxBytes+twin.TxBytesBefore != e.TxBytes+e.TxBytesBefore || twin.End-e.End+1e9 > 2e9 {
			t.Errorf("two probes disagree:\n%s\n%s", e.String(), twin.String())
		}
	}
	if k := scoped.balanced(rounds*3 + 1); k.EndsUnobserved != 0 {
		t.Errorf("the probe of the cgroup has seen strangers: %+v", k)
	}
}
