package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

// listening waits until ok holds for the listener of a port in the namespace.
func (s *space) listening(p *Probe, port uint16, ok func(*Listener) bool) Listener {
	s.t.Helper()
	var last []Listener
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if last, err = p.Listeners(); err != nil {
			s.t.Fatal(err)
		}
		for _, l := range last {
			if l.NetnsInum == s.inum && l.Port == port && ok(&l) {
				return l
			}
		}
	}
	s.t.Fatalf("port %d: %+v", port, last)
	return Listener{}
}

func TestListeners(t *testing.T) {
	s := newSpace(t)
	serverPID, at := s.server("127.0.0.1:0") // and a namespace is found by its processes
	older := s.listen("127.0.0.1:0")
	waiting, err := s.dial(older.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	c := newCapture(t, Options{}, s.inum)
	found := s.listening(c.probe, port(older.Addr()), func(l *Listener) bool { return l.PID != 0 })
	if !found.Found || found.PID != uint32(os.Getpid()) || found.QueuedBefore != 1 || found.AcceptQueue != 1 || found.Established != 0 {
		t.Errorf("found: %+v", found)
	}
	if l := s.listening(c.probe, netip.MustParseAddrPort(at).Port(), func(l *Listener) bool { return l.PID != 0 }); l.PID != serverPID {
		t.Errorf("held by %d, want %d", l.PID, serverPID)
	}
	l := s.listen("[::]:0")
	seen := s.listening(c.probe, port(l.Addr()), func(*Listener) bool { return true })
	if seen.Found || seen.PID != uint32(os.Getpid()) || seen.SinceNs == 0 || seen.Addr != [16]byte{} || seen.AcceptQueueLimit == 0 {
		t.Errorf("seen: %+v", seen)
	}
	client, err := s.dial(fmt.Sprintf("127.0.0.1:%d", port(l.Addr())))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	queued := s.listening(c.probe, port(l.Addr()), func(l *Listener) bool { return l.Established == 1 })
	if queued.LastNs < queued.SinceNs || queued.AcceptQueue != 1 {
		t.Errorf("queued: %+v", queued)
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s.listening(c.probe, port(l.Addr()), func(l *Listener) bool { return l.Established == 1 && l.AcceptQueue == 0 })
	l.Close()
	left(t, c.probe, 2)
}

// left waits until n listeners are left.
func left(t *testing.T, p *Probe, n int) []Listener {
	t.Helper()
	var list []Listener
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var err error
		if list, err = p.Listeners(); err != nil {
			t.Fatal(err)
		}
		if len(list) == n {
			return list
		}
	}
	t.Fatalf("%d listeners, want %d", len(list), n)
	return nil
}

// Whoever begins or ceases to listen shows in a number that is cheap to read, and a connection does not.
func TestListensMoved(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{NetnsInum: s.inum}, s.inum)
	l := s.listen("127.0.0.1:0")
	s.listening(c.probe, port(l.Addr()), func(*Listener) bool { return c.probe.holders.pass > 0 }) // they are looked for when the inventory is complete
	last, err := c.probe.ListensMoved()
	if err != nil {
		t.Fatal(err)
	}
	moves := func(by uint64, what string) {
		t.Helper()
		moved, err := c.probe.ListensMoved()
		if err != nil || moved != last+by {
			t.Errorf("%s: %d after %d, error %v", what, moved, last, err)
		}
		last = moved
	}
	client, err := s.dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	moves(0, "a connection")
	_ = s.listen("127.0.0.1:0")
	moves(1, "listen")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	moves(1, "close")
}

// Those who stay still name their children when the latest goes.
func TestListenersThatShareAnAddress(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	var fds [2]int
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 4000}
	s.do(func() error {
		for i := range fds {
			var err error
			if fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			if err := errors.Join(unix.SetsockoptInt(fds[i], unix.SOL_SOCKET, unix.SO_REUSEPORT, 1), unix.Bind(fds[i], at), unix.Listen(fds[i], 8)); err != nil {
				return err
			}
		}
		return nil
	})
	defer unix.Close(fds[0])
	left(t, c.probe, 2)
	unix.Close(fds[1])
	left(t, c.probe, 1)
	conn, err := s.dial("127.0.0.1:4000")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if l := s.listening(c.probe, 4000, func(l *Listener) bool { return l.Established == 1 }); l.PID != uint32(os.Getpid()) {
		t.Errorf("%+v", l)
	}
}

// TestOverflows: what the accept queue has no room for is counted at its listener and in its namespace.
func TestOverflows(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	s.server("127.0.0.1:0") // a namespace is found by its processes
	full := listenFull(t, s)
	defer full()
	l := s.listening(c.probe, 4001, func(l *Listener) bool { return l.Drops > 0 })
	if l.AcceptQueue <= l.AcceptQueueLimit {
		t.Errorf("%+v", l)
	}
	counts, err := ReadOverflows(map[uint32]bool{s.inum: true, 1: true})
	if err != nil || len(counts) != 1 || counts[s.inum].Accept < uint64(l.Drops) {
		t.Errorf("%+v, drops %d: %v", counts, l.Drops, err)
	}
}

// TestSynQueueOverflows: a client that does not answer stays in the SYN queue; those after it get a cookie, or nothing.
func TestSynQueueOverflows(t *testing.T) {
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	for cookies, name := range []string{"dropped", "cookies"} {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			w := &world{T: t}
			w.sysctl(s, "ipv4/tcp_syncookies", strconv.Itoa(cookies))
			w.nft(s, "output", "tcp flags & (syn|ack) == (syn|ack) drop")
			c := newCapture(t, Options{}, s.inum)
			s.server("127.0.0.1:0") // a namespace is found by its processes
			full := listenFull(t, s)
			defer full()
			l := s.listening(c.probe, 4001, func(l *Listener) bool { return (l.SynOverflow != 0) == (cookies == 1) && l.SynQueue == 1 })
			counts, err := ReadOverflows(map[uint32]bool{s.inum: true})
			if err != nil || counts[s.inum].Syn < 2 || counts[s.inum].Accept != 0 || (l.Drops != 0) != (cookies == 0) {
				t.Errorf("%+v, %+v: %v", l, counts, err)
			}
		})
	}
}

// listenFull listens on port 4001 with room for one and lets three knock.
func listenFull(t *testing.T, s *space) (end func()) {
	t.Helper()
	var fds []int
	at := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 4001}
	s.do(func() error {
		for i := range 4 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if i == 0 {
				if err := errors.Join(unix.Bind(fd, at), unix.Listen(fd, 0)); err != nil {
					return err
				}
			} else if err := unix.Connect(fd, at); !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
		}
		return nil
	})
	return func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}

func TestParseOverflows(t *testing.T) {
	got, err := parseOverflows([]byte("TcpExt: A ListenOverflows TCPReqQFullDoCookies TCPReqQFullDrop B\nTcpExt: 1 2 3 4 -5\nIpExt: A\nIpExt: 1\n"))
	if err != nil || got != (Overflows{2, 7}) {
		t.Errorf("%+v %v", got, err)
	}
	for _, text := range []string{"", "TcpExt: A\n", "TcpExt: A B\nTcpExt: 1\n", "Tcp: A\nTcp: 1\n"} {
		if _, err := parseOverflows([]byte(text)); err == nil {
			t.Errorf("%q was understood", text)
		}
	}
}
