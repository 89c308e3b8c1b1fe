package probe

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// failures are attempts that never become connections.
var failures = []scenario{
	{"refused", func(w *world) {
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect("10.177.0.2:9", unix.ECONNREFUSED)
		c.close()
	}, failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"refused, IPv6", func(w *world) {
		c := w.socket(w.a, unix.AF_INET6, 0)
		c.connect("[fd77::2]:9", unix.ECONNREFUSED)
		c.close()
	}, failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"refused, seen by a program that does not wait", func(w *world) {
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		if err := unix.Connect(c.fd, sockaddr("10.177.0.2:9", 0)); err != unix.EINPROGRESS && err != unix.ECONNREFUSED {
			w.Fatal(err)
		}
		c.await(unix.POLLOUT)
		c.close()
	}, failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"ICMP port unreachable", rejected("icmp type port-unreachable", unix.ECONNREFUSED), failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"ICMP host unreachable", rejected("icmp type host-unreachable", unix.EHOSTUNREACH), failed(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"ICMP network unreachable", rejected("icmp type net-unreachable", unix.ENETUNREACH), failed(event.CloseUnreachable, unix.ENETUNREACH)},
	{"ICMP protocol unreachable", rejected("icmp type prot-unreachable", unix.ENOPROTOOPT), failed(event.CloseUnreachable, unix.ENOPROTOOPT)},
	{"ICMP administratively prohibited", rejected("icmp type admin-prohibited", unix.EHOSTUNREACH), failed(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"ICMPv6 no route", rejected6("icmpv6 type no-route", unix.ENETUNREACH), failed(event.CloseUnreachable, unix.ENETUNREACH)},
	{"ICMPv6 administratively prohibited", rejected6("icmpv6 type admin-prohibited", unix.EACCES), failed(event.ClosePolicy, unix.EACCES)},
	{"no answer", func(w *world) {
		w.block(w.b)
		c := w.socket(w.a, unix.AF_INET, 0, tcpOpt(unix.TCP_SYNCNT, 1))
		c.connect("10.177.0.2:9", unix.ETIMEDOUT)
		c.close()
	}, []want{{role: cl, kind: event.KindFailed, reason: event.CloseTimeout, errno: unix.ETIMEDOUT, state: event.StateSynSent, also: func(e *event.Event) error {
		if e.RetransSyn == 0 || e.RetransSegs != e.RetransSyn {
			return fmt.Errorf("%d SYNs of %d segments retransmitted", e.RetransSyn, e.RetransSegs)
		}
		return nil
	}}}},
	{"no answer, given up by user timeout", func(w *world) {
		w.block(w.b)
		c := w.socket(w.a, unix.AF_INET, 0, tcpOpt(unix.TCP_USER_TIMEOUT, 300))
		c.connect("10.177.0.2:9", unix.ETIMEDOUT)
		c.close()
	}, failed(event.CloseTimeout, unix.ETIMEDOUT)},
	{"no neighbour (ARP)", func(w *world) {
		w.sysctl(w.a, "ipv4/neigh/wire0/mcast_solicit", "1")
		w.sysctl(w.a, "ipv4/neigh/wire0/retrans_time_ms", "200")
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect("10.177.0.99:9", unix.EHOSTUNREACH)
		c.close()
	}, failed(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"no neighbour (IPv6)", func(w *world) {
		w.sysctl(w.a, "ipv6/neigh/wire0/mcast_solicit", "1")
		w.sysctl(w.a, "ipv6/neigh/wire0/retrans_time_ms", "200")
		c := w.socket(w.a, unix.AF_INET6, 0)
		c.connect("[fd77::99]:9", unix.EHOSTUNREACH)
		c.close()
	}, failed(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"no free port", func(w *world) {
		w.sysctl(w.a, "ipv4/ip_local_port_range", "40001 40001")
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		second := w.socket(w.a, unix.AF_INET, 0)
		second.connect(l.name().String(), unix.EADDRNOTAVAIL)
		second.close()
		finish(c, s)
		l.close()
	}, []want{
		{role: cl, kind: event.KindFailed, reason: event.CloseNoPort, state: event.StateSynSent},
		{role: cl, reason: event.CloseFinLocal},
		{role: sv, reason: event.CloseFinRemote},
	}},
	{"abandoned", func(w *world) {
		w.block(w.b)
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect("10.177.0.2:9", unix.EINPROGRESS)
		c.close()
	}, failed(event.CloseAborted, 0)},
	{"abandoned, unreachable meanwhile", func(w *world) {
		w.nft(w.b, "input", "meta l4proto tcp reject with icmp type host-unreachable")
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect("10.177.0.2:9", unix.EINPROGRESS) // the answer comes while the call holds the socket
		time.Sleep(500 * time.Millisecond)          // unless the machine is busy
		c.close()
	}, failed(event.CloseUnreachable, unix.EHOSTUNREACH)},
	{"abandoned, the soft error taken", func(w *world) {
		w.nft(w.a, "output", "meta l4proto tcp ip daddr 10.177.0.2 reject with icmp type port-unreachable") // as for a Service without endpoints: it comes while connect holds the socket
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect("10.177.0.2:9", unix.EINPROGRESS)
		if err := c.await(unix.POLLERR); err != unix.ECONNREFUSED {
			w.Fatalf("the program is told %v", err)
		}
		c.close()
	}, failed(event.CloseRefused, unix.ECONNREFUSED)},
	{"abandoned for a second connection", func(w *world) {
		w.block(w.b)
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect("10.177.0.2:9", unix.EINPROGRESS)
		w.check(disconnect(c.fd))
		w.open(w.b)
		w.check(unix.SetNonblock(c.fd, false))
		l := w.listener("10.177.0.2:0")
		c.connect(l.name().String(), 0)
		s := l.accept()
		transfer(c, s, 6)
		finish(c, s)
		l.close()
	}, []want{
		{role: cl, kind: event.KindFailed, reason: event.CloseAborted},
		{role: cl, reason: event.CloseFinLocal, tx: 6},
		{role: sv, reason: event.CloseFinRemote, rx: 6},
	}},
	{"bound and listened at, never connected", func(w *world) {
		w.listener("10.177.0.2:0").close()
		w.socket(w.a, unix.AF_INET, 0, bindTo("10.177.0.1:0")).close()
	}, nil},
	{"handshake given up half-way", func(w *world) {
		l := w.listener("10.177.0.2:0")
		w.block(w.a) // SYN-ACKs never arrive
		c := w.socket(w.a, unix.AF_INET, 0, nonblock)
		c.connect(l.name().String(), unix.EINPROGRESS)
		c.close()
		l.close()
	}, failed(event.CloseAborted, 0)},
}

// failed is the one record of a client that never was connected.
func failed(reason event.CloseReason, errno unix.Errno) []want {
	return []want{{role: cl, kind: event.KindFailed, reason: reason, errno: errno, state: event.StateSynSent}}
}

// rejected lets b answer every SYN with an ICMP error.
func rejected(with string, want unix.Errno) func(w *world) {
	return func(w *world) {
		w.nft(w.b, "input", "meta l4proto tcp reject with "+with)
		c := w.socket(w.a, unix.AF_INET, 0)
		c.connect("10.177.0.2:9", want)
		c.close()
	}
}

func rejected6(with string, want unix.Errno) func(w *world) {
	return func(w *world) {
		w.nft(w.b, "input", "meta l4proto tcp reject with "+with)
		c := w.socket(w.a, unix.AF_INET6, 0)
		c.connect("[fd77::2]:9", want)
		c.close()
	}
}
