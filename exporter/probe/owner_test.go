package probe

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"tributary/exporter/event"
)

const serveEnv = "TRIBUTARY_PROBE_TEST_SERVE"

// TestMain lets the test binary be a server in another process.
func TestMain(m *testing.M) {
	if addr := os.Getenv(serveEnv); addr != "" {
		serve(addr)
	}
	if os.Getenv(obeyEnv) != "" {
		obey()
		return
	}
	if os.Getenv(checkEnv) != "" {
		fmt.Println(Check())
		return
	}
	os.Exit(m.Run())
}

// serve prints its address and answers every connection with 10 bytes after its end
// of input; the first byte "r" asks for a reset instead.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		in, _ := io.ReadAll(c)
		if strings.HasPrefix(string(in), "r") {
			c.(*net.TCPConn).SetLinger(0)
		} else {
			c.Write(make([]byte, 10))
		}
		c.Close()
	}
}

// server starts serve in the namespace.
func (s *space) server(addr string) (pid uint32, at string) {
	s.t.Helper()
	return s.startServer(exec.Command("/proc/self/exe"), addr)
}

// serverIn starts serve in the namespace and in a cgroup.
func (s *space) serverIn(dir string) (at string) {
	s.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	in(s.t, cmd, dir)
	_, at = s.startServer(cmd, "127.0.0.1:0")
	return at
}

func (s *space) startServer(cmd *exec.Cmd, addr string) (pid uint32, at string) {
	s.t.Helper()
	cmd.Env = append(os.Environ(), serveEnv+"="+addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	s.do(cmd.Start)
	s.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	return uint32(cmd.Process.Pid), strings.TrimSpace(line)
}

func (s *space) ask(addr, request string) (from uint16) {
	s.t.Helper()
	c, err := s.dial(addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, request)
	c.CloseWrite()
	io.ReadAll(c)
	return port(c.LocalAddr())
}

// A server's connection belongs to the server, although every transition before its
// close runs in the client's context on loopback.
func TestOwnersOfBothEnds(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	ends := 0
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"} {
		pid, at := s.server(addr)
		ap := netip.MustParseAddrPort(at)
		dial := at
		if ap.Addr().IsUnspecified() {
			dial = fmt.Sprintf("127.0.0.1:%d", ap.Port())
		}
		for i, request := range []string{"q", "r"} {
			from := s.ask(dial, request)
			var server event.Event
			c.wait(func(events []event.Event) bool {
				for _, e := range events {
					if e.LocalPort == ap.Port() && e.RemotePort == from && e.Kind == event.KindClosed {
						server = e
						return true
					}
				}
				return false
			})
			ends += 2
			client := find(t, c.ends(ends), event.KindClosed, from, ap.Port())
			if client.PID != selfPID() || client.Role != event.RoleClient {
				t.Errorf("%s request %d: %s", addr, i, client.String())
			}
			if server.PID != pid || server.Role != event.RoleServer || server.UID != uint32(os.Geteuid()) {
				t.Errorf("%s request %d: %s, want pid %d", addr, i, server.String(), pid)
			}
			if request == "r" && (server.CloseReason != event.CloseRstLocal || client.CloseReason != event.CloseRstRemote) {
				t.Errorf("%s: %s\n%s", addr, client.String(), server.String())
			}
		}
	}
}

// Two namespaces joined by a veth pair: addresses, ports and namespaces of both ends
// mirror each other, and a probe of one namespace does not see the other.
func TestTwoNamespaces(t *testing.T) {
	a, b := newSpace(t), newSpace(t)
	join(t, a, b)
	both := newCapture(t, Options{}, a.inum, b.inum)
	onlyA := newCapture(t, Options{}, a.inum)
	for _, addr := range []string{"10.177.0.2:0", "[fd77::2]:0"} {
		l := b.listen(addr)
		client, err := a.dial(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, client, server, 4321, 123456, client, server)
	}
	events := both.ends(4)
	for _, e := range events {
		peer := find(t, events, event.KindClosed, e.RemotePort, e.LocalPort)
		inum, last := a.inum, byte(1)
		if e.Role == event.RoleServer {
			inum, last = b.inum, 2
		}
		if e.NetnsInum != inum || e.LocalAddr[15] != last || e.LocalAddr != peer.RemoteAddr || e.RemoteAddr != peer.LocalAddr ||
			e.TxBytes != peer.RxBytes || e.NetnsCookie == peer.NetnsCookie || e.Role == peer.Role {
			t.Errorf("%s\n%s", e.String(), peer.String())
		}
	}
	for _, e := range onlyA.ends(2) {
		if e.Role != event.RoleClient {
			t.Errorf("%s", e.String())
		}
	}
	onlyA.balanced(2)
}

func join(t *testing.T, a, b *space) {
	t.Helper()
	a.do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wire0"}, PeerName: "wire1", PeerNamespace: netlink.NsFd(b.handle)}
		return netlink.LinkAdd(veth)
	})
	configure(a, "wire0", "10.177.0.1/24", "fd77::1/64")
	configure(b, "wire1", "10.177.0.2/24", "fd77::2/64")
}

func configure(s *space, name string, addrs ...string) {
	s.do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, text := range addrs {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			addr.Flags = 2 // IFA_F_NODAD: usable at once
			if addr.IP.To4() != nil {
				addr.Flags = 0
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
}
