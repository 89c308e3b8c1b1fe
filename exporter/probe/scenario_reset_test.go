package probe

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// resets are connections that are cut off, by either side, in each state.
var resets = []scenario{
	{"linger 0 by the client", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 1234)
		linger(c)
		c.close()
		s.ended(unix.ECONNRESET)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 1234, state: event.StateEstablished},
		{role: sv, reason: event.CloseRstRemote, rx: 1234, errno: unix.ECONNRESET, state: event.StateEstablished},
	}},
	{"linger 0 by the server", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 21)
		linger(s)
		s.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 21, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseRstLocal, rx: 21},
	}},
	{"linger 0 after the peer's FIN", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 21)
		c.shut()
		s.ended(0)
		c.state(uint8(event.StateFinWait2))
		linger(s)
		s.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 21, errno: unix.ECONNRESET, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstLocal, rx: 21, state: event.StateCloseWait},
	}},
	{"linger 0 after the own FIN", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 21)
		c.shut()
		s.ended(0)
		c.state(uint8(event.StateFinWait2))
		linger(c)
		c.close()
		if err := s.await(unix.POLLERR); err != unix.EPIPE {
			w.Fatal(err)
		}
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 21, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstRemote, rx: 21, errno: unix.EPIPE, state: event.StateCloseWait},
	}},
	{"linger 0 with the own FIN unanswered", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 21)
		w.block(w.b)
		c.shut()
		linger(c)
		c.close()
		w.open(w.b)
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 21, state: event.StateFinWait1},
		{role: sv, reason: event.CloseRstLocal, rx: 21},
	}},
	{"unread data at close", func(w *world) {
		c, s := w.pair()
		c.send(1000)
		s.unread(1000)
		s.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 1000, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseRstLocal, rx: 1000, state: event.StateEstablished},
	}},
	{"unread data at close, after the own FIN", func(w *world) {
		c, s := w.pair()
		c.shut()
		s.ended(0)
		s.send(300)
		c.unread(300)
		c.close()
		if err := s.await(unix.POLLERR); err != unix.EPIPE {
			w.Fatal(err)
		}
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, rx: 300, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstRemote, tx: 300, errno: unix.EPIPE, state: event.StateCloseWait},
	}},
	{"unread data at close, after the peer's FIN", func(w *world) {
		c, s := w.pair()
		c.send(400)
		c.shut()
		c.state(uint8(event.StateFinWait2))
		s.close()
		c.ended(unix.ECONNRESET)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 400, errno: unix.ECONNRESET, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstLocal, rx: 400, state: event.StateCloseWait},
	}},
	{"unread data at close, own FIN unanswered after the peer's", func(w *world) {
		c, s := w.pair()
		c.send(400)
		c.shut()
		c.state(uint8(event.StateFinWait2))
		w.block(w.a)
		s.shut()
		s.close()
		w.open(w.a)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 400, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstLocal, rx: 400, state: event.StateLastAck},
	}},
	{"data read only after both FINs", func(w *world) {
		c, s := w.pair()
		c.shut()
		s.ended(0)
		s.send(500)
		s.close()
		c.unread(500)
		c.state(uint8(event.StateClose))
		c.receive(500)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, rx: 500, state: event.StateFinWait2},
		{role: sv, reason: event.CloseFinRemote, tx: 500},
	}},
	{"data for a socket that was closed", func(w *world) {
		c, s := w.pair()
		c.close()
		s.ended(0)
		s.send(70)
		if err := s.await(unix.POLLERR); err != unix.EPIPE {
			w.Fatal(err)
		}
		s.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, state: event.StateFinWait2},
		{role: sv, reason: event.CloseRstRemote, tx: 70, errno: unix.EPIPE, state: event.StateCloseWait},
	}},
	{"data that meets the FIN", func(w *world) {
		c, s := w.pair()
		w.block(w.a, w.b)
		s.send(80)
		c.close()
		w.open(w.a, w.b)
		s.await(unix.POLLERR | unix.POLLHUP)
		s.close()
	}, []want{
		// the kernel gives its own reset the error of one that was received
		{role: cl, reason: event.CloseRstLocal, errno: unix.ECONNRESET},
		{role: sv, reason: event.CloseRstRemote, tx: 80, errno: unix.EPIPE},
	}},
	{"data for a socket that was shut both ways", func(w *world) {
		c, s := w.pair()
		w.check(unix.Shutdown(s.fd, unix.SHUT_RDWR))
		c.ended(0)
		c.send(70)
		if err := c.await(unix.POLLERR); err != unix.EPIPE {
			w.Fatal(err)
		}
		c.close()
		s.close()
	}, []want{
		{role: cl, reason: event.CloseRstRemote, tx: 70, errno: unix.EPIPE, state: event.StateCloseWait},
		{role: sv, reason: event.CloseRstLocal, errno: unix.ECONNRESET, state: event.StateFinWait2},
	}},
	{"linger 0 after both FINs, the own unanswered", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 400)
		c.shut()
		s.ended(0)
		c.state(uint8(event.StateFinWait2))
		w.block(w.a)
		s.shut()
		linger(s)
		s.close() // the kernel forgets it and sends nothing
		w.open(w.a)
		linger(c)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseRstLocal, tx: 400, state: event.StateFinWait2},
		{role: sv, reason: event.CloseFinRemote, rx: 400, state: event.StateLastAck, also: noReset},
	}},
	{"linger 0 after FINs that met", func(w *world) {
		c, s := w.pair()
		w.block(w.a, w.b)
		c.shut()
		s.shut()
		w.open(w.a)
		c.state(uint8(event.StateClosing)) // the server's FIN is sent again
		linger(c)
		c.close()
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, state: event.StateClosing, also: noReset},
		{role: sv, reason: event.CloseRstLocal, state: event.StateFinWait1},
	}},
	{"destroyed by an administrator before it was answered", func(w *world) {
		w.block(w.b)
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect("10.177.0.2:9", unix.EINPROGRESS)
		w.a.do(func() error {
			return netlink.SocketDestroy(tcpAddr(c.name()), tcpAddr(netip.MustParseAddrPort("10.177.0.2:9")))
		})
		if err := c.await(unix.POLLERR); err != unix.ECONNABORTED {
			w.Fatal(err)
		}
		c.close()
	}, []want{{role: cl, kind: event.KindFailed, reason: event.CloseAborted, errno: unix.ECONNABORTED, state: event.StateSynSent, also: noReset}}},
	{"destroyed by an administrator", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 90)
		w.a.do(func() error {
			local, remote := c.name(), s.name()
			return netlink.SocketDestroy(tcpAddr(local), tcpAddr(remote))
		})
		s.ended(unix.ECONNRESET)
		s.close()
		c.close()
	}, []want{
		{role: cl, reason: event.CloseAborted, tx: 90, errno: unix.ECONNABORTED},
		{role: sv, reason: event.CloseRstRemote, rx: 90, errno: unix.ECONNRESET},
	}},
}

func noReset(e *event.Event) error {
	if e.RstSent+e.RstReceived != 0 {
		return fmt.Errorf("resets: %d sent, %d received", e.RstSent, e.RstReceived)
	}
	return nil
}
