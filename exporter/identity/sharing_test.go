package identity

import (
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"tributary/service/testenv"
)

// sharers say which addresses stand for others, and how often they were asked.
type sharers struct {
	mu     sync.Mutex
	shared map[netip.Addr]bool
	asked  map[uint32]int
	rest   time.Duration
}

func (s *sharers) among(netns uint32, own []netip.Addr) (out []netip.Addr, asked bool, rest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[netns]++
	for _, a := range own {
		if s.shared[a] {
			out = append(out, a)
		}
	}
	return out, true, s.rest
}

func (s *sharers) takes(rest time.Duration) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rest = rest
	}
}

func (s *sharers) set(addr string, shared bool) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.shared[netip.MustParseAddr(addr)] = shared
	}
}

// TestSharedAddress: an address that stands for others is nobody's as of the last watermark before that was seen, but for the ports that somebody has; no
// watermark is ahead of the asking; and it is claimed again when it has stood for nobody else for long. Where that cannot be asked often enough nothing is
// claimed whole.
func TestSharedAddress(t *testing.T) {
	testenv.NeedRoot(t)
	a := namespace(t, "s")
	ip(t, in(a, "addr", "add", "10.209.1.1/24", "dev", "d0")...)
	ip(t, in(a, "addr", "add", "10.209.1.2/24", "dev", "d0")...)
	s := &sharers{shared: map[netip.Addr]bool{}, asked: map[uint32]int{}}
	b, registry := newBook(t, Options{Shared: s.among}, `
workloads:
- {workload: s/whole, instance: w1, addresses: [10.209.1.1, 10.209.1.2]}
- {workload: s/ports, instance: p1, addresses: [10.209.1.1], ports: 100-200}
`)
	s.set("10.209.1.2", true)() // from the start
	running(t, b)
	heard := listen(t, b)
	heard.after(b, func() {})
	heard.want(b, s.set("10.209.1.1", true), "default 10.209.1.1 not s/whole: stopped")
	if len(heard.open) != 1 {
		t.Errorf("open: %v", heard.open)
	}
	asked := len(s.asked)
	heard.want(b, s.set("10.209.1.2", false)) // it did a moment ago
	if got := metricsOf(t, registry)["shared_addresses"]; got != 2 || asked != 1 {
		t.Errorf("%v addresses are shared, %d namespaces were asked about", got, asked)
	}
	later(b, 2*time.Minute)
	heard.want(b, func() {}) // looked at again, and it still does
	later(b, sharedFor-time.Minute)
	heard.want(b, s.set("10.209.1.1", false), "default 10.209.1.2 is s/whole")
	later(b, 2*time.Minute)
	heard.want(b, func() {}, "default 10.209.1.1 is s/whole")
	heard.want(b, s.set("10.209.1.2", true), "default 10.209.1.2 not s/whole: stopped")
	heard.want(b, s.takes(time.Minute), "default 10.209.1.1 not s/whole: stopped")
	heard.want(b, s.takes(0), "default 10.209.1.1 is s/whole")
	checkBooks(t, registry, b)
}

// later makes everything that was seen older.
func later(b *Book, by time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.sharing.seen {
		b.sharing.seen[k] -= int64(by)
	}
}

// TestSharingInTurn: each namespace is asked about, a few at a time, and the own one always.
func TestSharingInTurn(t *testing.T) {
	b := &Book{opts: Options{}, clock: now, presence: newPresence()}
	own := b.presence.own
	b.sharing.asked = map[uint32]int64{}
	b.sharing.whole = map[uint32][]netip.Addr{own: {netip.MustParseAddr("10.0.0.1")}}
	const others = 2*checkedAtOnce + 1
	for i := range uint32(others) {
		b.sharing.whole[own+1+i] = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	}
	asked := map[uint32]int{}
	for round := range int64(8) {
		ask := b.unsharedSpaces(now().wall)
		if len(ask) != 1+others/2 && len(ask) != 2+others/2 || ask[own] == nil {
			t.Fatalf("asked about %d, the own one among them: %v", len(ask), ask[own] != nil)
		}
		for inum := range ask {
			asked[inum]++
			b.sharing.asked[inum] = round + 1
		}
	}
	for inum, n := range asked {
		if want := map[bool]int{true: 8, false: 4}[inum == own]; n < want {
			t.Errorf("namespace %d was asked about %d times, want %d at least", inum, n, want)
		}
	}
	if len(asked) != 1+others {
		t.Errorf("%d of %d namespaces were asked about", len(asked), 1+others)
	}
}

