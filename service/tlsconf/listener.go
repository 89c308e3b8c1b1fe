package tlsconf

import (
	"fmt"
	"net"
	"net/netip"
)

// CheckListener refuses an address that others than this host can reach, unless the listener speaks TLS or the user
// accepted the risk. flag is the flag that sets the address (--listen), for the sentence.
func CheckListener(flag, address string, tlsOn, insecure bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%s %q is not an address such as 127.0.0.1:4747 or [::1]:4747", flag, address)
	}
	if tlsOn || insecure || loopback(host) {
		return nil
	}
	return fmt.Errorf("%s %s is open to the network and has no TLS: give --tls-cert and --tls-key, listen on 127.0.0.1, or accept the risk with --insecure", flag, address)
}

// loopback knows localhost and literal addresses; any other name may resolve to anything, and an empty host is every
// address of the machine.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
