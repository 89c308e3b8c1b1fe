package ownership

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

var fuzzOwners = []Owner{
	{Workload: "shop/web", Instance: "w1", Zone: "a"},
	{Workload: "shop/web", Instance: "w1", Zone: "a", Release: "2"},
	{Workload: "shop/web", Instance: "w2", Zone: "a"},
	{Workload: "shop/api", Instance: "a1", Zone: "b"},
	{Workload: "shop/api", Instance: "a2", Derived: true},
	{Workload: "shop/db"},
}

var fuzzAddrs = []Addr{AddrFrom(netip.MustParseAddr("10.0.0.1")), AddrFrom(netip.MustParseAddr("fd00::2")), AddrFrom(netip.MustParseAddr("8.8.8.8"))}

// FuzzTable runs any sequence of operations against the table and the model, and asks both the same questions after each.
func FuzzTable(f *testing.F) {
	for seed := range uint64(64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := make([]byte, 240)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2048 {
			t.Skip("long enough for more ranges of one address than the table keeps, which the model does not forget")
		}
		runModel(t, data)
	})
}

// TestTableAgainstModel is the fuzz target's work with random input, for runs without -fuzz.
func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 2))
		b := make([]byte, 600)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		runModel(t, b)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func runModel(t *testing.T, data []byte) {
	cfg := Config{Retention: 40 * time.Second, MaxAhead: 3 * time.Second, DeadAfter: 20 * time.Second, Bridge: 4 * time.Second, QuietUntil: 1_010 * second}
	tab, mod := New(cfg), newModel(cfg)
	now := int64(1_000) * second
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	var log []string
	found := map[Key]*Found{}
	for len(data) > 0 {
		op := next()
		now += int64(op>>4) * modelStep / 4
		x := next() % 3
		exporter, host := fmt.Sprint("x", x), fmt.Sprint("h", x/2)
		net, addr := fmt.Sprint("n", next()%2), fuzzAddrs[next()%len(fuzzAddrs)]
		at := now - int64(next()%24-4)*modelStep
		if op>>4 == 5 {
			at += int64(next()) * 12_345 // the table keeps milliseconds
		}
		ports := []uint16{0, 0, 0, 0, 80, 90, 85, 85}[next()%4*2:]
		switch op % 8 {
		case 0, 1, 2:
			c := &Claim{exporter, host, net, addr, ports[0], ports[1], fuzzOwners[next()%len(fuzzOwners)], at}
			log = append(log, fmt.Sprintf("%d claim %+v", now, *c))
			if got, want := tab.Claim(c, now) == nil, mod.claim(c, now); got != want {
				t.Fatalf("claim %+v: table %v, model %v", c, got, want)
			}
		case 3:
			kind := next()
			r := &Release{exporter, net, addr, ports[0], ports[1], at, kind/2%3 == 0, kind%2 == 0}
			log = append(log, fmt.Sprintf("%d release %+v", now, *r))
			if got, want := tab.Release(r, now) == nil, mod.release(r, now); got != want {
				t.Fatalf("release %+v: table %v, model %v", r, got, want)
			}
		case 4, 5, 6:
			w := &Watermark{exporter, host, at, now, clockOf(now, next(), x)}
			log = append(log, fmt.Sprintf("%d watermark %+v", now, *w))
			_ = tab.Watermark(w)
			mod.watermark(w)
		case 7:
			log = append(log, fmt.Sprintf("%d expire", now))
			tab.Expire(now, 1<<20)
			mod.expire(now)
		}
		for range 6 {
			ask(t, tab, mod, now, next, log, found)
		}
		if op>>4 == 3 {
			clear(found) // others are as old as the last one of these
		}
	}
	if got, want := tab.Stats().Ranges, len(mod.ranges); got != want {
		t.Fatalf("ranges: table %d, model %d", got, want)
	}
}

// clockOf is the clock reading of a message that arrives now. Without one, or right, or off by exporter.
func clockOf(now int64, choice, exporter int) int64 {
	const ms = int64(time.Millisecond)
	switch {
	case choice%4 == 0:
		return 0
	case choice < 64:
		return now - int64(choice%8)*ms
	}
	return now - int64(choice%8)*100*ms + []int64{-300 * ms, 200 * ms, 5 * second}[(exporter+choice/200)%3]
}

func ask(t *testing.T, tab *Table, mod *model, now int64, next func() int, log []string, found map[Key]*Found) {
	net, addr := fmt.Sprint("n", next()%2), fuzzAddrs[next()%len(fuzzAddrs)]
	port := []uint16{22, 80, 85, 91}[next()%4]
	at := now - int64(next()%40-4)*modelStep + int64(next()%3-1)*modelStep/4
	tol := []int64{0, modelStep / 4, modelStep, 3 * modelStep}[next()%4]
	got := tab.View(now).Lookup(tab.Network(net), addr, port, at, tol)
	k, v := Key{tab.Network(net), addr}, tab.View(now)
	if found[k] == nil {
		one := make([]Found, 1)
		v.Find([]Key{k}, one)
		found[k] = &one[0]
	}
	if again := v.LookupFound(found[k], port, at, tol); again != got {
		t.Fatalf("found %+v, looked up %+v", again, got)
	}
	want := mod.lookup(net, addr, port, at, tol, now)
	if got.Until != 0 && got.Owner != nil {
		// Anywhere in the time that the answer is said to hold for.
		if !got.HoldsAt(at) {
			t.Fatalf("the answer at %d holds from %d to %d", at, got.From, got.Until)
		}
		at = got.From + int64(float64(next())/256*float64(got.Until-got.From))
		want = mod.lookup(net, addr, port, at, tol, now)
	}
	var owner Owner
	if got.Owner != nil {
		owner = *got.Owner
	}
	if owner != want.owner || got.Why != want.why || got.Wait != want.wait {
		for _, l := range log {
			t.Log(l)
		}
		t.Fatalf("now %d lookup %s %s:%d at %d tol %d: table %+v %s wait=%v, model %+v %s wait=%v", now, net, addr.Netip(), port, at, tol,
			owner, got.Why, got.Wait, want.owner, want.why, want.wait)
	}
}
