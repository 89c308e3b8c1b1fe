package ownership

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// fill makes n addresses (2/3 IPv4) with 1.5 ranges each, of 20,000 instances of 600 workloads on 1,000 exporters.
func fill(tb testing.TB, n int) (*Table, []Addr) {
	tab := New(Config{})
	rng := rand.New(rand.NewPCG(1, 1))
	addrs := make([]Addr, n)
	for i := range addrs {
		if i%3 == 0 {
			addrs[i] = Addr{0xfd00<<48 | rng.Uint64()>>16, rng.Uint64()}
		} else {
			addrs[i] = Addr{0, 0xffff<<32 | 10<<24 | uint64(i)}
		}
		x := fmt.Sprint("x", rng.IntN(1000))
		for r := range 1 + i%2 {
			k := rng.IntN(20_000)
			o := Owner{Workload: fmt.Sprint("team/w", k%600), Instance: fmt.Sprint("i", k), Zone: "z"}
			if err := tab.Claim(&Claim{Exporter: x, Host: x, Network: "default", Addr: addrs[i], Owner: o, From: sec(float64(100 * r))}, sec(100)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for x := range 1000 {
		_ = tab.Watermark(&Watermark{fmt.Sprint("x", x), "", sec(300), sec(300), 0})
	}
	return tab, addrs
}

// BenchmarkLookup asks for one address at a time, and for 64 that were found at once.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		tab, addrs := fill(b, n)
		asks := questions(addrs)
		for _, together := range []int{0, 64} {
			b.Run(fmt.Sprint(n, "/", together), func(b *testing.B) { benchmarkLookup(b, tab, asks, together) })
		}
	}
}

// questions are for the addresses in random order, a fifth of them for some that nobody has.
func questions(addrs []Addr) []Addr {
	rng := rand.New(rand.NewPCG(2, 2))
	asks := make([]Addr, 1<<20)
	for i := range asks {
		if asks[i] = addrs[rng.IntN(len(addrs))]; i%5 == 0 {
			asks[i].Hi, asks[i].Lo = 0, 0xffff<<32|172<<24|16<<16|rng.Uint64()&0xfffff
		}
	}
	return asks
}

func benchmarkLookup(b *testing.B, tab *Table, asks []Addr, together int) {
	s := tab.Stats()
	v, net := tab.View(sec(301)), tab.Network("default")
	keys, found := make([]Key, together), make([]Found, together)
	b.ReportAllocs()
	b.ResetTimer()
	named, next := 0, together
	for i := range b.N {
		at := i & (len(asks) - 1)
		var a Answer
		if together == 0 {
			a = v.Lookup(net, asks[at], 443, sec(200), second/10)
		} else {
			if next == together {
				for j := range keys {
					keys[j] = Key{net, asks[at+j]}
				}
				v.Find(keys, found)
				next = 0
			}
			a = v.LookupFound(&found[next], 443, sec(200), second/10)
			next++
		}
		if a.Owner != nil {
			named++
		}
	}
	b.ReportMetric(float64(s.Bytes)/float64(s.Addresses), "B/addr")
	b.ReportMetric(float64(named)/float64(b.N), "named")
}

func BenchmarkClaim(b *testing.B) {
	tab := New(Config{MaxPerExporter: 1 << 30})
	c := &Claim{Exporter: "x", Network: "default", Owner: web, From: sec(0)}
	b.ReportAllocs()
	for i := range b.N {
		c.Addr = Addr{0, 0xffff<<32 | 10<<24 | uint64(i)&0xfffff}
		c.From = sec(float64(i >> 20))
		_ = tab.Claim(c, sec(1e6))
	}
}

func BenchmarkView(b *testing.B) {
	tab := New(Config{})
	for x := range 20_000 {
		_ = tab.Watermark(&Watermark{fmt.Sprint("x", x), "", sec(300), sec(300), 0})
	}
	b.ResetTimer()
	for range b.N {
		_ = tab.View(sec(301))
	}
}
