package probe

import (
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

const protocolMPTCP = 262

// openings are unusual ways to become established.
var openings = []scenario{
	{"self connect", func(w *world) {
		c := w.socket(w.a, unix.AF_INET, 0, bindTo("10.177.0.1:0"))
		c.connect(c.name().String(), 0)
		transfer(c, c, 100)
		c.shut()
		c.ended(0)
		c.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 100, rx: 100}}},
	{"both connect to each other", func(w *world) {
		a := w.socket(w.a, unix.AF_INET, 0, bindTo("10.177.0.1:5001"), nonblock)
		b := w.socket(w.b, unix.AF_INET, 0, bindTo("10.177.0.2:5002"), nonblock)
		w.block(w.a, w.b)
		a.connect("10.177.0.2:5002", unix.EINPROGRESS)
		b.connect("10.177.0.1:5001", unix.EINPROGRESS)
		w.open(w.a, w.b)
		for _, s := range []sock{a, b} {
			w.check(asError(s.await(unix.POLLOUT)))
			w.check(unix.SetNonblock(s.fd, false))
		}
		transfer(a, b, 30)
		transfer(b, a, 40)
		finish(a, b)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 30, rx: 40},
		{role: cl, place: "b", reason: event.CloseFinRemote, tx: 40, rx: 30},
	}},
	{"two connections of one socket", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		transfer(c, s, 500)
		w.check(disconnect(c.fd))
		s.ended(unix.ECONNRESET)
		s.close()
		c.connectAgain(l, 70)
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 500},
		{role: cl, reason: event.CloseFinLocal, tx: 70},
		{role: sv, reason: event.CloseRstRemote, rx: 500, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseFinRemote, rx: 70},
	}},
	{"two connections of one socket, segments lost on the first", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		w.nft(w.b, "input", "meta l4proto tcp numgen inc mod 10 5 drop")
		transfer(c, s, 1<<20)
		w.open(w.b)
		w.check(disconnect(c.fd))
		s.close()
		c.connectAgain(l, 70)
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 1 << 20, also: retransmitted},
		{role: cl, reason: event.CloseFinLocal, tx: 70, also: func(e *event.Event) error {
			if e.LostSegs != 0 || e.RetransSegs != 0 {
				return fmt.Errorf("%d segments lost, %d sent again: those of the first connection", e.LostSegs, e.RetransSegs)
			}
			return nil
		}},
		{role: sv, reason: event.CloseRstRemote, rx: 1 << 20, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseFinRemote, rx: 70},
	}},
	{"fast open", func(w *world) {
		l := w.fastListener()
		c := w.fastOpen(l, 321)
		s := l.accept()
		s.receive(321)
		transfer(c, s, 9)
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 330}, {role: sv, reason: event.CloseFinRemote, rx: 330}}},
	{"fast open, answered and closed before the handshake", func(w *world) {
		c, s := w.early(321)
		s.receive(321)
		s.send(50)
		s.close()
		w.open(w.b)
		c.receive(50)
		c.ended(0)
		c.close()
	}, []want{{role: cl, reason: event.CloseFinRemote, tx: 321, rx: 50}, {role: sv, reason: event.CloseFinLocal, tx: 50, rx: 321}}},
	{"fast open, reset by the client before the handshake", func(w *world) {
		c, s := w.early(321)
		s.receive(321)
		linger(c)
		c.close()
		s.ended(unix.ECONNRESET)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 321},
		{role: sv, kind: event.KindFailed, reason: event.CloseRstRemote, rx: 321, errno: unix.ECONNRESET, state: event.StateSynRecv},
	}},
	{"fast open, reset by the server before the handshake", func(w *world) {
		c, s := w.early(321)
		s.close() // unread
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 321, errno: unix.ECONNRESET},
		{role: sv, kind: event.KindFailed, reason: event.CloseRstLocal, rx: 321, state: event.StateSynRecv},
	}},
	{"fast open, the server has none", func(w *world) {
		w.sysctl(w.a, "ipv4/tcp_fastopen", "0x207")
		l := w.listener("10.177.0.2:0")
		c := w.fastOpen(l, 321)
		s := l.accept()
		s.receive(321)
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 321, also: func(e *event.Event) error {
		if e.RetransBytes != 321 {
			return fmt.Errorf("%d bytes sent again, want those of the SYN", e.RetransBytes)
		}
		return nil
	}}, {role: sv, reason: event.CloseFinRemote, rx: 321}}},
	{"SYN cookies", func(w *world) {
		w.sysctl(w.b, "ipv4/tcp_syncookies", "2")
		c, s := w.pair()
		transfer(c, s, 600)
		finish(c, s)
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 600}, {role: sv, reason: event.CloseFinRemote, rx: 600}}},
	{"deferred accept", func(w *world) {
		l := w.listener("10.177.0.2:0", tcpOpt(unix.TCP_DEFER_ACCEPT, 5))
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect(l.name().String(), 0)
		c.send(64)
		s := l.accept()
		s.receive(64)
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 64}, {role: sv, reason: event.CloseFinRemote, rx: 64}}},
	{"MPTCP client of a server without it", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c := w.socket(w.a, unix.AF_INET, protocolMPTCP)
		c.connect(l.name().String(), 0)
		s := l.accept()
		transfer(c, s, 5000)
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 5000}, {role: sv, reason: event.CloseFinRemote, rx: 5000}}},
	{"client without MPTCP of a server that has it", func(w *world) {
		l := w.socket(w.b, unix.AF_INET, protocolMPTCP, bindTo("10.177.0.2:0"))
		w.check(unix.Listen(l.fd, 1))
		c, s := w.pairAt(l)
		transfer(c, s, 5000)
		finish(c, s)
		l.close()
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 5000}, {role: sv, reason: event.CloseFinRemote, rx: 5000}}},
	{"MPTCP", func(w *world) {
		l := w.socket(w.b, unix.AF_INET, protocolMPTCP, bindTo("10.177.0.2:0"))
		w.check(unix.Listen(l.fd, 1))
		c := w.socket(w.a, unix.AF_INET, protocolMPTCP)
		c.connect(l.name().String(), 0)
		s := l.accept()
		transfer(c, s, 5000)
		finish(c, s)
		l.close()
	}, []want{
		// a server's subflow has no file descriptor of its own: the MPTCP socket has it
		{role: cl, reason: event.CloseFinLocal, tx: 5000},
		{role: sv, reason: event.CloseFinRemote, rx: 5000, queued: true},
	}},
	{"SYN lost", func(w *world) {
		w.nft(w.b, "input", "tcp flags syn numgen inc mod 9 0 drop")
		c, s := w.pair()
		transfer(c, s, 3)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 3, also: func(e *event.Event) error {
			if e.RetransSyn != 1 || e.RetransSegs != 1 || e.ConnectUs < 500_000 {
				return fmt.Errorf("%d SYNs of %d segments retransmitted, connected in %d us", e.RetransSyn, e.RetransSegs, e.ConnectUs)
			}
			return nil
		}},
		{role: sv, reason: event.CloseFinRemote, rx: 3},
	}},
	{"SYN-ACK lost", func(w *world) {
		w.nft(w.a, "input", "tcp flags & (syn|ack) == (syn|ack) numgen inc mod 9 0 drop")
		c, s := w.pair()
		transfer(c, s, 4)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 4},
		{role: sv, reason: event.CloseFinRemote, rx: 4, also: func(e *event.Event) error {
			if e.RetransSyn == 0 {
				return fmt.Errorf("no SYN-ACK was retransmitted")
			}
			return nil
		}},
	}},
	{"accept queue overflows", func(w *world) {
		l := w.listener("10.177.0.2:0")
		w.check(unix.Listen(l.fd, 0)) // room for one
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect(l.name().String(), 0)
		tooMany := w.socket(w.a, unix.AF_INET, 0, nonblock)
		tooMany.connect(l.name().String(), unix.EINPROGRESS)
		tooMany.close()
		finish(c, l.accept())
		l.close()
	}, []want{
		{role: cl, kind: event.KindFailed, reason: event.CloseAborted, state: event.StateSynSent},
		{role: cl, reason: event.CloseFinLocal},
		{role: sv, reason: event.CloseFinRemote},
	}},
	{"closed before accept", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect(l.name().String(), 0)
		c.send(40)
		c.close()
		s := l.accept()
		s.receive(40)
		s.ended(0)
		s.close()
		l.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 40},
		{role: sv, reason: event.CloseFinRemote, rx: 40},
	}},
	{"never accepted, IPv4 by an IPv6 socket", func(w *world) {
		l := w.listener("[::ffff:0.0.0.0]:0")
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect(fmt.Sprintf("10.177.0.2:%d", l.name().Port()), 0)
		l.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseRstLocal, queued: true},
	}},
	{"never accepted", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect(l.name().String(), 0)
		c.send(41)
		l.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 41, errno: unix.ECONNRESET, state: event.StateEstablished},
		{role: sv, reason: event.CloseRstLocal, rx: 41, queued: true},
	}},
}

