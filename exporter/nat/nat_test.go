package nat

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/service/testenv"
)

// place is a network namespace of its own.
type place struct {
	t      testing.TB
	handle netns.NsHandle
	inum   uint32
}

func newPlace(t testing.TB) *place {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedCommand(t, "nft", "apt-get install nftables")
	p := &place{t: t}
	onThread(t, func() (err error) { p.handle, err = netns.New(); return err })
	t.Cleanup(func() { p.handle.Close() })
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.handle), &stat); err != nil {
		t.Fatal(err)
	}
	p.inum = uint32(stat.Ino)
	p.run("", "ip", "link", "set", "lo", "up")
	return p
}

func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (p *place) do(f func() error) {
	p.t.Helper()
	onThread(p.t, func() error {
		if err := netns.Set(p.handle); err != nil {
			return err
		}
		return f()
	})
}

func (p *place) run(stdin string, command ...string) {
	p.t.Helper()
	p.do(func() error {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", command, err, out)
		}
		return nil
	})
}

func (p *place) path() string { return fmt.Sprintf("/proc/self/fd/%d", int(p.handle)) }

// wire joins two places: link is what both call their end, the addresses are theirs.
func wire(a, b *place, link, addrA, addrB string) {
	a.t.Helper()
	a.run("", "ip", "link", "add", link, "type", "veth", "peer", "name", link, "netns", "/proc/"+fmt.Sprint(os.Getpid())+"/fd/"+fmt.Sprint(int(b.handle)))
	for p, addrs := range map[*place]string{a: addrA, b: addrB} {
		for addr := range strings.SplitSeq(addrs, " ") {
			p.run("", "ip", "addr", "add", addr, "dev", link, "nodad")
		}
		p.run("", "ip", "link", "set", link, "up")
	}
}

func (p *place) listen(addr string) net.Listener {
	p.t.Helper()
	var l net.Listener
	p.do(func() (err error) { l, err = net.Listen("tcp", addr); return err })
	p.t.Cleanup(func() { l.Close() })
	return l
}

