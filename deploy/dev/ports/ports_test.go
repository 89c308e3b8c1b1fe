package ports

import (
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"tributary/service/testenv"
)

// TestServer: a server can be started on a reserved address, stopped and started again, with clients of its past still about.
func TestServer(t *testing.T) {
	address := Address(t)
	if c, err := net.Dial("tcp", address); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("nobody listens: %v, %v", c, err)
	}
	for range 3 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		server.Close()
		client.Close()
		l.Close()
	}
}

// TestReserved: in a namespace with ten ports for clients, those that are reserved go to no client, to no bind to port 0 and
// to no other reservation; released, they do.
func TestReserved(t *testing.T) {
	testenv.NeedRoot(t)
	runtime.LockOSThread() // and never unlocked: the thread ends with the test, and its namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	up(t)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40009"), 0); err != nil {
		t.Fatal(err)
	}
	reserved, release, err := Reserve(8)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	slices.Sort(reserved)
	if len(slices.Compact(slices.Clone(reserved))) != 8 {
		t.Fatalf("one twice: %v", reserved)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil || slices.Contains(reserved, l.Addr().String()) {
		t.Fatalf("a bind to port 0: %v, %v, reserved %v", l.Addr(), err, reserved)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil || slices.Contains(reserved, c.LocalAddr().String()) {
		t.Fatalf("a client: %v, %v, reserved %v", c, err, reserved)
	}
	defer c.Close()
	if _, err := net.Dial("tcp", l.Addr().String()); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Fatalf("a client where every port is somebody's: %v", err)
	}
	if _, _, err := Reserve(1); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatalf("a reservation where every port is somebody's: %v", err)
	}
	release()
	again, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("a client of a released port: %v", err)
	}
	again.Close()
}

// up brings the loopback of the thread's namespace up.
func up(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		t.Fatal(err)
	}
}
