package probe

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// asked are connections that a program on a connect hook has led elsewhere, as load balancers without a proxy do.
var asked = []scenario{
	{
		"a virtual address", func(w *world) { w.balanced("192.0.2.1:80") },
		[]want{{role: cl, reason: event.CloseFinLocal, pid: "child", asked: "192.0.2.1:80"}, {role: sv, reason: event.CloseFinRemote}},
	},
	{
		"a virtual port", func(w *world) { w.balanced("10.177.0.2:80") },
		[]want{{role: cl, reason: event.CloseFinLocal, pid: "child", asked: "10.177.0.2:80"}, {role: sv, reason: event.CloseFinRemote}},
	},
	{"a virtual address whose server refuses", func(w *world) {
		h := w.hooked(netip.MustParseAddrPort("10.177.0.2:9"))
		if answer := h.try("connect 192.0.2.1:80"); answer != unix.ECONNREFUSED.Error() {
			w.Fatalf("connect: %s", answer)
		}
		h.kill()
	}, []want{{role: cl, kind: event.KindFailed, reason: event.CloseRefused, errno: unix.ECONNREFUSED, pid: "child", asked: "192.0.2.1:80"}}},
	{"the unspecified address is the own host", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c := w.socket(w.b, unix.AF_INET, 0)
		c.connect("0.0.0.0:9", unix.ECONNREFUSED)
		c.close()
		l.close()
	}, []want{{role: cl, place: "b", kind: event.KindFailed, reason: event.CloseRefused, errno: unix.ECONNREFUSED}}},
}

// balanced connects to a virtual address in front of a server.
func (w *world) balanced(virtual string) {
	w.Helper()
	l := w.listener("10.177.0.2:0")
	h := w.hooked(netip.MustParseAddrPort(l.name().String()))
	h.say("connect " + virtual)
	s := l.accept()
	h.kill()
	s.ended(0)
	s.close()
	l.close()
}

// hooked starts a process whose every connect by IPv4 goes to the real server.
func (w *world) hooked(real netip.AddrPort) *helper {
	w.Helper()
	dir, _ := cgroup(w.T, fmt.Sprintf("tprobe-hook%d", w.a.inum))
	ip := real.Addr().As4()
	port := binary.BigEndian.AppendUint16(nil, real.Port())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{ // bpf_sock_addr: user_ip4 at 4, user_port at 24, both in network order
			asm.Mov.Imm32(asm.R2, int32(binary.NativeEndian.Uint32(ip[:]))),
			asm.StoreMem(asm.R1, 4, asm.R2, asm.Word),
			asm.Mov.Imm32(asm.R2, int32(binary.NativeEndian.Uint16(port))),
			asm.StoreMem(asm.R1, 24, asm.R2, asm.Word),
			asm.Mov.Imm(asm.R0, 1), asm.Return(),
		},
	})
	w.check(err)
	w.Cleanup(func() { prog.Close() })
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInet4Connect, Program: prog})
	w.check(err)
	w.Cleanup(func() { l.Close() })
	return w.startIn(w.a, dir)
}
