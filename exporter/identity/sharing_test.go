package identity

import (
	"net/netip"
	"slices"
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

func (s *sharers) among(netns uint32, own, _ []netip.Addr) (out []netip.Addr) {
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
	if n := b.metrics.releases[Stopped].Load(); n != 0 {
		t.Errorf("%d addresses were claimed that stood for others from the start", n)
	}
	heard.want(b, s.set("10.209.1.1", true), "default 10.209.1.1 not s/whole: shared")
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

// TestUnsharedSpaces: each namespace is asked about that has a claim, and one where all is shared when that was long ago.
func TestUnsharedSpaces(t *testing.T) {
	b := &Book{presence: newPresence()}
	const at = int64(1e18)
	first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	b.sharing.whole = map[uint32][]netip.Addr{1: {first, second}, 2: {first, second}, 3: {first}, 4: {first}}
	b.sharing.seen = map[sharedKey]int64{{2, first}: at, {3, first}: at, {4, first}: at - int64(sharedAgain) - 1}
	ask := b.unsharedSpaces(at)
	for inum, whole := range map[uint32][]netip.Addr{1: {first, second}, 2: {second}, 4: nil} {
		if of, ok := ask[inum]; !ok || !slices.Equal(of.whole, whole) || !slices.Equal(of.own, b.sharing.whole[inum]) {
			t.Errorf("namespace %d: asked %t, %+v", inum, ok, of)
		}
	}
	if len(ask) != 3 {
		t.Errorf("asked about %v", ask)
	}
}

// TestSharedEdge: what is verified ends before each check by more than a collector's tolerance, and never goes back.
func TestSharedEdge(t *testing.T) {
	b := &Book{opts: Options{Shared: func(uint32, []netip.Addr, []netip.Addr) []netip.Addr { return nil }}, clock: now, presence: newPresence()}
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
