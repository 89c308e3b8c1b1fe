package nat

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newSharing returns a Sharing of an exporter in own, which finds and hears of another place.
func newSharing(t testing.TB, own, other *place) *Sharing {
	t.Helper()
	own.do(func() error { // as identity does
		if err := netlink.SetNetNsIdByFd(int(other.handle), -1); !errors.Is(err, unix.EEXIST) {
			return err
		}
		return nil
	})
	s, err := NewSharing(Options{Own: own.inum, Path: func(inum, _ uint32) string {
		if inum == other.inum {
			return other.path()
		}
		return ""
	}}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// among asks as the exporter in own would.
func among(own *place, s *Sharing, in *place, addrs, whole []netip.Addr) (out []string) {
	own.t.Helper()
	own.do(func() error {
		for _, a := range s.Among(in.inum, addrs, whole) {
			out = append(out, a.String())
		}
		return nil
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// gateway is a place between two others that it forwards for.
type gateway struct {
	gate, inside, outside *place
	own                   []netip.Addr
	sharing               *Sharing // of an exporter outside
}

const masquerade = "table inet m { chain o { type nat hook postrouting priority 100; policy accept\noifname wo masquerade\n}\n}\n"

func newGateway(t testing.TB) *gateway {
	g := &gateway{gate: newPlace(t), inside: newPlace(t), outside: newPlace(t)}
	wire(g.inside, g.gate, "wi", "10.178.1.2/24 fd78:1::2/64", "10.178.1.1/24 fd78:1::1/64")
	wire(g.outside, g.gate, "wo", "10.178.2.2/24 fd78:2::2/64", "10.178.2.1/24 10.178.2.9/24 fd78:2::1/64")
	g.inside.run("", "ip", "route", "add", "default", "via", "10.178.1.1")
	g.inside.run("", "ip", "-6", "route", "add", "default", "via", "fd78:1::1")
	g.outside.run("", "ip", "route", "add", "10.178.1.0/24", "via", "10.178.2.1")
	for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		g.gate.do(func() error { return os.WriteFile(file, []byte("1"), 0) })
	}
	for _, a := range []string{"10.178.1.1", "10.178.2.1", "10.178.2.9", "fd78:1::1", "fd78:2::1"} {
		g.own = append(g.own, netip.MustParseAddr(a))
	}
	g.sharing = newSharing(t, g.outside, g.gate)
	g.sharing.looks = budget{most: 1 << 50, have: 1 << 50} // a busy machine takes its time
	return g
}

// track lets connections be tracked, and one of the gateway's own be.
func (g *gateway) track() {
	g.gate.run("table inet t { chain p { type filter hook output priority 0; ct state new accept\n}\n}\n", "nft", "-f", "-")
	g.outside.listen("10.178.2.2:79")
	g.gate.dial("10.178.2.2:79")
}

// among asks about all addresses, none of which is known to stand for others.
func (g *gateway) among() []string { return among(g.outside, g.sharing, g.gate, g.own, g.own) }

// arrival is asked for at once when the other end has a connection.
func (g *gateway) arrival(l net.Listener, to string) []string {
	g.gate.t.Helper()
	done := make(chan []string)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(done)
			return
		}
		defer c.Close()
		done <- g.among()
	}()
	g.inside.dial(to).Close()
	return <-done
}

// TestFirstTranslationIsHeard: when the other end of a first translated connection has it, that the gateway's address stands for others is known: by the kernel's
// news where rules could translate before, else by a list. None of them is asked for by a list that the pause between lists would leave out.
func TestFirstTranslationIsHeard(t *testing.T) {
	g := newGateway(t)
	g.track()
	four, six := g.outside.listen("10.178.2.2:80"), g.outside.listen("[fd78:2::2]:80")
	if got := g.among(); got != nil || g.sharing.watch != nil {
		t.Fatalf("without rules: %v, watched %t", got, g.sharing.watch != nil)
	}
	for i := range 20 {
		g.gate.run(masquerade, "nft", "-f", "-")
		if got := g.arrival(four, "10.178.2.2:80"); !slices.Contains(got, "10.178.2.1") {
			t.Errorf("new rule %d: %v", i, got)
		}
		g.gate.run("", "nft", "delete", "table", "inet", "m")
		g.sharing.spaces[g.gate.inum].again = time.Time{} // the rules are looked at anew
		g.gate.do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
		g.gate.dial("10.178.2.2:79")
		if got := g.among(); got != nil || g.sharing.watch != nil {
			t.Fatalf("without the rule: %v, watched %t", got, g.sharing.watch != nil)
		}
	}
	g.gate.run(masquerade, "nft", "-f", "-")
	g.among()
	sp := g.sharing.spaces[g.gate.inum]
	if !sp.complete {
		t.Fatal("it is not heard of")
	}
	listed, wrong := sp.again, 0
	for i := range 400 {
		l, to, want := four, "10.178.2.2:80", []string{"10.178.2.1"}
		if i%2 == 1 {
			l, to, want = six, "[fd78:2::2]:80", []string{"fd78:2::1"}
		}
		if !slices.Equal(g.arrival(l, to), want) {
			wrong++
		}
		if got := g.among(); got != nil {
			t.Fatalf("it was told twice: %v", got)
		}
	}
	if wrong != 0 || sp.again != listed || g.sharing.Add(Stats{}) != (Stats{}) {
		t.Errorf("%d of 400 first connections were not known of; listed again %t, %+v", wrong, sp.again != listed, g.sharing.Add(Stats{}))
	}
}

// TestWatchIsNarrow: of connections that do not make an address stand for others the watch hears nothing, and of none once all addresses are known to.
func TestWatchIsNarrow(t *testing.T) {
	g := newGateway(t)
	g.gate.run(masquerade+`table ip d { chain i { type nat hook prerouting priority -100; policy accept
ip daddr 10.178.2.1 tcp dport 80 redirect to :8080
ip daddr 192.0.2.1 tcp dport 80 dnat to 10.178.1.2:8080
ip daddr 10.178.2.9 tcp dport 80 dnat to 10.178.1.2:8080
}
}
table ip6 d { chain i { type nat hook prerouting priority -100; policy accept
ip6 daddr fd78:2::1 tcp dport 80 dnat to [fd78:1::2]:8080
}
}
`, "nft", "-f", "-")
	g.outside.run("", "ip", "route", "add", "192.0.2.1", "via", "10.178.2.1")
	g.outside.run("", "ip", "-6", "route", "add", "fd78:1::/64", "via", "fd78:2::1")
	g.gate.listen("10.178.2.1:8080")
	g.inside.listen("10.178.1.2:8080")
	g.inside.listen("[fd78:1::2]:8080")
	g.outside.listen("10.178.2.2:80")
	g.outside.listen("[fd78:2::2]:80")
	many := slices.Clone(g.own)
	for i := range 2000 {
		many = append(many, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
	}
	for name, c := range map[string]struct {
		addrs []netip.Addr
		heard [7]int
	}{
		"all":  {g.own, [7]int{0, 0, 0, 1, 1, 1, 1}},
		"some": {g.own[2:3], [7]int{0, 0, 0, 0, 0, 1, 0}},
		"300":  {many[:300], [7]int{0, 0, 0, 1, 1, 1, 1}},
		"2000": {many, [7]int{0, 1, 1, 1, 1, 1, 1}},
	} {
		var w *watch
		g.gate.do(func() (err error) { w, err = watchConnections(c.addrs, watchBuffer); return err })
		for i, dial := range []func(){
			func() { g.gate.dial("10.178.2.2:80") },
			func() { g.outside.dial("10.178.2.1:80") }, // a port that leads to another one of the gateway's
			func() { g.outside.dial("192.0.2.1:80") },  // an address that is not the gateway's
			func() { g.inside.dial("10.178.2.2:80") },
			func() { g.inside.dial("[fd78:2::2]:80") },
			func() { g.outside.dial("10.178.2.9:80") },
			func() { g.outside.dial("[fd78:2::1]:80") },
		} {
			dial()
			heard := 0
			if err := w.connections(func(addresses, addresses) { heard++ }); err != nil || heard != c.heard[i] {
				t.Errorf("%s, connection %d: heard of %d, %v", name, i, heard, err)
			}
		}
		w.close()
	}
	g.outside.listen("10.178.2.2:79")
	g.gate.dial("10.178.2.2:79")
	g.among()
	if g.sharing.watch == nil {
		t.Fatal("nothing is watched")
	}
	if among(g.outside, g.sharing, g.gate, g.own, nil); g.sharing.watch != nil {
		t.Error("it is watched while all addresses are known")
	}
}

// TestMissedEvents: where more events come than there is room for, translated connections are listed before Among says anything more.
func TestMissedEvents(t *testing.T) {
	g := newGateway(t)
	g.gate.run(masquerade, "nft", "-f", "-")
	g.sharing.bytes = 2304
	four := g.outside.listen("10.178.2.2:81")
	g.outside.listen("10.178.2.2:80")
	g.outside.listen("[fd78:2::2]:80")
	g.track()
	g.among()
	sp := g.sharing.spaces[g.gate.inum]
	if !sp.complete {
		t.Fatal("it is not heard of")
	}
	sp.rest = time.Now().Add(time.Hour) // as after a long list
	for range 30 {
		g.inside.dial("10.178.2.2:80").Close()
	}
	g.inside.dial("[fd78:2::2]:80")
	if got, want := g.among(), []string{"10.178.2.1", "fd78:2::1"}; !slices.Equal(got, want) || g.sharing.Add(Stats{}).MissedEvents != 1 || !sp.complete {
		t.Errorf("after a burst: %v, want %v; %+v, complete %t", got, want, g.sharing.Add(Stats{}), sp.complete)
	}
	if got := g.among(); got != nil {
		t.Errorf("nothing new: %v", got)
	}
	if got := g.arrival(four, "10.178.2.2:81"); !slices.Equal(got, []string{"10.178.2.1"}) || g.sharing.Add(Stats{}).MissedEvents != 1 {
		t.Errorf("the next one: %v, %+v", got, g.sharing.Add(Stats{}))
	}
}

// heardGateway is one that masquerades and is listened to, with what is known of it and a listener outside, on 10.178.2.2:80.
func heardGateway(t *testing.T) (*gateway, *space, net.Listener) {
	g := newGateway(t)
	g.gate.run(masquerade, "nft", "-f", "-")
	l := g.outside.listen("10.178.2.2:80")
	g.track()
	g.among()
	return g, g.sharing.spaces[g.gate.inum], l
}

// TestHeardWithoutList: where a list cannot be made, what the kernel tells is known all the same.
func TestHeardWithoutList(t *testing.T) {
	g, sp, l := heardGateway(t)
	g.sharing.giveUp(sp, os.ErrDeadlineExceeded, time.Now())
	if got := g.arrival(l, "10.178.2.2:80"); !slices.Equal(got, []string{"10.178.2.1"}) || sp.complete {
		t.Errorf("%v, complete %t", got, sp.complete)
	}
	sp.failed = time.Now().Add(-1)
	if got := g.among(); !slices.Equal(got, []string{"10.178.2.1"}) || !sp.complete || !sp.failed.IsZero() {
		t.Errorf("later: %v, %+v", got, sp)
	}
}

// TestMuteTracking: where the kernel tells nobody of connections, translated ones are listed, with pauses; it is heard of again when it tells.
func TestMuteTracking(t *testing.T) {
	g, sp, four := heardGateway(t)
	tell := func(value string) {
		g.gate.do(func() error { return os.WriteFile(eventsPath, []byte(value), 0) })
	}
	tell("0")
	g.arrival(four, "10.178.2.2:80")
	sp.rest = time.Time{}
	if got := g.among(); !slices.Equal(got, []string{"10.178.2.1"}) || sp.complete || !sp.silent {
		t.Errorf("by a list: %v; complete %t, silent %t", got, sp.complete, sp.silent)
	}
	if got := g.among(); got != nil {
		t.Errorf("in the pause after it: %v", got)
	}
	g.gate.do(func() error {
		if err := CheckEvents(); !errors.Is(err, errMute) {
			t.Errorf("doctor is told: %v", err)
		}
		return nil
	})
	tell("2")
	g.among()
	if got := g.arrival(four, "10.178.2.2:80"); !slices.Equal(got, []string{"10.178.2.1"}) || !sp.complete {
		t.Errorf("after it tells again: %v, complete %t", got, sp.complete)
	}
	g.gate.do(CheckEvents)
}

// TestWithoutCapabilities: an exporter that may not listen in other namespaces lists those, with pauses; one that may not ask at all knows nothing, and leaves it alone.
func TestWithoutCapabilities(t *testing.T) {
	for _, c := range []struct {
		missing         int
		listed, watched bool
	}{{unix.CAP_NET_BROADCAST, true, true}, {unix.CAP_NET_ADMIN, false, false}} {
		g := newGateway(t)
		g.gate.run(masquerade, "nft", "-f", "-")
		g.outside.listen("10.178.2.2:80")
		g.inside.dial("10.178.2.2:80")
		var first, second []netip.Addr
		g.outside.do(func() error {
			if err := withoutCapability(c.missing); err != nil {
				return err
			}
			first, second = g.sharing.Among(g.gate.inum, g.own, g.own), g.sharing.Among(g.gate.inum, g.own, g.own)
			return nil
		})
		if len(first) == 1 != c.listed || second != nil {
			t.Errorf("without capability %d: %v, then %v", c.missing, first, second)
		}
		if sp := g.sharing.spaces[g.gate.inum]; sp.complete || time.Now().Before(sp.failed) == c.listed || (g.sharing.watch != nil) != c.watched {
			t.Errorf("without capability %d: %+v, watched %t", c.missing, sp, g.sharing.watch != nil)
		}
	}
}

// withoutCapability takes a capability from the calling thread.
func withoutCapability(n int) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}
	sets[n/32].Effective &^= 1 << (n % 32)
	return unix.Capset(&header, &sets[0])
}

// TestSharingIsBounded: what took time is not listed again at once, what cannot be looked at is left alone, what nobody asks about is not watched, and a sidecar
// looks at its own namespace alone.
func TestSharingIsBounded(t *testing.T) {
	g := newGateway(t)
	g.gate.run(masquerade, "nft", "-f", "-")
	g.track()
	g.among()
	s := g.sharing
	g.outside.do(func() error {
		s.Among(1, g.own, g.own)
		return nil
	})
	if sp := s.spaces[1]; time.Until(sp.failed) < retry-time.Second || sp.count != nil {
		t.Errorf("a namespace that cannot be entered: %+v", sp)
	}
	if sp := s.spaces[g.gate.inum]; !time.Now().Before(sp.rest) {
		t.Errorf("listed again at once: %v", sp.rest)
	}
	s.letGo(time.Now().Add(watchIdle + time.Second))
	if s.watch != nil || s.spaces[g.gate.inum].complete {
		t.Error("it is watched for nobody")
	}
	g.among()
	if s.watch == nil || !s.spaces[g.gate.inum].complete {
		t.Error("it is not watched again")
	}
	s.letGo(time.Now().Add(forgetSpace + time.Second))
	if len(s.spaces) != 0 || s.watch != nil {
		t.Errorf("%d namespaces are kept", len(s.spaces))
	}
	s.looks = budget{}
	if g.among(); s.watch != nil || s.Add(Stats{}).SkippedLooks != 1 {
		t.Errorf("without any time: %+v", s.Add(Stats{}))
	}
	s.opts.OwnOnly = true
	if s.letGo(time.Now().Add(time.Hour)); g.among() != nil || len(s.spaces) != 0 {
		t.Error("a sidecar looks at other namespaces")
	}
}
