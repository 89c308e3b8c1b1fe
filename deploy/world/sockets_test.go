package world

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TestNoSocketOutlivesItsWorld: a server that was killed while its client could not be reached leaves sockets that wait for
// an answer; the end of the world ends them, of IPv4 and of IPv6.
func TestNoSocketOutlivesItsWorld(t *testing.T) {
	w, client, server := pair(t)
	calls := []Call{}
	for _, to := range []netip.Addr{w.IPv4("server"), w.IPv6("server")} {
		calls = append(calls, Call{To: netip.AddrPortFrom(to, 7000), Request: 100, Response: 100, Rounds: 2, Pause: 9 * time.Second})
	}
	if err := client.Begin(Job{ID: "long", Calls: calls, Parallel: 2}); err != nil {
		t.Fatal(err)
	}
	path := w.NamespacePath("server")
	before := sockets(t, path)
	for deadline := time.Now().Add(30 * time.Second); before < 3; before = sockets(t, path) { // the listener too
		if time.Now().After(deadline) {
			t.Fatalf("%d sockets, want a listener and two connections", before)
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond) // a server that is killed with a request unread resets the connection, which ends it
	if err := w.Firewall("server", "tcp dport 7000 drop", "tcp sport 7000 drop"); err != nil {
		t.Fatal(err)
	}
	server.kill()
	if left := sockets(t, path); left == 0 {
		t.Fatal("a killed server leaves no socket: this test shows nothing")
	}
	if err := endSockets(path); err != nil {
		t.Fatal(err)
	}
	if left := sockets(t, path); left != 0 {
		t.Errorf("%d are still there", left)
	}
	if err := endSockets(path + "-that-is-gone"); err != nil {
		t.Errorf("a namespace that is gone: %v", err)
	}
}

// A listener whose process still lives is nobody's mistake, also where the kernel does not let it be ended (MPTCP).
func TestALivingListenerIsNoError(t *testing.T) {
	w, _, _ := pair(t)
	if err := endSockets(w.NamespacePath("server")); err != nil {
		t.Error(err)
	}
}

// sockets counts those of a namespace.
func sockets(t *testing.T, path string) (n int) {
	t.Helper()
	space, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: int(space.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		ids, err := listSockets(conn, family)
		if err != nil {
			t.Fatal(err)
		}
		n += len(ids)
	}
	return n
}
