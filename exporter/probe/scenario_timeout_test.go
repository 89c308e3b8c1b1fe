package probe

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

func tcpAddr(ap netip.AddrPort) net.Addr { return net.TCPAddrFromAddrPort(ap) }

// timeouts are established connections whose peer does not answer any more. The server's end, which
// knows nothing of it, is reset when the wire works again.
var timeouts = []scenario{
	{"keep-alive unanswered", func(w *world) {
		c, s := w.pair(opt(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1), tcpOpt(unix.TCP_KEEPIDLE, 1), tcpOpt(unix.TCP_KEEPINTVL, 1), tcpOpt(unix.TCP_KEEPCNT, 1))
		transfer(c, s, 11)
		w.block(w.a, w.b)
		c.ended(unix.ETIMEDOUT)
		w.open(w.a, w.b)
		c.close()
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseKeepalive, tx: 11, errno: unix.ETIMEDOUT, state: event.StateEstablished},
		{role: sv, reason: event.CloseRstLocal, rx: 11},
	}},
	{"data unanswered", func(w *world) {
		c, s := w.pair(tcpOpt(unix.TCP_USER_TIMEOUT, 400))
		transfer(c, s, 12)
		w.block(w.b)
		c.send(1000)
		if err := c.await(unix.POLLERR); err != unix.ETIMEDOUT {
			w.Fatal(err)
		}
		w.open(w.b)
		c.close()
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseTimeout, tx: 1012, errno: unix.ETIMEDOUT, also: retransmitted},
		{role: sv, reason: event.CloseRstLocal, rx: 12},
	}},
	{"closed window unanswered", func(w *world) {
		c, s := w.pair(opt(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1), tcpOpt(unix.TCP_USER_TIMEOUT, 700))
		nonblock(c)
		c.fill()
		w.block(w.b)
		if err := c.await(unix.POLLERR); err != unix.ETIMEDOUT {
			w.Fatal(err)
		}
		w.open(w.b)
		c.close()
		s.close()
	}, []want{
		{role: cl, reason: event.CloseTimeout, varies: true, errno: unix.ETIMEDOUT, state: event.StateEstablished},
		{role: sv, reason: event.CloseRstLocal, varies: true},
	}},
	{"FIN unanswered", func(w *world) {
		c, s := w.pair(tcpOpt(unix.TCP_USER_TIMEOUT, 400))
		transfer(c, s, 13)
		w.block(w.b)
		c.shut()
		if err := c.await(unix.POLLERR); err != unix.ETIMEDOUT {
			w.Fatal(err)
		}
		c.close()
		w.open(w.b)
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseTimeout, tx: 13, errno: unix.ETIMEDOUT, state: event.StateFinWait1},
		{role: sv, reason: event.CloseRstLocal, rx: 13},
	}},
	{"orphan unanswered", func(w *world) {
		c, s := w.pair(tcpOpt(unix.TCP_USER_TIMEOUT, 400))
		w.block(w.a, w.b)
		c.send(200)
		c.close()
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseTimeout, tx: 200, errno: unix.ETIMEDOUT, state: event.StateFinWait1},
		{role: sv, reason: event.CloseRstLocal},
	}},
	{"unreachable for a while, the error never taken", func(w *world) {
		c, s := w.pair(opt(unix.IPPROTO_IP, unix.IP_RECVERR, 1))
		w.nft(w.b, "input", "meta l4proto tcp reject with icmp type host-unreachable")
		c.send(100)
		c.failed()
		w.open(w.b)
		s.receive(100)
		c.acknowledged()
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 100, also: retransmitted},
		{role: sv, reason: event.CloseFinRemote, rx: 100},
	}},
	{"unreachable in mid-connection", func(w *world) {
		c, s := w.pair(tcpOpt(unix.TCP_USER_TIMEOUT, 400))
		transfer(c, s, 14)
		w.nft(w.b, "input", "meta l4proto tcp reject with icmp type host-unreachable")
		c.send(100)
		if err := c.await(unix.POLLERR); err != unix.EHOSTUNREACH {
			w.Fatal(err)
		}
		w.open(w.b)
		c.close()
		linger(s)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseUnreachable, tx: 114, errno: unix.EHOSTUNREACH},
		{role: sv, reason: event.CloseRstLocal, rx: 14},
	}},
}
