package probe

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// unsent are attempts that fail before their SYN: the state tracepoint says nothing.
var unsent = []scenario{
	{"no route", func(w *world) { w.attempt("192.0.2.1:9", unix.ENETUNREACH) }, never(event.CloseUnreachable, unix.ENETUNREACH)},
	{"no route, IPv6", func(w *world) { w.attempt("[2001:db8::1]:9", unix.ENETUNREACH) }, never(event.CloseUnreachable, unix.ENETUNREACH)},
	{"unreachable route", routed("unreachable", unix.EHOSTUNREACH), never(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"prohibit route", routed("prohibit", unix.EACCES), never(event.ClosePolicy, unix.EACCES)},
	{"blackhole route", routed("blackhole", unix.EINVAL), never(event.CloseUnreachable, unix.EINVAL)},
	{"forbidden by a cgroup policy", func(w *world) {
		dir, _ := cgroup(w.T, fmt.Sprintf("tprobe-policy%d", w.a.inum))
		forbid(w, dir)
		h := w.startIn(w.a, dir)
		if answer := h.try("connect 10.177.0.2:9"); answer != unix.EPERM.Error() {
			w.Fatalf("connect: %s", answer)
		}
		h.kill()
	}, []want{{role: cl, kind: event.KindFailed, reason: event.ClosePolicy, errno: unix.EPERM, state: event.StateClose, pid: "child"}}},
	{"no route after a refused attempt, each recorded once", func(w *world) {
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect("10.177.0.2:9", unix.ECONNREFUSED)
		c.connect("192.0.2.1:9", unix.ENETUNREACH)
		c.connect("10.177.0.2:9", unix.ECONNREFUSED)
		c.close()
	}, []want{
		{role: cl, kind: event.KindFailed, reason: event.CloseRefused, errno: unix.ECONNREFUSED},
		{role: cl, kind: event.KindFailed, reason: event.CloseUnreachable, errno: unix.ENETUNREACH, state: event.StateClose},
		{role: cl, kind: event.KindFailed, reason: event.CloseRefused, errno: unix.ECONNREFUSED},
	}},
	{"refused, asked again by connect", func(w *world) {
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		if err := unix.Connect(c.fd, sockaddr("10.177.0.2:9", 0)); err == unix.EINPROGRESS {
			c.await(unix.POLLOUT)
			c.connect("10.177.0.2:9", unix.ECONNABORTED) // the poll has taken the error
		}
		c.close()
	}, failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"connect of a connected socket, and of no address", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		c.connect("192.0.2.1:9", unix.EISCONN)
		other := w.socket(w.a, unix.AF_INET, 0)
		other.connect("[::1]:9", unix.EAFNOSUPPORT)
		other.close()
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal}, {role: sv, reason: event.CloseFinRemote}}},
}

func never(reason event.CloseReason, errno unix.Errno) []want {
	return []want{{role: cl, kind: event.KindFailed, reason: reason, errno: errno, state: event.StateClose, also: func(e *event.Event) error {
		if e.RemotePort != 9 || e.RemoteAddr == [16]byte{} || e.Start != e.End || e.TxSegs != 0 {
			return fmt.Errorf("not where the program wanted to go: %v port %d", e.RemoteAddr, e.RemotePort)
		}
		return nil
	}}}
}

func (w *world) attempt(addr string, want unix.Errno) {
	w.Helper()
	c := w.socket(w.a, family(addr), 0)
	c.connect(addr, want)
	c.close()
}

// routed tries an address that a special route forbids.
func routed(kind string, want unix.Errno) func(w *world) {
	return func(w *world) {
		w.run(w.a, "", "ip", "route", "add", kind, "192.0.2.0/24")
		w.attempt("192.0.2.1:9", want)
	}
}

// forbid lets no process of the cgroup connect by IPv4: the program answers 0, no.
func forbid(w *world, dir string) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	w.check(err)
	w.Cleanup(func() { prog.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	w.check(err)
	w.Cleanup(func() { l.Close() })
}