func (p *place) dial(addr string) net.Conn {
	p.t.Helper()
	var c net.Conn
	p.do(func() (err error) { c, err = net.DialTimeout("tcp", addr, 5*time.Second); return err })
	p.t.Cleanup(func() { c.Close() })
	return c
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

var lastSock uint64

// end is what the kernel would say of a connection's end.
func (p *place) end(c net.Conn, server bool) *End {
	lastSock++
	return &End{
		Sock: lastSock, Opened: 1, Last: true, AtNs: clock.Boot(), Netns: p.inum, Server: server,
		Local: addrPort(c.LocalAddr()), Remote: addrPort(c.RemoteAddr()),
	}
}

// newTable returns a table of an exporter in own, which finds the other places.
func newTable(t testing.TB, own *place, others ...*place) *Table {
	t.Helper()
	paths := map[uint32]string{}
	for _, p := range others {
		paths[p.inum] = p.path()
	}
	var table *Table
	own.do(func() (err error) {
		table, err = New(Options{Own: own.inum, Path: func(netns, _ uint32) string { return paths[netns] }}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		return err
	})
	t.Cleanup(func() { table.sockets.Purge() })
	table.all = budget{most: 1 << 50, have: 1 << 50} // a busy machine takes its time
	if err := table.Degraded(); err != nil {
		t.Fatal(err)
	}
	return table
}

// find asks as the exporter in own would.
func find(own *place, table *Table, e *End) netip.AddrPort { return way(own, table, e).Peer }

func way(own *place, table *Table, e *End) (w Way) {
	own.do(func() error { w = table.Find(e); return nil })
	return w
}

// The client's own namespace translates: nft in the output hook.
func TestDNATWhereTheClientIs(t *testing.T) {
	host, a, b := newPlace(t), newPlace(t), newPlace(t)
	wire(a, b, "w0", "10.178.0.1/24 fd78::1/64", "10.178.0.2/24 fd78::2/64")
	a.run("", "ip", "route", "add", "192.0.2.0/24", "via", "10.178.0.2")
	a.run("", "ip", "route", "add", "2001:db8::/64", "via", "fd78::2")
	table := newTable(t, host, a, b)
	for _, c := range []struct{ virtual, real string }{
		{"192.0.2.1:80", "10.178.0.2:8080"},
		{"[2001:db8::1]:80", "[fd78::2]:8080"},
	} {
		l := b.listen(c.real)
		a.run(fmt.Sprintf("table inet n%s { chain o { type nat hook output priority -100; policy accept\n%s daddr %s tcp dport 80 dnat to %s\n}\n}\n",
			family(c.real), family(c.real), netip.MustParseAddrPort(c.virtual).Addr(), c.real), "nft", "-f", "-")
		client := a.dial(c.virtual)
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := find(host, table, a.end(client, false)); got.String() != c.real {
			t.Errorf("the client at %s: %v, want %s", c.virtual, got, c.real)
		}
		if got := find(host, table, b.end(server, true)); got.IsValid() {
			t.Errorf("the server knows its client, but: %v", got)
		}
		plain := a.dial(c.real)
		if got := find(host, table, a.end(plain, false)); got.IsValid() {
			t.Errorf("a connection that nobody translates: %v", got)
		}
		client.Close()
		server.Close()
		time.Sleep(10 * time.Millisecond)
		if got := find(host, table, a.end(client, false)); got.String() != c.real {
			t.Errorf("after the end: %v, want %s", got, c.real)
		}
	}
	if got := table.Stats(); got != (Stats{Translated: 4}) {
		t.Errorf("%+v", got)
	}
}

func family(addr string) string {
	if netip.MustParseAddrPort(addr).Addr().Is4() {
		return "ip"
	}
	return "ip6"
}

// The host between them translates both addresses: what kube-proxy and Docker do with the packets of containers.
func TestHostTranslatesBothEnds(t *testing.T) {
	host, a, b := newPlace(t), newPlace(t), newPlace(t)
	wire(a, host, "wa", "10.178.1.2/24", "10.178.1.1/24")
	wire(b, host, "wb", "10.178.2.2/24", "10.178.2.1/24")
	a.run("", "ip", "route", "add", "default", "via", "10.178.1.1")
	host.do(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) })
	host.run(`table ip n {
chain pre { type nat hook prerouting priority -100; policy accept
ip daddr 192.0.2.1 tcp dport 80 dnat to 10.178.2.2:8080
}
chain post { type nat hook postrouting priority 100; policy accept
oifname "wb" masquerade
}
}
`, "nft", "-f", "-")
	l := b.listen("10.178.2.2:8080")
	client := a.dial("192.0.2.1:80")
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if seen := addrPort(server.RemoteAddr()); seen.Addr().String() != "10.178.2.1" {
		t.Fatalf("the server sees %v: nothing was masqueraded", seen)
	}
	table := newTable(t, host, a, b)
	if got, want := way(host, table, a.end(client, false)), (Way{netip.MustParseAddrPort("10.178.2.2:8080"), addrPort(server.RemoteAddr())}); got != want {
		t.Errorf("the client's way: %v, want %v", got, want)
	}
	if got, want := way(host, table, b.end(server, true)), (Way{addrPort(client.LocalAddr()), netip.MustParseAddrPort("192.0.2.1:80")}); got != want {
		t.Errorf("the server's way: %v, want %v", got, want)
	}
}

// A connection that lives on is asked for once, and a destination that nobody translates not at each record.
func TestQuestionsAreBounded(t *testing.T) {
	host := newPlace(t)
	host.run("table ip n { chain o { type nat hook output priority -100; policy accept\nip daddr 127.0.0.9 tcp dport 80 dnat to 127.0.0.1:8080\n}\n}\n", "nft", "-f", "-")
	l := host.listen("127.0.0.1:8080")
	table := newTable(t, host)
	long := host.end(host.dial("127.0.0.9:80"), false)
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	long.Last = false
	if got := find(host, table, long); got.String() != "127.0.0.1:8080" {
		t.Fatalf("%v", got)
	}
	table.sockets.Purge()
	delete(table.refused, host.inum)
	table.degraded = errLeftAlone // whoever asks now learns nothing
	long.Last = true
	if got := find(host, table, long); got.String() != "127.0.0.1:8080" {
		t.Errorf("it was forgotten while it lived: %v", got)
	}
	if table.flows.Len() != 0 {
		t.Error("it is remembered after its end")
	}
	table.degraded = nil
	plain := host.end(host.dial("127.0.0.1:8080"), false)
	asked := func() uint64 { return table.counts[0].Load() + table.counts[1].Load() }
	before := asked()
	table.spare = budget{} // never any time to spare
	for range 100 {
		find(host, table, plain)
	}
	if n := asked() - before; n != 1 {
		t.Errorf("an untranslated destination was asked for %d times in a moment", n)
	}
	plain.AtNs += uint64(forget)
	if find(host, table, plain); asked()-before != 2 {
		t.Error("it is not asked for again later")
	}
	table.all.have, plain.AtNs = 0, plain.AtNs+uint64(forget)
	table.all.at = plain.AtNs
	if find(host, table, plain); table.Stats().Skipped != 1 {
		t.Errorf("without any time left: %+v", table.Stats())
	}
}

