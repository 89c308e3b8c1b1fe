package probe

import (
	"errors"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// sock is a blocking socket that gives up after 10 s.
type sock struct {
	w  *world
	fd int
}

func writeFile(name, value string) error { return os.WriteFile(name, []byte(value), 0o644) }

// socket makes a socket in the namespace; set prepares it.
func (w *world) socket(s *space, family, protocol int, set ...func(sock)) sock {
	w.Helper()
	c := sock{w: w, fd: -1}
	s.do(func() (err error) {
		c.fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	limit := unix.Timeval{Sec: 10}
	w.check(unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	w.check(unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit))
	for _, f := range set {
		f(c)
	}
	return c
}

func opt(level, name, value int) func(sock) {
	return func(c sock) { c.w.Helper(); c.w.check(unix.SetsockoptInt(c.fd, level, name, value)) }
}

func tcpOpt(name, value int) func(sock) { return opt(unix.IPPROTO_TCP, name, value) }

func nonblock(c sock) { c.w.check(unix.SetNonblock(c.fd, true)) }

// linger makes close a reset.
func linger(c sock) {
	c.w.check(unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

// bindTo binds to an address; port 0 is any.
func bindTo(addr string) func(sock) {
	return func(c sock) { c.w.Helper(); c.w.check(unix.Bind(c.fd, sockaddr(addr, 0))) }
}

func family(addr string) int {
	if a := netip.MustParseAddrPort(addr).Addr(); a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// sockaddr of "address:port"; scope is the interface of a link-local address.
func sockaddr(addr string, scope uint32) unix.Sockaddr {
	ap := netip.MustParseAddrPort(addr)
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16(), ZoneId: scope}
}

// listener listens in b at addr; its name is where clients connect to.
func (w *world) listener(addr string, set ...func(sock)) sock {
	w.Helper()
	l := w.socket(w.b, family(addr), 0, append(set, bindTo(addr))...)
	w.check(unix.Listen(l.fd, 16))
	return l
}

// pair is a connection of a client in a with a server in b.
func (w *world) pair(set ...func(sock)) (client, server sock) {
	w.Helper()
	l := w.listener("10.177.0.2:0")
	defer l.close()
	return w.pairAt(l, set...)
}

func (w *world) pairAt(l sock, set ...func(sock)) (client, server sock) {
	w.Helper()
	name := l.name()
	client = w.socket(w.a, family(name.String()), 0, set...)
	w.check(unix.Connect(client.fd, sockaddr(name.String(), 0)))
	return client, l.accept()
}

// name is the socket's own address.
func (c sock) name() netip.AddrPort {
	c.w.Helper()
	at, err := unix.Getsockname(c.fd)
	c.w.check(err)
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr), uint16(at.Port))
	}
	return netip.AddrPort{}
}

// again repeats a call that a signal of Go's runtime has interrupted: the kernel does not where a socket has a time limit.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

func (c sock) accept() sock {
	c.w.Helper()
	fd, err := again(func() (int, error) { fd, _, err := unix.Accept4(c.fd, unix.SOCK_CLOEXEC); return fd, err })
	c.w.check(err)
	limit := unix.Timeval{Sec: 10}
	c.w.check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	return sock{c.w, fd}
}

// connect expects the error, 0 for none.
func (c sock) connect(addr string, want unix.Errno) {
	c.w.Helper()
	var err error = unix.Errno(0)
	if e := unix.Connect(c.fd, sockaddr(addr, 0)); e == unix.EINTR {
		err = c.connected() // Go's runtime interrupts its threads
	} else if e != nil {
		err = e
	}
	if !errors.Is(err, want) {
		c.w.Fatalf("connect to %s: %v, want %v", addr, err, want)
	}
}

// connected waits for the end of an attempt that was interrupted, and returns its error, 0 for none.
func (c sock) connected() unix.Errno {
	c.w.Helper()
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
	for {
		if _, err := unix.Poll(fds, 10_000); err != unix.EINTR {
			c.w.check(err)
			break
		}
	}
	errno, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	c.w.check(err)
	return unix.Errno(errno)
}

func (c sock) send(n int) {
	c.w.Helper()
	for n > 0 {
		sent, err := again(func() (int, error) { return unix.SendmsgN(c.fd, make([]byte, n), nil, nil, unix.MSG_NOSIGNAL) })
		c.w.check(err)
		n -= sent
	}
}

func (c sock) receive(n int) {
	c.w.Helper()
	buf := make([]byte, 64<<10)
	for n > 0 {
		got, err := again(func() (int, error) { return unix.Read(c.fd, buf[:min(n, len(buf))]) })
		if err == nil && got == 0 {
			c.w.Fatalf("%d bytes too few", n)
		}
		c.w.check(err)
		n -= got
	}
}

// transfer sends n bytes from one end to the other.
func transfer(from, to sock, n int) {
	from.w.Helper()
	done := make(chan error, 1)
	go func() {
		var err error
		for left := n; left > 0 && err == nil; {
			var sent int
			sent, err = again(func() (int, error) {
				return unix.SendmsgN(from.fd, make([]byte, min(left, 1<<20)), nil, nil, unix.MSG_NOSIGNAL)
			})
			left -= sent
		}
		done <- err
	}()
	to.receive(n)
	from.w.check(<-done)
}

// ended expects the end of the input: an orderly one, or an error.
func (c sock) ended(want unix.Errno) {
	c.w.Helper()
	n, err := again(func() (int, error) { return unix.Read(c.fd, make([]byte, 1)) })
	if want == 0 && (n != 0 || err != nil) || want != 0 && !errors.Is(err, want) {
		c.w.Fatalf("read: %d, %v, want the end (%d)", n, err, int(want))
	}
}

// await waits until the socket is ready or has an error, which it returns.
func (c sock) await(events int16) unix.Errno {
	c.w.Helper()
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: events}}
	for {
		n, err := unix.Poll(fds, 10_000)
		if err == unix.EINTR {
			continue
		}
		c.w.check(err)
		if n == 0 {
			c.w.Fatal("nothing happened in 10 s")
		}
		break
	}
	value, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	c.w.check(err)
	return unix.Errno(value)
}

