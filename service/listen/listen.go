// Package listen opens TCP listeners and UDP sockets with errors a user can act on. It decides nothing about TLS (service/tlsconf).
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// TCP opens a listener. flag is the flag that sets the address (--listen), for the sentence of an error; port 0 takes any
// free port.
func TCP(ctx context.Context, flag, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err == nil {
		return listener, nil
	}
	return nil, explain(err, "-ltnp", flag, address)
}

// UDP opens n sockets on one address, among which the kernel spreads senders (SO_REUSEPORT). Another program may take part only if it runs as the same user
// and asks for the same.
func UDP(ctx context.Context, flag, address string, n int) ([]*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); cerr != nil {
			return cerr
		}
		return err
	}}
	var conns []*net.UDPConn
	for range n {
		conn, err := config.ListenPacket(ctx, "udp", address)
		if err != nil {
			for _, c := range conns {
				c.Close()
			}
			return nil, explain(err, "-lunp", flag, address)
		}
		conns = append(conns, conn.(*net.UDPConn))
		address = conn.LocalAddr().String() // of port 0, the one that was taken
	}
	return conns, nil
}

// explain says what a user can do about an error of listening. show are the options of ss that show who has the port.
func explain(err error, show, flag, address string) error {
	_, port, splitErr := net.SplitHostPort(address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%s %s is in use, perhaps by another copy of this program (who: ss %s 'sport = :%s'): stop it or give another address with %s: %w",
			flag, address, show, port, flag, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("%s %s is not an address of this host (see: ip address): %w", flag, address, syscall.EADDRNOTAVAIL)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%s %s: ports below 1024 need CAP_NET_BIND_SERVICE: give a higher port with %s: %w", flag, address, flag, syscall.EACCES)
	case splitErr != nil:
		return fmt.Errorf("%s %q is not an address such as 127.0.0.1:4747 or [::1]:4747", flag, address)
	default:
		return fmt.Errorf("%s %s: %w", flag, address, err)
	}
}
