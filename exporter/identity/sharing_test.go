package identity

import (
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
}

func (s *sharers) among(netns uint32, own []netip.Addr) (out []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[netns]++
	for _, a := range own {
		if s.shared[a] {
			out = append(out, a)
		}
	}
	return out
}

func (s *sharers) set(addr string, shared bool) func() {
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.shared[netip.MustParseAddr(addr)] = shared
	}
}

// TestSharedAddress: an address that stands for others is nobody's as of the last watermark before that was seen, but for the ports that somebody has; no
// watermark is ahead of the asking; and it is claimed again when it has stood for nobody else for long.
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
	b.sharing.whole = map[uint32][]netip.Addr{own: {netip.MustParseAddr("10.0.0.1")}}
	for i := range uint32(9) {
		b.sharing.whole[own+1+i] = []netip.Addr{netip.MustParseAddr("10.0.0.2")}
	}
	asked := map[uint32]int{}
	for range 9 {
		ask := b.unsharedSpaces(now().wall)
		if len(ask) != 1+checkedAtOnce || ask[own] == nil {
			t.Fatalf("asked about %d, the own one among them: %v", len(ask), ask[own] != nil)
		}
		for inum := range ask {
			asked[inum]++
		}
	}
	for inum, n := range asked {
		if want := map[bool]int{true: 9, false: 4}[inum == own]; n != want {
			t.Errorf("namespace %d was asked about %d times, want %d", inum, n, want)
		}
	}
}

// TestSharedEdge: what is verified ends before each check by more than a collector's tolerance, and never goes back.
func TestSharedEdge(t *testing.T) {
	b := &Book{opts: Options{Shared: func(uint32, []netip.Addr) []netip.Addr { return nil }}, clock: now, presence: newPresence()}
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