// failed waits for an error and leaves it on the socket.
func (c sock) failed() {
	c.w.Helper()
	fds := []unix.PollFd{{Fd: int32(c.fd)}}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if n, _ := unix.Poll(fds, 100); n == 1 && fds[0].Revents&unix.POLLERR != 0 {
			return
		}
	}
	c.w.Fatal("no error came")
}

// unread waits until n bytes lie in the socket's receive queue.
func (c sock) unread(n int) {
	c.w.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if have, err := unix.IoctlGetInt(c.fd, unix.SIOCINQ); err == nil && have == n {
			return
		}
	}
	c.w.Fatalf("%d bytes did not arrive", n)
}

// acknowledged waits until all that was sent is.
func (c sock) acknowledged() {
	c.w.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.Unacked == 0 {
			return
		}
	}
	c.w.Fatal("what was sent was not acknowledged")
}

// fill writes until all that was sent is acknowledged and more lies in the socket's send queue, which grows meanwhile.
func (c sock) fill() {
	c.w.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		_, _ = unix.Write(c.fd, make([]byte, 1<<20))
		info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.Unacked == 0 && info.Notsent_bytes > 0 {
			return
		}
	}
	c.w.Fatal("the window did not close")
}

// state waits for the socket's TCP state.
func (c sock) state(want uint8) {
	c.w.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if info, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil && info.State == want {
			return
		}
	}
	c.w.Fatalf("state %d was not reached", want)
}

func (c sock) shut() { c.w.Helper(); c.w.check(unix.Shutdown(c.fd, unix.SHUT_WR)) }

// close is the last close of the file: a process that another scenario is starting holds it too, between fork and exec.
func (c sock) close() {
	c.w.Helper()
	starting.RLock()
	defer starting.RUnlock()
	c.w.check(unix.Close(c.fd))
}

// finish is the orderly end: first closes, second sees it and closes too.
func finish(first, second sock) {
	first.w.Helper()
	first.close()
	second.ended(0)
	second.close()
}
