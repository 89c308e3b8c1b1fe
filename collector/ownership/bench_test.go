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

func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkLookup(b, n) })
	}
}

func benchmarkLookup(b *testing.B, n int) {
	tab, addrs := fill(b, n)
	rng := rand.New(rand.NewPCG(2, 2))
	asks := make([]Addr, 1<<20)
	for i := range asks {
		if asks[i] = addrs[rng.IntN(len(addrs))]; i%5 == 0 {
			asks[i].Hi, asks[i].Lo = 0, 0xffff<<32|172<<24|16<<16|rng.Uint64()&0xfffff
		}
	}
	s := tab.Stats()
	v, net := tab.View(sec(301)), tab.Network("default")
	b.ReportAllocs()
	b.ResetTimer()
	named := 0
	for i := range b.N {
		if v.Lookup(net, asks[i&(len(asks)-1)], 443, sec(200), second/10).Owner != nil {
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
