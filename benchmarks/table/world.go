package main

import (
	"fmt"
	"math/rand/v2"

	"tributary/collector/ownership"
)

const (
	exporters = 1_000
	instances = 20_000
	workloads = 600
	second    = int64(1_000_000_000)
	epoch     = 1_795_000_000 * second
)

// world is a filled table and what was put into it.
type world struct {
	table *ownership.Table
	addrs []ownership.Addr
	of    []uint16 // the exporter of an address
	rng   *rand.Rand
	names [exporters]string
	now   int64
	sink  sink
}

// fill gives every address a range, and every other one a second: an owner that came after the first.
func fill(n int) (*world, error) {
	w := &world{
		table: ownership.New(ownership.Config{MaxRanges: 64 << 20, MaxAddresses: 16 << 20, MaxPerAddress: 4}),
		addrs: make([]ownership.Addr, n), of: make([]uint16, n), rng: rand.New(rand.NewPCG(1, 1)), now: epoch + 1000*second,
	}
	for i := range w.names {
		w.names[i] = fmt.Sprintf("host-%04d/6f1c2d", i)
	}
	for i := range w.addrs {
		w.of[i] = uint16(w.rng.IntN(exporters))
		if w.addrs[i] = (ownership.Addr{Lo: 0xffff<<32 | 10<<24 + uint64(i)}); i%3 == 0 {
			w.addrs[i] = ownership.Addr{Hi: 0xfd00<<48 | w.rng.Uint64()>>16, Lo: w.rng.Uint64()}
		}
	}
	for round := range int64(2) {
		for i := range w.addrs {
			if round == 1 && i%2 == 0 {
				continue
			}
			if err := w.claim(i, epoch+(1+round*100)*second+w.rng.Int64N(second)); err != nil {
				return nil, err
			}
		}
	}
	return w, w.verify(w.now)
}

// claim gives an address to any instance, from at on.
func (w *world) claim(i int, at int64) error {
	k := w.rng.IntN(instances)
	x := w.names[w.of[i]]
	return w.table.Claim(&ownership.Claim{
		Exporter: x, Host: x, Network: "default", Addr: w.addrs[i], From: at,
		Owner: ownership.Owner{Workload: fmt.Sprintf("team-%d/service-%d", k%40, k%workloads), Instance: fmt.Sprintf("pod-%08d", k), Zone: "eu-1a"},
	}, w.now)
}

// verify sends every exporter's watermark.
func (w *world) verify(to int64) error {
	for _, x := range w.names {
		if err := w.table.Watermark(&ownership.Watermark{Exporter: x, Host: x, VerifiedTo: to, ReceivedAt: to}); err != nil {
			return err
		}
	}
	return nil
}

// questions are about a million addresses in random order, a fifth of them nobody's.
func (w *world) questions() []ownership.Key {
	asks := make([]ownership.Key, 1<<20)
	net := w.table.Network("default")
	for i := range asks {
		asks[i] = ownership.Key{Network: net, Addr: w.addrs[w.rng.IntN(len(w.addrs))]}
		if w.rng.IntN(5) == 0 {
			asks[i].Addr = ownership.Addr{Lo: 0xffff<<32 | 192<<24 | 168<<16 | w.rng.Uint64()&0xffff}
		}
	}
	return asks
}

// bytes is what the world needs besides the table.
func (w *world) bytes(asks []ownership.Key) int64 {
	return int64(cap(w.addrs))*16 + int64(cap(w.of))*2 + int64(cap(asks))*24
}
