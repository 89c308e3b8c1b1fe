package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"tributary/proto/flow"
)

// The size of the world: what one region's node looks like to a collector. 20,000 addresses of 500 workloads on 50 hosts; each
// host's own 60 busiest addresses are the local ends of its flows.
const (
	addresses   = 20_000
	hosts       = 50
	localsAHost = 60
	workloads   = 500
	network     = "default"
)

// owner is an address with its name.
type owner struct {
	addr                              [16]byte
	workload, instance, zone, release string
}

// makeWorld returns every address, the same at every run. One in three is IPv6.
func makeWorld() []owner {
	r := rand.New(rand.NewPCG(1, 2))
	world := make([]owner, addresses)
	for i := range world {
		service := r.IntN(workloads)
		o := &world[i]
		if i%3 == 2 {
			o.addr = [16]byte{0xfd, 0x77}
			binary.BigEndian.PutUint64(o.addr[8:], uint64(i)<<16|uint64(r.Uint32N(1<<16)))
		} else {
			o.addr[10], o.addr[11], o.addr[12] = 0xff, 0xff, 10
			o.addr[13], o.addr[14], o.addr[15] = byte(i>>16), byte(i>>8), byte(i)
		}
		o.workload = fmt.Sprintf("team-%02d/service-%03d", service%40, service)
		o.instance = fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.Uint32N(1<<16), r.Uint32N(1<<12), r.Uint32N(1<<12), r.Uint64N(1<<48))
		o.zone = fmt.Sprintf("eu-1%c", 'a'+i%hosts%3)
		o.release = fmt.Sprintf("2026-11-%02d.%d", 1+service%20, service%4)
	}
	return world
}

// hostOf is the exporter that claims the address.
func hostOf(address int) int { return address % hosts }

// local is a host's nth address.
func local(host, n int) int { return n*hosts + host }

// traffic draws rows: remotes by a Zipf law (s = 1.3), except that one row in four takes the next address of all in turn, so that a
// round of batches meets every one of them.
type traffic struct {
	world []owner
	r     *rand.Rand
	zipf  *rand.Zipf
	turn  int
}

func newTraffic(world []owner, seed uint64) *traffic {
	r := rand.New(rand.NewPCG(seed, 7))
	return &traffic{world: world, r: r, zipf: rand.NewZipf(r, 1.3, 1, addresses-1), turn: int(seed*7919) % addresses}
}

func (t *traffic) remote() int {
	if t.r.IntN(4) == 0 {
		t.turn = (t.turn + 1) % addresses
		return t.turn
	}
	return int(t.zipf.Uint64()*7) % addresses // the popular ones are spread over all hosts
}

// row appends one record that ended in the half second before sealed: nine in ten closed, some still active, a few refused.
func (t *traffic) row(w *flow.Builder, host int, id uint64, sealed int64) {
	r, here := t.r, &t.world[local(host, t.r.IntN(localsAHost))]
	there := &t.world[t.remote()]
	w.AddRow()
	w.Set64(flow.FlowID, id)
	w.Set64(flow.SockCookie, 4096+id)
	w.Set64(flow.CgroupID, 7000+uint64(here.addr[15]))
	w.SetText(flow.Network, network)
	w.SetText(flow.Comm, here.workload[8:])
	w.SetText(flow.Netns, "40265"+here.zone[4:]+here.instance[:2])
	w.SetAddr(flow.LocalAddr, here.addr)
	w.SetAddr(flow.RemoteAddr, there.addr)
	w.SetText(flow.LocalWorkload, here.workload)
	w.SetText(flow.LocalInstance, here.instance)
	w.SetText(flow.LocalZone, here.zone)
	w.SetText(flow.LocalRegion, "eu-1")
	w.SetText(flow.LocalRelease, here.release)
	w.Set32(flow.LocalEvidence, flow.EvidenceNetns)
	w.Set32(flow.Pid, 1000+uint32(r.IntN(200)))
	ephemeral, service := 32768+uint32(r.IntN(28000)), 8000+uint32(r.IntN(40))
	if r.IntN(2) == 0 {
		w.Set32(flow.Role, flow.RoleClient)
		w.Set32(flow.LocalPort, ephemeral)
		w.Set32(flow.RemotePort, service)
	} else {
		w.Set32(flow.Role, flow.RoleServer)
		w.Set32(flow.LocalPort, service)
		w.Set32(flow.RemotePort, ephemeral)
	}
	t.life(w, sealed)
}

// life writes times and counters, lognormal as measured traffic is.
func (t *traffic) life(w *flow.Builder, sealed int64) {
	r := t.r
	end := sealed - r.Int64N(5e8)
	start := end - int64(t.lognormal(50e6, 1.5, 60e9))
	interval := start
	w.Set32(flow.StartObserved, 1)
	switch n := r.IntN(100); {
	case n < 8:
		w.Set32(flow.Kind, flow.KindActive)
		w.Set32(flow.LastState, 1)
		w.Set32(flow.RecordSeq, 1+uint32(r.IntN(20)))
		start -= 30e9
	case n < 10:
		w.Set32(flow.Kind, flow.KindFailed)
		w.Set32(flow.CloseReason, flow.CloseRefused)
		w.Set32(flow.LastState, 2)
		w.Set32(flow.Failures, 1)
		w.Set32(flow.Errno, 111)
	default:
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set32(flow.CloseReason, flow.CloseFinLocal+uint32(r.IntN(2)))
		w.Set32(flow.LastState, 7)
	}
	w.Set64(flow.StartTimeNs, uint64(start))
	w.Set64(flow.IntervalStartNs, uint64(interval))
	w.Set64(flow.EndTimeNs, uint64(end))
	tx, rx := t.lognormal(1500, 1.8, 1e9), t.lognormal(4000, 2, 1e9)
	w.Set64(flow.TxBytes, tx)
	w.Set64(flow.RxBytes, rx)
	w.Set32(flow.TxSegs, uint32(tx/1448)+3)
	w.Set32(flow.RxSegs, uint32(rx/1448)+3)
	if r.IntN(20) == 0 {
		w.Set32(flow.RetransSegs, 1+uint32(r.IntN(4)))
		w.Set32(flow.RetransBytes, 1448)
		w.Set32(flow.LostSegs, 1)
	}
	rtt := uint32(t.lognormal(400, 0.8, 1e6))
	w.Set32(flow.SrttUs, rtt)
	w.Set32(flow.MinRttUs, rtt*3/4)
	w.Set32(flow.RttvarUs, rtt/5)
	w.Set32(flow.ConnectUs, rtt+uint32(r.IntN(100)))
	w.Set32(flow.SndCwnd, 10)
	w.Set32(flow.Mss, 1448)
}

func (t *traffic) lognormal(median, sigma, most float64) uint64 {
	return uint64(min(median*math.Exp(t.r.NormFloat64()*sigma), most))
}