// Where nothing is tracked one question answers for all connections that had a record before it, and for none after it.
func TestNothingTracked(t *testing.T) {
	host := newPlace(t)
	table := newTable(t, host)
	l := host.listen("127.0.0.1:8080")
	before, also := host.end(host.dial(l.Addr().String()), false), host.end(host.dial(l.Addr().String()), false)
	if got := find(host, table, before); got.IsValid() {
		t.Fatalf("plain: %v", got)
	}
	s, ok := table.sockets.Get(host.inum)
	if !ok || s.nothingTo <= also.AtNs {
		t.Fatalf("nothing is tracked, but that is known until %d only", s.nothingTo)
	}
	s.conn.Close()                                          // whoever asks now learns nothing
	also.Remote = netip.MustParseAddrPort("127.0.0.1:8081") // another destination
	if find(host, table, also); table.Stats().Failed != 0 {
		t.Error("a connection from before was asked for")
	}
	if !table.empty.loopback || table.empty.to != s.nothingTo {
		t.Errorf("nothing is tracked until %d: %+v", s.nothingTo, table.empty)
	}
	table.sockets.Remove(host.inum)
	host.run("table ip n { chain o { type nat hook output priority -100; policy accept\nip daddr 127.0.0.9 tcp dport 80 dnat to 127.0.0.1:8080\n}\n}\n", "nft", "-f", "-")
	if got := find(host, table, host.end(host.dial("127.0.0.9:80"), false)); got.String() != "127.0.0.1:8080" {
		t.Errorf("the first connection that is tracked: %v", got)
	}
}

// What cannot be entered is left alone for a while; what is idle is let go.
func TestNamespacesComeAndGo(t *testing.T) {
	host, a := newPlace(t), newPlace(t)
	table := newTable(t, host, a)
	l := a.listen("127.0.0.1:0")
	e := a.end(a.dial(l.Addr().String()), false)
	find(host, table, e)
	if n := table.sockets.Len(); n != 1 {
		t.Fatalf("%d namespaces are asked", n)
	}
	table.letGo(time.Now().Add(idle + time.Second))
	if n := table.sockets.Len(); n != 0 {
		t.Errorf("%d namespaces are kept alive", n)
	}
	strange := *e
	strange.Netns++
	strange.Sock++
	find(host, table, &strange)
	find(host, table, &strange)
	if got := table.Stats(); got.Failed == 0 || len(table.refused) != 1 {
		t.Errorf("%+v, left alone %v", got, table.refused)
	}
}

func BenchmarkFind(b *testing.B) {
	host := newPlace(b)
	host.run("table ip n { chain o { type nat hook output priority -100; policy accept\nip daddr 127.0.0.9 tcp dport 80 dnat to 127.0.0.1:8080\n}\n}\n", "nft", "-f", "-")
	l := host.listen("127.0.0.1:8080")
	table := newTable(b, host)
	for name, addr := range map[string]string{"translated": "127.0.0.9:80", "plain": "127.0.0.1:8080"} {
		c := host.dial(addr)
		if _, err := l.Accept(); err != nil {
			b.Fatal(err)
		}
		e := host.end(c, false)
		find(host, table, e)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				table.all.have, table.spare.have = 50e6, 0
				table.Find(e)
			}
		})
	}
}
