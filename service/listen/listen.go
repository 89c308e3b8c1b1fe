// Package listen opens TCP listeners with errors a user can act on. It decides nothing about TLS (service/tlsconf).
package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
)

// TCP opens a listener. flag is the flag that sets the address (--listen), for the sentence of an error; port 0 takes any
// free port.
func TCP(ctx context.Context, flag, address string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err == nil {
		return listener, nil
	}
	_, port, splitErr := net.SplitHostPort(address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s %s is in use, perhaps by another copy of this program (who: ss -ltnp 'sport = :%s'): stop it or give another address with %s: %w",
			flag, address, port, flag, syscall.EADDRINUSE)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s is not an address of this host (see: ip address): %w", flag, address, syscall.EADDRNOTAVAIL)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s %s: ports below 1024 need CAP_NET_BIND_SERVICE: give a higher port with %s: %w", flag, address, flag, syscall.EACCES)
	case splitErr != nil:
		return nil, fmt.Errorf("%s %q is not an address such as 127.0.0.1:4747 or [::1]:4747", flag, address)
	default:
		return nil, fmt.Errorf("%s %s: %w", flag, address, err)
	}
}
