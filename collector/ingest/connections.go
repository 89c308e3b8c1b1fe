package ingest

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// limited is a listener that closes the connections beyond a bound as soon as they come, and counts them: who is let wait in the kernel's queue instead learns
// nothing and tries no other node.
type limited struct {
	net.Listener
	name    string
	most    int64
	open    atomic.Int64
	gauge   prometheus.Gauge
	refused prometheus.Counter
	log     *slog.Logger
}

// limit bounds the connections of a listener, which is named as in the metrics.
func (s *Server) limit(l net.Listener, name string) net.Listener {
	return &limited{
		Listener: l, name: name, most: int64(s.cfg.MaxConnections), log: s.log,
		gauge: s.metrics.connections.WithLabelValues(name), refused: s.metrics.refusedConnections.WithLabelValues(name),
	}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.most {
			l.gauge.Inc()
			setUserTimeout(conn)
			return &counted{Conn: conn, closed: sync.OnceFunc(func() {
				l.open.Add(-1)
				l.gauge.Dec()
			})}, nil
		}
		l.open.Add(-1)
		l.refused.Inc()
		l.log.Warn("connection refused: as many are open as max_connections allows", "listener", l.name, "max_connections", l.most, "from", conn.RemoteAddr().String())
		conn.Close()
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	closed func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// setUserTimeout makes the kernel give up a connection whose peer has not acknowledged anything for pingTimeout (tcp(7), TCP_USER_TIMEOUT). grpc does it itself where it
// sees a *net.TCPConn; without it pings find such a peer, later.
func setUserTimeout(c net.Conn) {
	of, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := of.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(pingTimeout.Milliseconds()))
		})
	}
}
