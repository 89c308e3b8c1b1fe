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
	for seed := range uint64(20) {
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
	dies := make([]int64, hosts) // when the host crashes: nothing comes from it any more
	for h := range dies {
		if dies[h] = length * 2; rng.IntN(3) == 0 {
			dies[h] = second * (20 + rng.Int64N(80))
		}
	}
	truth := make([][]tenancy, addrs)
	last := make([]int64, hosts) // arrival of the host's last message
	var messages [hosts]events   // by sending time
	name := func(h int) string { return fmt.Sprint("x", h) }
	for a := range truth {
		for at := rng.Int64N(5 * second); at < length; {
			h := rng.IntN(hosts)
			x := tenancy{Owner{Workload: fmt.Sprint("w", rng.IntN(6)), Instance: fmt.Sprint(a, "-", len(truth[a]))}, h, at, at + second/2 + rng.Int64N(20*second)}
			if at >= dies[h]-second {
				continue
			}
			key := Claim{Exporter: name(h), Host: name(h), Network: "n", Addr: Addr{0, 0xffff<<32 | 10<<24 | uint64(a)}, Owner: x.owner, From: t0 + at}
			messages[h] = append(messages[h], event{at, func() { must(t, tab.Claim(&key, t0+at+2*second)) }})
			if x.to >= dies[h] {
				x.to = dies[h]
			} else {
				rel := Release{Exporter: name(h), Network: "n", Addr: key.Addr, At: t0 + x.to}
				messages[h] = append(messages[h], event{x.to, func() { must(t, tab.Release(&rel, t0+x.to+2*second)) }})
			}
			truth[a] = append(truth[a], x)
			at = x.to + 1 + rng.Int64N(4)*rng.Int64N(second)
		}
	}
	var queue events
	for h := range messages {
		for at := rng.Int64N(second); at < min(length, dies[h]); at += second {
			w := Watermark{Exporter: name(h), Host: name(h), VerifiedTo: t0 + at}
			messages[h] = append(messages[h], event{at, func() { w.ReceivedAt = t0 + last[h]; must(t, tab.Watermark(&w)) }})
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}
