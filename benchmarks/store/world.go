package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
)

// The size of the world. 300 workloads of 3 to 10 instances on 100 hosts; each workload asks up to 6 others, some much more than others
// (Zipf), 4 in 5 of which have an exporter; the first 30 are also called from outside, and a quarter calls out.
const (
	workloads = 300
	hosts     = 100
	networkID = "default"
)

type instance struct {
	addr               [16]byte
	workload           int
	host               int
	addrAt             uint32 // in the dictionaries
	name, wl, zone     uint32
	region, release    uint32
	comm, netns        uint32
	cgroup             uint64
	pid, uid, nextPort uint32
}

// edge is who asks whom: workload -1 is outside.
type edge struct {
	client, server int
	port           uint32
	rttUs          float64 // median
	sent, received float64 // medians, bytes
	failing        float64 // share of attempts
	lives          float64 // median, seconds
}

type world struct {
	r         *rand.Rand
	strings   []string
	addrs     [][16]byte
	instances []instance
	of        [][]int // instances of a workload
	edges     []edge
	weights   []float64 // cumulative
	texts     map[string]uint32
}

func newWorld(seed uint64) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 42)), strings: []string{""}, addrs: make([][16]byte, 1), texts: map[string]uint32{"": 0}}
	w.text(networkID)
	for i := range workloads {
		w.of = append(w.of, nil)
		port := uint32(8000 + i%40)
		for n := range 3 + w.r.IntN(8) {
			w.instance(i, n)
		}
		for range w.r.IntN(7) {
			if i > 0 {
				w.edge(i, w.r.IntN(i), uint32(8000+w.r.IntN(40)))
			}
		}
		if i < 30 {
			w.edge(-1, i, 443)
		}
		if i%4 == 0 {
			w.edge(i, -1, 443)
		}
		w.edge(i, int(float64(i)*w.r.Float64()*w.r.Float64()), port)
	}
	return w
}

func (w *world) text(s string) uint32 {
	if at, ok := w.texts[s]; ok {
		return at
	}
	w.strings = append(w.strings, s)
	w.texts[s] = uint32(len(w.strings) - 1)
	return w.texts[s]
}

func (w *world) address(a [16]byte) uint32 {
	w.addrs = append(w.addrs, a)
	return uint32(len(w.addrs) - 1)
}

func (w *world) instance(workload, n int) {
	i := len(w.instances)
	var a [16]byte
	if i%3 == 2 {
		a = [16]byte{0xfd, 0x77}
		binary.BigEndian.PutUint64(a[8:], w.r.Uint64())
	} else {
		a[10], a[11], a[12], a[13], a[14], a[15] = 0xff, 0xff, 10, byte(i>>8), byte(i), byte(w.r.IntN(256))
	}
	host := w.r.IntN(hosts)
	w.of[workload] = append(w.of[workload], i)
	w.instances = append(w.instances, instance{
		addr: a, addrAt: w.address(a), workload: workload, host: host,
		name: w.text(fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", w.r.Uint32(), w.r.IntN(1<<16), w.r.IntN(1<<12), w.r.IntN(1<<12), w.r.Uint64N(1<<48))),
		wl:   w.text(fmt.Sprintf("team-%02d/service-%03d", workload%25, workload)), zone: w.text(fmt.Sprintf("eu-1%c", 'a'+host%3)), region: w.text("eu-1"),
		release: w.text(fmt.Sprintf("2026-11-%02d.%d", 1+workload%20, workload%4)), comm: w.text(fmt.Sprintf("service-%03d", workload)),
		netns: w.text(fmt.Sprint(4026530000 + w.r.IntN(100000))), cgroup: uint64(5000 + w.r.IntN(50000)), pid: uint32(1000 + w.r.IntN(4_000_000)),
		uid: uint32(1000 + n%3), nextPort: uint32(32768 + w.r.IntN(28000)),
	})
}

func (w *world) edge(client, server int, port uint32) {
	if server == client {
		return
	}
	weight := math.Pow(float64(1+w.r.IntN(200)), -1) * math.Exp(w.r.NormFloat64())
	if n := len(w.weights); n > 0 {
		weight += w.weights[n-1]
	}
	w.weights = append(w.weights, weight)
	failing := 0.002
	if w.r.IntN(20) == 0 {
		failing = 0.1
	}
	w.edges = append(w.edges, edge{
		client: client, server: server, port: port, rttUs: 150 * math.Exp(w.r.NormFloat64()), sent: 800 * math.Exp(w.r.NormFloat64()),
		received: 3000 * math.Exp(1.5*w.r.NormFloat64()), failing: failing, lives: 0.05 * math.Exp(1.5*w.r.NormFloat64()),
	})
}

// pick draws an edge by its weight.
func (w *world) pick() *edge {
	x := w.r.Float64() * w.weights[len(w.weights)-1]
	return &w.edges[sort.SearchFloat64s(w.weights, x)]
}

func (w *world) lognormal(median, sigma, most float64) float64 {
	return min(median*math.Exp(w.r.NormFloat64()*sigma), most)
}

// outside returns an address nobody of ours has: few are popular.
func (w *world) outside() uint32 {
	n := uint32(w.r.ExpFloat64() * 2000)
	a := [16]byte{10: 0xff, 11: 0xff, 12: 93, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n * 37)}
	if len(w.addrs) > 60_000 {
		return uint32(len(w.instances) + 1 + w.r.IntN(len(w.addrs)-len(w.instances)-1))
	}
	return w.address(a)
}
