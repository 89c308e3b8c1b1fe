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

// refusedSoon says whether the other end closes a connection without a word.
func refusedSoon(t *testing.T, address string) bool {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = c.Read(make([]byte, 1))
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)
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
	first, second := refusedSoon(t, l.Addr().String()), refusedSoon(t, l.Addr().String())
	if first || second || !refusedSoon(t, l.Addr().String()) || !refusedSoon(t, l.Addr().String()) {
		t.Error("two connections are not what is taken")
	}
	open, refused := r.server.metrics.connections.WithLabelValues("https"), r.server.metrics.refusedConnections.WithLabelValues("https")
	if testutil.ToFloat64(open) != 2 || testutil.ToFloat64(refused) != 2 {
		t.Errorf("%g are open, %g refused", testutil.ToFloat64(open), testutil.ToFloat64(refused))
	}
	c := <-accepted
	for range 2 { // a connection is closed by several hands
		_ = c.Close()
	}
	if refusedSoon(t, l.Addr().String()) || !refusedSoon(t, l.Addr().String()) {
		t.Error("one that ended has not made room for one")
	}
	if testutil.ToFloat64(open) != 2 || testutil.ToFloat64(refused) != 3 {
		t.Errorf("%g are open, %g refused", testutil.ToFloat64(open), testutil.ToFloat64(refused))
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
