// Package ports reserves addresses of loopback for the servers of tests and benchmarks.
//
// A port that was free a moment ago is often somebody's a moment later: the kernel gives it to a client connection. A
// reserved one stays free: a socket is bound to it and never listens. With SO_REUSEADDR, which Go, Java and ClickHouse
// set on their listeners, such a socket keeps no server away, while neither connect nor a bind to port 0 is given its
// port (inet_hash_connect and inet_csk_find_open_port in net/ipv4). A server may be stopped and started again.
//
// The room starts no server. It reserves TCP ports of 127.0.0.1 in the caller's network namespace, nothing for UDP.
package ports

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Reserve reserves n different addresses, "127.0.0.1:port", until release is called.
func Reserve(n int) (addresses []string, release func(), err error) {
	var held []int
	release = sync.OnceFunc(func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	})
	for range n {
		fd, address, err := bind()
		if err != nil {
			release()
			return nil, nil, fmt.Errorf("reserve a port: %w", err)
		}
		held, addresses = append(held, fd), append(addresses, address)
	}
	return addresses, release, nil
}

// Address reserves an address until the test ends.
func Address(t testing.TB) string {
	t.Helper()
	addresses, release, err := Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addresses[0]
}

func bind() (fd int, address string, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, "", err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()})
	}
	var bound unix.Sockaddr
	if err == nil {
		bound, err = unix.Getsockname(fd)
	}
	at, ok := bound.(*unix.SockaddrInet4)
	if err == nil && !ok {
		err = errors.New("an IPv4 socket has no IPv4 address")
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, "", err
	}
	return fd, netip.AddrPortFrom(loopback, uint16(at.Port)).String(), nil
}