// TestVerifiedIsAsked: nothing is verified beyond what was asked; what cannot be asked often enough is claimed for nobody, and holds nothing else up.
func TestVerifiedIsAsked(t *testing.T) {
	const other = 7
	type answer struct {
		asked bool
		rest  time.Duration
	}
	yes := answer{asked: true}
	for _, c := range []struct {
		name    string
		answers []answer // of the other namespace, second by second; the own one is always asked
		lag     []time.Duration
		claimed bool // at the end
	}{
		{"each second", []answer{yes, yes, yes}, []time.Duration{0, 0, 0}, true},
		{"every other second", []answer{{true, longestRest}, {false, time.Second / 2}, {true, longestRest}, {false, time.Second / 2}}, []time.Duration{0, time.Second, 0, time.Second}, true},
		{"never yet", []answer{{false, time.Second}, yes}, []time.Duration{-1, 0}, true},
		{"seldom", []answer{yes, {true, time.Minute}, {false, 59 * time.Second}, {false, time.Second}}, []time.Duration{0, 0, 0, 0}, false},
		{"not to the end", []answer{yes, {false, time.Minute}}, []time.Duration{0, 0}, false},
		{"seldom, and hardly less so", []answer{{true, time.Minute}, {true, longestRest}}, []time.Duration{0, 0}, false},
		{"seldom, and then often", []answer{{true, time.Minute}, {true, longestRest / 2}, {false, time.Second / 2}}, []time.Duration{0, 0, time.Second}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			second := 0
			addr := netip.MustParseAddr("10.0.0.1")
			b := &Book{clock: func() moment { return moment{wall: 1e18 + int64(second)*1e9} }, presence: newPresence(), log: slog.New(slog.DiscardHandler)}
			b.sharing.seen, b.sharing.asked, b.sharing.opaque = map[sharedKey]int64{}, map[uint32]int64{}, map[uint32]bool{}
			b.sharing.whole = map[uint32][]netip.Addr{b.presence.own: {addr}, other: {addr}}
			b.opts.Shared = func(inum uint32, _ []netip.Addr) ([]netip.Addr, bool, time.Duration) {
				if inum != other {
					return nil, true, 0
				}
				return nil, c.answers[second].asked, c.answers[second].rest
			}
			for ; second < len(c.answers); second++ {
				want := b.clock().wall - int64(c.lag[second]+sharedEdge)
				if c.lag[second] < 0 {
					want = 0
				}
				if got := b.checkSharing(); got != want {
					t.Errorf("second %d: verified %v later than it should be", second, time.Duration(got-want))
				}
			}
			if b.isShared(other, addr) == c.claimed || b.isShared(b.presence.own, addr) {
				t.Errorf("claimed: %t, and the own one's: %t", !b.isShared(other, addr), !b.isShared(b.presence.own, addr))
			}
		})
	}
}

// TestSharedEdge: what is verified ends before each check by more than a collector's tolerance, and never goes back.
func TestSharedEdge(t *testing.T) {
	b := &Book{opts: Options{Shared: func(uint32, []netip.Addr) ([]netip.Addr, bool, time.Duration) { return nil, true, 0 }}, clock: now, presence: newPresence()}
	last := int64(0)
	for range 3 {
		before := now().wall
		verified := b.checkSharing()
		if after := now().wall; verified < max(last, before-int64(sharedEdge)) || verified > after-int64(sharedEdge) || sharedEdge <= 100*time.Millisecond {
			t.Errorf("verified to %d by a check between %d and %d, after %d", verified, before, after, last)
		}
		last = verified
	}
}
