package ingest

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// refused says whether the other end closes a connection without a word, and does not hand it on.
func refused(t *testing.T, address string, accepted <-chan net.Conn) (taken net.Conn, refused bool) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	closed := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		closed <- err
	}()
	select {
	case taken = <-accepted:
	case err := <-closed:
		refused = errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
	case <-time.After(30 * time.Second):
		t.Fatal("a connection is neither taken nor closed")
	}
	return taken, refused
}

// TestConnectionsAreBounded: beyond the bound a connection is closed at once and counted; one that ends makes room.
func TestConnectionsAreBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, Config{MaxConnections: 2})
	bounded := r.server.limit(l, "https")
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := bounded.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	come := func() (net.Conn, bool) { return refused(t, l.Addr().String(), accepted) }
	c, first := come()
	_, second := come()
	_, third := come()
	_, fourth := come()
	if first || second || !third || !fourth {
		t.Fatal("two connections are not what is taken")
	}
	open, turned := r.server.metrics.connections.WithLabelValues("https"), r.server.metrics.refusedConnections.WithLabelValues("https")
	if testutil.ToFloat64(open) != 2 || testutil.ToFloat64(turned) != 2 {
		t.Errorf("%g are open, %g refused", testutil.ToFloat64(open), testutil.ToFloat64(turned))
	}
	for range 2 { // a connection is closed by several hands
		_ = c.Close()
	}
	_, next := come()
	_, another := come()
	if next || !another {
		t.Error("one that ended has not made room for one")
	}
	if testutil.ToFloat64(open) != 2 || testutil.ToFloat64(turned) != 3 {
		t.Errorf("%g are open, %g refused", testutil.ToFloat64(open), testutil.ToFloat64(turned))
	}
}

// TestUserTimeout: connections that are taken have it, as those have that grpc accepts itself.
func TestUserTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := start(t, Config{}).server.limit(l, "grpc").Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*counted).Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	if cerr := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	if got != int(pingTimeout.Milliseconds()) {
		t.Errorf("%d ms", got)
	}
}
