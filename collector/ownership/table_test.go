package ownership

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestAnswers is DESIGN §8's table, row by row. All tolerances are 0.5 s.
func TestAnswers(t *testing.T) {
	cases := []struct {
		name    string
		tell    func(world)
		at, now float64
		port    uint16
		want    string
	}{
		{"inside", func(w world) { w.claim("a", web, 0); w.mark("a", 20, 20) }, 10, 20, 0, "shop/web/w1"},
		{"inside, not verified to the end of the tolerance", func(w world) { w.claim("a", web, 0); w.mark("a", 10.2, 10.2) }, 10, 10.4, 0, "wait"},
		{"after the watermark, alive", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10) }, 11, 11, 0, "wait"},
		{"after the watermark, standing still", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10) }, 12, 14, 0, "pending"},
		{"after the watermark, silent for a minute", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10) }, 12, 80, 0, "no_evidence"},
		{"bridged", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10); w.claim("a", web, 14); w.mark("a", 20, 20) }, 12, 20, 0, "shop/web/w1"},
		{"bridged over an exporter's restart", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10); w.claim("a2", web, 14); w.mark("a2", 20, 20) }, 12, 20, 0, "shop/web/w1"},
		{"not bridged: too long", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10); w.claim("a", web, 25); w.mark("a", 30, 30) }, 12, 30, 0, "gap"},
		{"not bridged: derived", func(w world) { w.claim("a", made, 0); w.mark("a", 10, 10); w.claim("a", made, 14); w.mark("a", 20, 20) }, 12, 20, 0, "gap"},
		{"not bridged: released", func(w world) { w.claim("a", web, 0); w.release("a", 10); w.claim("a", web, 14); w.mark("a", 20, 20) }, 12, 20, 0, "gap"},
		{"not bridged: another instance", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 10, 10)
			w.claim("a2", web2, 14)
			w.mark("a2", 20, 20)
			w.mark("a", 10.1, 20)
		}, 12, 90, 0, "gap"},
		{"not bridged: somebody between", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 10, 10)
			w.claim("b", api, 11)
			w.release("b", 11.2)
			w.claim("a", web, 14)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 12.5, 20, 0, "gap"},
		{"back after a freeze, while the one who has the address now is silent", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 5, 5)
			w.claim("b", api, 8)
			w.mark("b", 12, 12)
			w.claim("a", web, 13)
			w.mark("a", 20, 20)
		}, 16, 20, 0, "pending"},
		{"claimed while the one who has the address is there", func(w world) {
			w.claim("b", api, 0)
			w.mark("b", 12, 12)
			w.claim("a", web, 11)
			w.mark("a", 20, 20)
		}, 16, 20, 0, "pending"},
		{"the same, the silent one given up", func(w world) {
			w.claim("b", api, 0)
			w.mark("b", 12, 12)
			w.claim("a", web, 11)
			w.mark("a", 80, 80)
		}, 16, 80, 0, "shop/web/w1"},
		{"back after a freeze, after the one who had the address meanwhile", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 5, 5)
			w.claim("b", api, 8)
			w.release("b", 12)
			w.claim("a", web, 13)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 16, 20, 0, "gap"},
		{"the same, and still there later", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 5, 5)
			w.claim("b", api, 8)
			w.release("b", 12)
			w.claim("a", web, 13)
			w.mark("a", 30, 30)
			w.mark("b", 30, 30)
		}, 29, 30, 0, "shop/web/w1"},
		{"handover from a crashed host", func(w world) {
			w.claim("b", api, 0)
			w.mark("b", 12, 12)
			w.claim("a", web, 14)
			w.mark("a", 20, 20)
		}, 16, 20, 0, "shop/web/w1"},
		{"handover, inside the old but touching the new", func(w world) {
			w.claim("a", web, 0)
			w.release("a", 10)
			w.claim("b", api, 10.1)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 9.8, 20, 0, "gap"},
		{"before the handover", func(w world) {
			w.claim("a", web, 0)
			w.release("a", 10)
			w.claim("b", api, 10.1)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 9.4, 20, 0, "shop/web/w1"},
		// Exporters date an end with their last look; when it was noticed they do not say, but it was before we heard of it.
		{"an end noticed 0.2 s later, the moment between", func(w world) {
			w.claim("a", web, 0)
			w.mark("a", 9, 9)
			w.releaseSeen("a", 10, 10.2)
			w.mark("a", 20, 20)
		}, 10.6, 20, 0, "shop/web/w1"},
		{"an end noticed 0.2 s later, the moment after", func(w world) {
			w.claim("a", web, 0)
			w.releaseSeen("a", 10, 10.2)
			w.mark("a", 20, 20)
		}, 10.9, 20, 0, "no_evidence"},
		{"an end noticed after a freeze says nothing of the time between", func(w world) {
			w.claim("a", web, 0)
			w.releaseSeen("a", 10, 15)
			w.mark("a", 20, 20)
		}, 10.7, 20, 0, "no_evidence"},
		{"handed on at once, before the end was noticed", func(w world) {
			w.claim("a", web, 0)
			w.releaseSeen("a", 9.8, 10)
			w.claim("b", api, 10.6)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 10.4, 20, 0, "gap"},
		{"handed on later", func(w world) {
			w.claim("a", web, 0)
			w.releaseSeen("a", 9.8, 10)
			w.claim("b", api, 11)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 10.8, 20, 0, "shop/api/a1"},
		{"after the handover", func(w world) {
			w.claim("a", web, 0)
			w.release("a", 10)
			w.claim("b", api, 10.1)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 10.7, 20, 0, "shop/api/a1"},
		{"it stands for others later, before the end", func(w world) {
			w.claim("a", web, 0)
			w.releaseShared("a", 10, 10.1)
			w.mark("a", 20, 20)
		}, 9.5, 20, 0, "shop/web/w1"},
		{"it stands for others, at the end", func(w world) {
			w.claim("a", web, 0)
			w.releaseShared("a", 10, 10.1)
			w.mark("a", 20, 20)
		}, 9.6, 20, 0, "gap"},
		{"it stands for others, just after the end", func(w world) {
			w.claim("a", web, 0)
			w.releaseShared("a", 10, 10.1)
			w.mark("a", 20, 20)
		}, 10.55, 20, 0, "no_evidence"},
		{"it stood for others as soon as it was there", func(w world) {
			w.claim("a", web, 10)
			w.releaseShared("a", 10, 10.1)
			w.mark("a", 20, 20)
		}, 10.1, 20, 0, "gap"},
		{"an end that nobody told, as far as its watermark vouches", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10) }, 9.7, 80, 0, "shop/web/w1"},
		{"an end that nobody told, further: others may have begun to be translated to it", func(w world) { w.claim("a", web, 0); w.mark("a", 10, 10) }, 9.8, 80, 0, "gap"},
		{"left out of the next whole set at once, further than the watermark vouches", func(w world) {
			w.claim("a", web, 0)
			r := &Release{Exporter: "a", Network: "n", Addr: addr("10.0.0.1"), At: sec(10), Absent: true}
			if err := w.Release(r, sec(10.1)); err != nil {
				w.Fatal(err)
			}
			w.mark("a", 20, 20)
		}, 9.8, 20, 0, "gap"},
		{"never verified", func(w world) { w.claim("a", web, 10) }, 10.1, 80, 0, "gap"},
		{"one owner's edge", func(w world) { w.claim("a", web, 10); w.mark("a", 20, 20) }, 9.8, 20, 0, "shop/web/w1"},
		{"one owner's edge, another exporter not that far", func(w world) {
			w.claim("b", Owner{Workload: "x/y"}, 0)
			w.release("b", 1)
			w.mark("b", 9, 18)
			w.claim("a", web, 10)
			w.mark("a", 20, 20)
		}, 9.8, 20, 0, "wait"},
		{"before the first", func(w world) { w.claim("a", web, 10); w.mark("a", 20, 20) }, 5, 20, 0, "no_evidence"},
		{"after the last", func(w world) { w.claim("a", web, 1); w.release("a", 5); w.mark("a", 20, 20) }, 8, 20, 0, "no_evidence"},
		{"after the last, a claim could come", func(w world) { w.claim("a", web, 1); w.release("a", 5); w.mark("a", 8, 8) }, 8, 9, 0, "wait"},
		{"conflict", func(w world) { w.claim("a", web, 0); w.claim("b", api, 0); w.mark("a", 20, 20); w.mark("b", 20, 20) }, 10, 20, 0, "conflict"},
		{"a crashed host's address used again", func(w world) { w.claim("a", web, 0); w.mark("a", 5, 5); w.claim("b", api, 8); w.mark("b", 20, 20) }, 10, 20, 0, "shop/api/a1"},
		{"another's open range not verified yet", func(w world) { w.claim("a", web, 0); w.mark("a", 9, 19); w.claim("b", api, 9.5); w.mark("b", 20, 20) }, 12, 20, 0, "wait"},
		{"shared", func(w world) {
			for range 3 {
				w.claim("a", web, 1)
				w.claim("b", api, 1)
			}
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 10, 20, 0, "shared_address"},
		{"shared, told apart by port", func(w world) {
			w.claim("a", web, 0, 80, 89)
			w.claim("b", api, 0, 90, 99)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
		}, 10, 20, 91, "shop/api/a1"},
		{"sidecar and daemon of one host", func(w world) {
			w.claim("a1", web, 0)
			w.claim("a2", made2(), 0)
			w.mark("a1", 20, 20)
			w.mark("a2", 20, 20)
		}, 10, 20, 0, "shop/web/w1"},
		{"an assignment, no claim", func(w world) { w.claim("f", lb, 0); w.mark("f", 20, 20) }, 10, 20, 0, "edge/lb/lb"},
		{"an assignment, a claim could come", func(w world) { w.claim("f", lb, 0); w.mark("f", 20, 20); w.mark("a", 9, 19) }, 10, 20, 0, "wait"},
		{"an assignment and a claim", func(w world) { w.claim("f", lb, 0); w.claim("a", web, 5); w.mark("f", 20, 20); w.mark("a", 20, 20) }, 10, 20, 0, "shop/web/w1"},
		{"an assignment, the claim after it", func(w world) { w.claim("f", lb, 0); w.claim("a", web, 15); w.mark("f", 20, 20); w.mark("a", 20, 20) }, 10, 20, 0, "edge/lb/lb"},
		{"an assignment, at the claim's edge", func(w world) { w.claim("f", lb, 0); w.claim("a", web, 10.2); w.mark("f", 20, 20); w.mark("a", 20, 20) }, 10, 20, 0, "shop/web/w1"},
		{"an assignment does not settle a conflict", func(w world) {
			w.claim("f", lb, 0)
			w.claim("a", web, 0)
			w.claim("b", api, 0)
			w.mark("a", 20, 20)
			w.mark("b", 20, 20)
			w.mark("f", 20, 20)
		}, 10, 20, 0, "conflict"},
		{"two assignments", func(w world) {
			w.claim("f", lb, 0)
			w.claim("g", Owner{Workload: "edge/other", Assigned: true}, 0)
			w.mark("f", 20, 20)
			w.mark("g", 20, 20)
		}, 10, 20, 0, "conflict"},
		{"nobody alive", func(world) {}, 10, 20, 0, "no_evidence"},
		{"connected, nothing said yet", func(w world) { _ = w.Seen("a", "h", 0, sec(10)) }, 10, 11, 0, "wait"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := world{t, New(Config{})}
			c.tell(w)
			a := w.View(sec(c.now)).Lookup(w.Network("n"), addr("10.0.0.1"), c.port, sec(c.at), second/2)
			if got := show(a); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestExternal(t *testing.T) {
	w := world{t, New(Config{})}
	w.mark("a", 0, 0)
	ask := func(s string) string {
		return show(w.View(sec(1)).Lookup(w.Network("n"), addr(s), 0, sec(0.5), 0))
	}
	for s, want := range map[string]string{
		"8.8.8.8": "external", "2a00::1": "external", "10.9.9.9": "wait", "fd00::9": "wait", "127.0.0.1": "wait", "::1": "wait", "172.32.0.1": "external",
	} {
		if got := ask(s); got != want {
			t.Errorf("%s: got %s, want %s", s, got, want)
		}
	}
	c := &Claim{Exporter: "a", Network: "n", Addr: addr("8.8.8.8"), Owner: web, From: sec(0)}
	if err := w.Claim(c, sec(0)); err != nil {
		t.Fatal(err)
	}
	w.mark("a", 1, 1)
	if got := ask("8.8.8.8"); got != "shop/web/w1" {
		t.Errorf("claimed public address: got %s", got)
	}
}

func TestRefused(t *testing.T) {
	good := Claim{Exporter: "a", Network: "n", Addr: addr("10.0.0.1"), Owner: web, From: sec(0)}
	cases := []struct {
		change func(*Claim)
		want   Reason
	}{
		{func(c *Claim) { c.Exporter = "" }, BadName},
		{func(c *Claim) { c.Network = "" }, BadName},
		{func(c *Claim) { c.Owner.Workload = "" }, BadName},
		{func(c *Claim) { c.Owner.Workload = strings.Repeat("x", 10_000) }, BadName},
		{func(c *Claim) { c.Owner.Instance = "a\x1b[2J" }, BadName},
		{func(c *Claim) { c.Owner.Zone = "\xff" }, BadName},
		{func(c *Claim) { c.Addr = addr("0.0.0.0") }, BadAddress},
		{func(c *Claim) { c.Addr = addr("::") }, BadAddress},
		{func(c *Claim) { c.Addr = addr("224.0.0.1") }, BadAddress},
		{func(c *Claim) { c.Addr = addr("ff02::1") }, BadAddress},
		{func(c *Claim) { c.Addr = addr("255.255.255.255") }, BadAddress},
		{func(c *Claim) { c.PortTo = 5 }, BadPorts},
		{func(c *Claim) { c.PortFrom, c.PortTo = 9, 5 }, BadPorts},
		{func(c *Claim) { c.From = 0 }, BadTime},
		{func(c *Claim) { c.From = -1 }, BadTime},
		{func(c *Claim) { c.From = sec(11) }, FromFuture},
	}
	tab := New(Config{})
	want := map[Reason]uint64{}
	for _, r := range Reasons() {
		want[r] = 0
	}
	for _, c := range cases {
		claim := good
		c.change(&claim)
		var refused *RefusedError
		if err := tab.Claim(&claim, sec(0)); !errors.As(err, &refused) || refused.Reason != c.want {
			t.Errorf("%+v: got %v, want %s", claim, err, c.want)
		}
		want[c.want]++
	}
	if diff := cmp.Diff(want, tab.Stats().Refused); diff != "" {
		t.Error(diff)
	}
	if s := tab.Stats(); s.Ranges != 0 || s.Addresses != 0 || s.Owners != 0 || s.Networks != 0 {
		t.Errorf("refused claims left something: %+v", s)
	}
}

// TestReadersAndWriter lets readers look up addresses whose ranges come, move and are forgotten under them. An answer that names
// another address's owner would mean that a reader followed a node into another chain.
func TestReadersAndWriter(t *testing.T) {
	tab := New(Config{Retention: time.Second, DeadAfter: time.Second, MaxRanges: 400})
	done := make(chan struct{})
	var wg sync.WaitGroup
	for r := range 3 {
		wg.Go(func() {
			rng, found := rand.New(rand.NewPCG(uint64(r), 3)), make([]Found, 1)
			for {
				select {
				case <-done:
					return
				default:
				}
				i, v := rng.IntN(200), tab.View(sec(100))
				v.Find([]Key{{tab.Network("n"), addr(fmt.Sprintf("10.0.0.%d", i))}}, found)
				a := v.LookupFound(&found[0], 0, sec(rng.Float64()*100), 0)
				if a.Owner != nil && a.Owner.Instance != fmt.Sprint(i) {
					t.Errorf("10.0.0.%d named %+v", i, *a.Owner)
					return
				}
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for step := range 15_000 {
		now := float64(step) / 150
		i := 1 + rng.IntN(199)
		c := &Claim{
			Exporter: "x", Network: "n", Addr: addr(fmt.Sprintf("10.0.0.%d", i)), From: sec(now),
			Owner: Owner{Workload: fmt.Sprint("w", rng.IntN(3)), Instance: fmt.Sprint(i)},
		}
		_ = tab.Claim(c, sec(now))
		if rng.IntN(2) == 0 {
			_ = tab.Release(&Release{Exporter: "x", Network: "n", Addr: c.Addr, At: sec(now)}, sec(now))
		}
		_ = tab.Watermark(&Watermark{"x", "", sec(now), sec(now), 0})
		if step%20 == 0 {
			tab.Expire(sec(now), 50)
		}
	}
	close(done)
	wg.Wait()
}

func TestRangesAndBefore(t *testing.T) {
	w := world{t, New(Config{})}
	w.claim("a", web, 0)
	w.release("a", 10)
	w.claim("b", api, 12)
	w.mark("b", 20, 20)
	v, net := w.View(sec(20)), w.Network("n")
	want := []Range{
		{Owner: api, Exporter: "b", Host: "h-b", From: sec(12), To: sec(20), Open: true, Claims: 1},
		{Owner: web, Exporter: "a", Host: "h-a", From: sec(0), To: sec(10), Released: true, Claims: 1},
	}
	if diff := cmp.Diff(want, v.Ranges(net, addr("10.0.0.1"), sec(5), sec(15))); diff != "" {
		t.Error(diff)
	}
	if got := v.Ranges(net, addr("10.0.0.1"), sec(11), sec(11.5)); got != nil {
		t.Errorf("ranges in the gap: %v", got)
	}
	if o, seen := v.Before(net, addr("10.0.0.1"), 0, sec(11)); o == nil || *o != web || seen != sec(10) {
		t.Errorf("before: %v %d", o, seen)
	}
	if o, _ := v.Before(net, addr("10.0.0.2"), 0, sec(11)); o != nil {
		t.Errorf("before of an unknown address: %v", o)
	}
}

// TestQuietTime: while exporters reconnect nothing is no_evidence, and an address without any claim holds nobody up.
func TestQuietTime(t *testing.T) {
	const start = int64(1_795_000_000_000_000_000)
	table := New(Config{QuietUntil: start + int64(10*time.Second)})
	addr := AddrFrom(netip.MustParseAddr("10.0.0.1"))
	tolerance := int64(100 * time.Millisecond)
	if a := table.View(start+1).Lookup(table.Network("default"), addr, 80, start, tolerance); a.Why != Pending || a.Wait {
		t.Errorf("in the quiet time: %+v", a)
	}
	if a := table.View(start+int64(11*time.Second)).Lookup(table.Network("default"), addr, 80, start, tolerance); a.Why != NoEvidence {
		t.Errorf("after it: %+v", a)
	}
}

// TestTheEdgeOfADoubtfulClaim: a host froze, lost its address to another, and claims it again when it thaws, until it is told. The other's exporter has
// crashed meanwhile and says nothing. Nowhere in that claim, at its end or just after it is it the evidence for a name.
func TestTheEdgeOfADoubtfulClaim(t *testing.T) {
	w := world{t, New(Config{})}
	w.claim("frozen", web, 0)
	w.mark("frozen", 60.7, 60.7)
	w.claim("other", api, 71.8)
	w.mark("other", 99.6, 99.6)
	w.releaseSeen("frozen", 60.7, 100.8)
	w.claim("frozen", web, 100.8)
	w.mark("frozen", 102.4, 102.5)
	w.releaseSeen("frozen", 102.5, 102.7)
	w.mark("frozen", 104.4, 104.4)
	v, net := w.View(sec(104.4)), w.Network("n")
	for _, at := range []float64{100.75, 101.5, 102.3, 102.45, 102.55, 102.65, 102.7} {
		if a := v.Lookup(net, addr("10.0.0.1"), 80, sec(at), second/10); a.Owner != nil {
			t.Errorf("at %.2f: %+v", at, *a.Owner)
		}
	}
	// A claim of that kind that has lasted is believed again once the other is given up.
	w.claim("frozen", web, 110)
	w.mark("frozen", 200, 200)
	if a := w.View(sec(200)).Lookup(net, addr("10.0.0.1"), 80, sec(190), second/10); a.Owner == nil || *a.Owner != web {
		t.Errorf("long after: %+v", a)
	}
}
