package ownership

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestNeverWrong checks the rules themselves, not only that the table keeps them: in a small world with known truth, addresses are
// handed on between hosts, some released and some lost with their host, whose messages come late by up to a second (in order, as a
// stream brings them); flows are stamped by clocks that are wrong by up to the tolerance. Whatever is named, whenever it is asked,
// must be named after who really had the address.
func TestNeverWrong(t *testing.T) {
	asked, named := 0, 0
	for seed := range uint64(8) {
		a, n := neverWrong(t, seed)
		asked, named = asked+a, named+n
	}
	t.Logf("%d of %d answers named", named, asked)
	if named*2 < asked {
		t.Errorf("only %d of %d answers named: the world is too hard or the rules too shy", named, asked)
	}
}

type tenancy struct {
	owner    Owner
	host     int
	from, to int64
}

type event struct {
	at int64
	do func()
}

type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }
func (e *events) Pop() any          { old := *e; x := old[len(old)-1]; *e = old[:len(old)-1]; return x }

func neverWrong(t *testing.T, seed uint64) (asked, named int) {
	const hosts, addrs, length, tol = 12, 30, 120 * second, second / 10
	rng := rand.New(rand.NewPCG(seed, 5))
	tab := New(Config{})
	w := &truthWorld{T: t, tab: New(Config{}), rng: rng, last: make([]int64, hosts), messages: make([]events, hosts)}
	for range hosts {
		h := fate{phase: rng.Int64N(second), dies: length * 2, freezes: length * 2}
		switch rng.IntN(3) {
		case 0:
			h.dies = second * (20 + rng.Int64N(80))
		case 1:
			h.freezes = second * (20 + rng.Int64N(60))
			h.wakes = h.freezes + second*(1+rng.Int64N(20))
		}
		w.fates = append(w.fates, h)
	}
	truth := make([][]tenancy, addrs)
	for a := range truth {
		for at := rng.Int64N(5 * second); at < length; {
			if x := w.tenancy(a, len(truth[a]), at); len(x) > 0 {
				truth[a] = append(truth[a], x...)
				at = x[len(x)-1].to + 1 + rng.Int64N(4)*rng.Int64N(second)
			}
		}
	}
	tab, messages, last := w.tab, w.messages, w.last
	var queue events
	for h := range messages {
		for at := w.fates[h].phase; at < min(length, w.fates[h].dies); at += second {
			if at >= w.fates[h].freezes && at <= w.fates[h].wakes {
				continue
			}
			m := Watermark{Exporter: hostName(h), Host: hostName(h), VerifiedTo: t0 + at}
			messages[h] = append(messages[h], event{at, func() { m.ReceivedAt = t0 + last[h]; must(t, tab.Watermark(&m)) }})
		}
		heap.Init(&messages[h])
		var arrival int64
		for len(messages[h]) > 0 {
			m := heap.Pop(&messages[h]).(event)
			arrival = max(arrival+1, m.at+rng.Int64N(second))
			at := arrival
			queue = append(queue, event{at, func() { last[h] = at; m.do() }})
		}
	}
	for range 20_000 {
		a := rng.IntN(addrs)
		x := truth[a][rng.IntN(len(truth[a]))]
		at := x.from + rng.Int64N(x.to-x.from)
		stamp := t0 + at + rng.Int64N(2*tol) - tol
		asks := at + rng.Int64N(8*second)
		queue = append(queue, event{asks, func() {
			asked++
			got := tab.View(t0+asks).Lookup(tab.Network("n"), Addr{0, 0xffff<<32 | 10<<24 | uint64(a)}, 80, stamp, tol)
			if got.Owner == nil {
				return
			}
			if named++; *got.Owner != x.owner {
				t.Errorf("seed %d: 10.0.0.%d at %.3f (stamped %.3f, asked at %.3f) named %+v, is %+v", seed, a, float64(at)/1e9,
					float64(stamp-t0)/1e9, float64(asks)/1e9, *got.Owner, x)
			}
		}})
	}
	heap.Init(&queue)
	for len(queue) > 0 && !t.Failed() {
		heap.Pop(&queue).(event).do()
	}
	return asked, named
}

// fate is what happens to a host: it crashes, or stands still for a while.
type fate struct{ phase, dies, freezes, wakes int64 }

// truthWorld says what really happens and what exporters say about it.
type truthWorld struct {
	*testing.T
	tab      *Table
	rng      *rand.Rand
	fates    []fate
	messages []events // by host and sending time
	last     []int64  // arrival of the host's last message
}

func hostName(h int) string { return fmt.Sprint("x", h) }

// tenancy lets a host have the address from at on. A host that freezes in between loses it to somebody else, and says so when it
// wakes up, or has it again then.
func (w *truthWorld) tenancy(a, n int, at int64) []tenancy {
	h := w.rng.IntN(len(w.fates))
	f := w.fates[h]
	x := tenancy{Owner{Workload: fmt.Sprint("w", w.rng.IntN(6)), Instance: fmt.Sprint(a, "-", n)}, h, at, at + second/2 + w.rng.Int64N(20*second)}
	if at >= f.dies-second || at >= f.freezes-second && at <= f.wakes {
		return nil
	}
	w.claims(h, a, x.owner, at, at)
	switch {
	case x.to >= f.dies:
		x.to = f.dies
	case at < f.freezes && x.to >= f.freezes && w.rng.IntN(2) == 0: // it moves away unnoticed
		x.to = f.freezes
		verified := max(f.phase+(f.freezes-1-f.phase)/second*second, at)
		w.releases(h, a, verified, f.wakes)
	case at < f.freezes && x.to >= f.freezes: // it is still there, or again
		y := x
		x.to, y.from, y.to = f.freezes, f.wakes, f.wakes+second+w.rng.Int64N(5*second)
		w.claims(h, a, y.owner, y.from, f.wakes)
		w.releases(h, a, y.to, y.to)
		return []tenancy{x, y}
	default:
		w.releases(h, a, x.to, x.to)
	}
	return []tenancy{x}
}

func (w *truthWorld) claims(h, a int, o Owner, from, sent int64) {
	c := &Claim{Exporter: hostName(h), Host: hostName(h), Network: "n", Addr: Addr{0, 0xffff<<32 | 10<<24 | uint64(a)}, Owner: o, From: t0 + from}
	w.messages[h] = append(w.messages[h], event{sent, func() { must(w.T, w.tab.Claim(c, t0+sent+2*second)) }})
}

func (w *truthWorld) releases(h, a int, at, sent int64) {
	r := &Release{Exporter: hostName(h), Network: "n", Addr: Addr{0, 0xffff<<32 | 10<<24 | uint64(a)}, At: t0 + at}
	w.messages[h] = append(w.messages[h], event{sent, func() { must(w.T, w.tab.Release(r, t0+sent+2*second)) }})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