// connectAgain is the second connection of a socket, whole; the listener ends with it.
func (c sock) connectAgain(l sock, n int) {
	c.w.Helper()
	c.connect(l.name().String(), 0)
	s := l.accept()
	transfer(c, s, n)
	finish(c, s)
	l.close()
}

// fastListener listens in b, where a SYN may bring data: 7 is client and server, and no cookie asked for (0x200) nor needed (4).
func (w *world) fastListener() sock {
	w.Helper()
	w.sysctl(w.a, "ipv4/tcp_fastopen", "0x207")
	w.sysctl(w.b, "ipv4/tcp_fastopen", "0x207")
	return w.listener("10.177.0.2:0", tcpOpt(unix.TCP_FASTOPEN, 16))
}

// fastOpen is a client in a whose SYN brings n bytes.
func (w *world) fastOpen(l sock, n int) sock {
	w.Helper()
	c := w.socket(w.a, unix.AF_INET, 0)
	if sent, err := unix.SendmsgN(c.fd, make([]byte, n), nil, sockaddr(l.name().String(), 0), unix.MSG_FASTOPEN); sent != n || err != nil {
		w.Fatal(sent, err)
	}
	return c
}

// early is a connection that the server has accepted while its handshake waits for a segment that is dropped until open.
func (w *world) early(n int) (client, server sock) {
	w.Helper()
	l := w.fastListener()
	w.Cleanup(l.close) // and not before: it has the owner
	w.nft(w.b, "input", "tcp flags & (syn|ack|rst) == ack drop")
	client = w.fastOpen(l, n)
	return client, l.accept()
}

// disconnect is connect to AF_UNSPEC, which x/sys has no address for.
func disconnect(fd int) error {
	var unspec unix.RawSockaddr
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

// addresses checks both addresses of a record.
func addresses(local, remote string) func(e *event.Event) error {
	return func(e *event.Event) error {
		l, r := netip.AddrFrom16(e.LocalAddr).Unmap(), netip.AddrFrom16(e.RemoteAddr).Unmap()
		if l != netip.MustParseAddr(local) || r != netip.MustParseAddr(remote) {
			return fmt.Errorf("%s → %s, want %s → %s", l, r, local, remote)
		}
		return nil
	}
}

// index of an interface in the namespace.
func (w *world) index(s *space, name string) (index uint32) {
	w.Helper()
	s.do(func() error {
		link, err := netlink.LinkByName(name)
		if err == nil {
			index = uint32(link.Attrs().Index)
		}
		return err
	})
	return index
}
