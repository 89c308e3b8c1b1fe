package probe

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

const obeyEnv = "TRIBUTARY_PROBE_TEST_OBEY"

// processes are connections that change hands or whose owner dies.
var processes = []scenario{
	{"fork: the client's child closes last", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		child := w.start(w.a, c.fd)
		c.close()
		child.say("close")
		s.ended(0)
		s.close()
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal}, {role: sv, reason: event.CloseFinRemote}}},
	{"fork: the server's child serves", func(w *world) {
		c, s := w.pair()
		child := w.start(w.b, s.fd)
		s.close()
		child.say("send 60")
		c.receive(60)
		child.say("close")
		c.ended(0)
		c.close()
	}, []want{{role: cl, reason: event.CloseFinRemote, rx: 60}, {role: sv, reason: event.CloseFinLocal, tx: 60, pid: "child"}}},
	{"the client is killed", func(w *world) {
		l := w.listener("10.177.0.2:0")
		child := w.start(w.a, -1)
		child.say("connect " + l.name().String())
		s := l.accept()
		child.say("send 4321")
		s.receive(4321)
		child.kill()
		s.ended(0)
		s.close()
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 4321, pid: "child"}, {role: sv, reason: event.CloseFinRemote, rx: 4321}}},
	{"the client is killed with unread data", func(w *world) {
		l := w.listener("10.177.0.2:0")
		child := w.start(w.a, -1)
		child.say("connect " + l.name().String())
		s := l.accept()
		s.send(10)
		child.say("await 10")
		child.kill()
		s.ended(unix.ECONNRESET)
		s.close()
		l.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, rx: 10, pid: "child", state: event.StateEstablished},
		{role: sv, reason: event.CloseRstRemote, tx: 10, errno: unix.ECONNRESET},
	}},
	{"the server is killed", func(w *world) {
		c, s := w.pair()
		child := w.start(w.b, s.fd)
		s.close()
		child.kill()
		c.ended(0)
		c.close()
	}, []want{{role: cl, reason: event.CloseFinRemote}, {role: sv, reason: event.CloseFinLocal, pid: "child"}}},
}

// helper is another process: this test binary, told what to do line by line.
type helper struct {
	w   *world
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start starts a helper in the namespace that inherits the socket, if it is not -1.
func (w *world) start(s *space, fd int) *helper {
	w.Helper()
	return w.startHelper(s, exec.Command("/proc/self/exe"), fd)
}

// startIn starts a helper in the namespace and in a cgroup.
func (w *world) startIn(s *space, dir string) *helper {
	w.Helper()
	cmd := exec.Command("/proc/self/exe")
	in(w.T, cmd, dir)
	return w.startHelper(s, cmd, -1)
}

func (w *world) startHelper(s *space, cmd *exec.Cmd, fd int) *helper {
	w.Helper()
	cmd.Env = append(os.Environ(), obeyEnv+"=1")
	if fd >= 0 {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		w.check(err)
		file := os.NewFile(uintptr(copied), "socket")
		defer file.Close()
		cmd.ExtraFiles = []*os.File{file}
	}
	in, err := cmd.StdinPipe()
	w.check(err)
	out, err := cmd.StdoutPipe()
	w.check(err)
	s.do(func() error { return begin(cmd) })
	h := &helper{w: w, cmd: cmd, in: in, out: bufio.NewReader(out)}
	w.Cleanup(h.kill)
	w.child = uint32(cmd.Process.Pid)
	h.say("ready")
	return h
}

// starting is held while a program starts, and shared while a socket is closed: see begin.
var starting sync.RWMutex

// begin starts a program and waits until it has none of our sockets but those that it is to have. A child has all of them until execve closes them, which it does
// after it has let us go on, whatever syscall.ForkLock says: a socket that we close in that moment is closed last by the child, whose pid is then the record's.
func begin(cmd *exec.Cmd) error {
	starting.Lock()
	defer starting.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	for hasOurs(cmd.Process.Pid, 3+len(cmd.ExtraFiles)) {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// hasOurs reports whether a process has a socket of ours under our number, from a number on.
func hasOurs(pid, from int) bool {
	dir := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		theirs, _ := os.Readlink(dir + e.Name())
		ours, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= from && theirs == ours && strings.HasPrefix(ours, "socket:") {
			return true
		}
	}
	return false
}

// say waits until the helper has done it.
func (h *helper) say(order string) {
	h.w.Helper()
	if answer := h.try(order); answer != "ok" {
		h.w.Fatalf("%s: %q", order, answer)
	}
}

// try returns what the helper says to the order.
func (h *helper) try(order string) string {
	h.w.Helper()
	if _, err := fmt.Fprintln(h.in, order); err != nil {
		h.w.Fatal(err)
	}
	line, err := h.out.ReadString('\n')
	if err != nil {
		h.w.Fatalf("%s: %q, %v", order, line, err)
	}
	return strings.TrimSpace(line)
}

func (h *helper) kill() {
	_ = h.cmd.Process.Kill()
	_ = h.cmd.Wait()
}

// obey is the helper's side; its socket is descriptor 3.
func obey() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		verb, rest, _ := strings.Cut(lines.Text(), " ")
		if err := obeyOne(verb, rest); err != nil {
			fmt.Println(err)
		} else {
			fmt.Println("ok")
		}
	}
}

func obeyOne(verb, rest string) error {
	const fd = 3
	n, _ := strconv.Atoi(rest)
	switch verb {
	case "ready":
		return nil
	case "connect":
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if s != fd {
			if err := unix.Dup2(s, fd); err != nil {
				return err
			}
			_ = unix.Close(s)
		}
		return unix.Connect(fd, sockaddr(rest, 0))
	case "send":
		_, err := unix.Write(fd, make([]byte, n))
		return err
	case "await":
		for {
			if have, err := unix.IoctlGetInt(fd, unix.SIOCINQ); err != nil || have >= n {
				return err
			}
		}
	case "close":
		return unix.Close(fd)
	}
	return fmt.Errorf("what is %q", verb)
}
