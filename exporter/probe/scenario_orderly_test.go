package probe

import (
	"fmt"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// orderly are connections that end with two FINs.
var orderly = []scenario{
	{"client closes first", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 1000)
		transfer(s, c, 50000)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 1000, rx: 50000, state: event.StateFinWait2},
		{role: sv, reason: event.CloseFinRemote, tx: 50000, rx: 1000, state: event.StateLastAck},
	}},
	{"server closes first", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 1)
		transfer(s, c, 2)
		finish(s, c)
	}, []want{
		{role: cl, reason: event.CloseFinRemote, tx: 1, rx: 2, state: event.StateLastAck},
		{role: sv, reason: event.CloseFinLocal, tx: 2, rx: 1, state: event.StateFinWait2},
	}},
	{"no byte", func(w *world) {
		finish(w.pair())
	}, []want{{role: cl, reason: event.CloseFinLocal}, {role: sv, reason: event.CloseFinRemote}}},
	{"megabytes", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 3<<20+1)
		transfer(s, c, 5<<20+3)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 3<<20 + 1, rx: 5<<20 + 3},
		{role: sv, reason: event.CloseFinRemote, tx: 5<<20 + 3, rx: 3<<20 + 1},
	}},
	{"half close", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 10)
		c.shut()
		s.ended(0)
		transfer(s, c, 70000)
		s.close()
		c.ended(0)
		c.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 10, rx: 70000, state: event.StateFinWait2},
		{role: sv, reason: event.CloseFinRemote, tx: 70000, rx: 10, state: event.StateLastAck},
	}},
	{"both close at once", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 10)
		transfer(s, c, 20)
		w.block(w.a, w.b)
		c.close()
		s.close()
		w.open(w.a, w.b)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 10, rx: 20},
		{role: sv, reason: event.CloseFinLocal, tx: 20, rx: 10},
	}},
	{"data still queued at close", func(w *world) {
		c, s := w.pair()
		w.block(w.b)
		c.send(20000)
		c.close()
		w.open(w.b)
		s.receive(20000)
		s.ended(0)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 20000},
		{role: sv, reason: event.CloseFinRemote, rx: 20000},
	}},
	{"IPv6", func(w *world) {
		l := w.listener("[fd77::2]:0")
		c, s := w.pairAt(l)
		transfer(c, s, 12345)
		finish(s, c)
		l.close()
	}, []want{
		{role: cl, reason: event.CloseFinRemote, tx: 12345, also: addresses("fd77::1", "fd77::2")},
		{role: sv, reason: event.CloseFinLocal, rx: 12345, also: addresses("fd77::2", "fd77::1")},
	}},
	{"IPv6, link-local", func(w *world) {
		l := w.listener("[::]:0")
		c := w.socket(w.a, unix.AF_INET6, 0)
		to := fmt.Sprintf("[fe80::2]:%d", l.name().Port())
		w.check(unix.Connect(c.fd, sockaddr(to, w.index(w.a, "wire0"))))
		s := l.accept()
		transfer(c, s, 77)
		finish(c, s)
		l.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 77, also: addresses("fe80::1", "fe80::2")},
		{role: sv, reason: event.CloseFinRemote, rx: 77, also: addresses("fe80::2", "fe80::1")},
	}},
	{"IPv4-mapped", func(w *world) {
		l := w.listener("[::]:0")
		c := w.socket(w.a, unix.AF_INET6, 0)
		c.connect(fmt.Sprintf("[::ffff:10.177.0.2]:%d", l.name().Port()), 0)
		s := l.accept()
		transfer(c, s, 5)
		finish(c, s)
		l.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 5, also: addresses("10.177.0.1", "10.177.0.2")},
		{role: sv, reason: event.CloseFinRemote, rx: 5, also: addresses("10.177.0.2", "10.177.0.1")},
	}},
	{"listener goes away", func(w *world) {
		l := w.listener("10.177.0.2:0")
		c, s := w.pairAt(l)
		l.close()
		transfer(c, s, 8)
		finish(s, c)
	}, []want{{role: cl, reason: event.CloseFinRemote, tx: 8}, {role: sv, reason: event.CloseFinLocal, rx: 8}}},
	{"namespaces deleted under live sockets", func(w *world) {
		c, s := w.pair()
		w.check(w.a.handle.Close())
		w.check(w.b.handle.Close())
		transfer(c, s, 900)
		finish(c, s)
	}, []want{{role: cl, reason: event.CloseFinLocal, tx: 900}, {role: sv, reason: event.CloseFinRemote, rx: 900}}},
	{"packets lost", func(w *world) {
		c, s := w.pair()
		w.nft(w.b, "input", "meta l4proto tcp numgen inc mod 10 5 drop")
		transfer(c, s, 2<<20)
		w.open(w.b)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 2 << 20, also: retransmitted},
		{role: sv, reason: event.CloseFinRemote, rx: 2 << 20},
	}},
	{"packets dropped by the sender's own firewall", func(w *world) {
		c, s := w.pair()
		w.nft(w.a, "output", "meta l4proto tcp numgen inc mod 3 0 drop")
		transfer(c, s, 200000)
		w.open(w.a)
		finish(c, s)
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 200000},
		{role: sv, reason: event.CloseFinRemote, rx: 200000},
	}},
	{"FIN lost", func(w *world) {
		c, s := w.pair()
		transfer(c, s, 50)
		w.block(w.b)
		c.close()
		w.open(w.b)
		s.ended(0)
		s.close()
	}, []want{
		{role: cl, reason: event.CloseFinLocal, tx: 50, also: func(e *event.Event) error {
			if e.RetransClosing == 0 || e.RetransSyn != 0 || e.RetransBytes != 0 {
				return fmt.Errorf("retransmitted: closing %d, SYN %d, bytes %d", e.RetransClosing, e.RetransSyn, e.RetransBytes)
			}
			return nil
		}},
		{role: sv, reason: event.CloseFinRemote, rx: 50},
	}},
}

func retransmitted(e *event.Event) error {
	if e.RetransSegs == 0 || e.RetransBytes == 0 || e.RetransSyn != 0 || e.RetransClosing > e.RetransSegs {
		return fmt.Errorf("retransmitted: %d segments, %d bytes, SYN %d, closing %d", e.RetransSegs, e.RetransBytes, e.RetransSyn, e.RetransClosing)
	}
	return nil
}
