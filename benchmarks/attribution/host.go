package main

import (
	"fmt"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const (
	lookEvery      = 200 * ms // an exporter looks at address notifications at least so often
	settle         = 5 * ms   // and has verified everything up to this long before a look
	watermarkEvery = sec
	sealEvery      = 500 * ms
)

// host is one host, its clock and its exporter.
type host struct {
	sim         *sim
	region      *region
	name        string
	addr        [16]byte
	clockError  int64
	phase       int64
	instances   []*instance // those whose address is on an interface, whoever they belong to elsewhere
	freeBlocks  []*address
	freeBridged []*address
	blocks      int
	bridgeAddrs int

	frozen bool
	froze  int64 // when last
	thawed int64 // since when it has been running

	run      int // of the exporter
	down     bool
	verified int64 // true time
	stream   stream
	node     *node // of the stream
	severed  bool  // cut off by the network
	pending  []row
	quota    float64
	lastSeal int64
	seq      uint64
	unacked  map[uint64]*sealed
	order    []uint64 // unacked by age
	builder  *flow.Builder
	minute   minute
	gateway  *gateway
}

func (s *sim) newHost(r *region, n int) *host {
	h := &host{
		sim: s, region: r, name: fmt.Sprintf("%s-h%d", r.name, n), phase: s.between(0, sec), unacked: map[uint64]*sealed{},
		builder: flow.NewBuilder(4096), addr: ipv4(10<<24 | 200<<16 | uint32(len(s.regions))<<12 | uint32(n+1)),
	}
	if s.cfg.faults.clock {
		h.clockError = s.between(-200*ms, 200*ms)
	}
	if s.cfg.faults.badClock && n < max(1, s.cfg.hosts/s.cfg.regions/160) {
		h.clockError = 5 * sec * int64(1-2*(len(s.regions)%2))
	}
	s.time.at(h.phase, h.tick)
	s.time.at(h.phase/2, h.connect)
	s.time.at(h.phase*60, func() { s.rivals.report(h) })
	return h
}

// clock is the host's idea of a true moment, in ns since 1970.
func (h *host) clock(at int64) int64 { return epoch + at + h.clockError }

func (h *host) exporterID() string { return fmt.Sprintf("%s/%d", h.name, h.run) }

// looked is the last moment up to which the exporter knows everything, as of its last look before now.
func (h *host) looked() int64 {
	grid := (h.sim.time.now-h.phase)/lookEvery*lookEvery + h.phase
	return max(h.verified, min(grid, h.sim.time.now)-settle)
}

// tick is half a second: a batch, and every second time a watermark.
func (h *host) tick() {
	s := h.sim
	defer s.time.after(sealEvery, h.tick)
	if h.frozen {
		return
	}
	h.traffic()
	h.seal()
	if h.down || (s.time.now-h.phase)/sealEvery%int64(watermarkEvery/sealEvery) != 0 {
		return
	}
	h.sendWatermark()
}

func (h *host) sendWatermark() {
	now := h.sim.time.now
	h.checkGateway()
	h.verified = now - settle
	h.send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{
		Watermark: &flowv1.Watermark{VerifiedToNs: h.clock(now - sharedEdge), ClockNs: h.clock(now)},
	}})
}

// appeared: the address came onto an interface; the exporter hears of it a little later.
func (h *host) appeared(i *instance) {
	h.sim.time.after(h.sim.between(0, 10*ms), func() {
		if h.frozen || h.down || i.hostIndex < 0 || i.claimed != 0 || h.isShared(i) {
			return // a later listing finds it
		}
		h.claim(i)
	})
}

func (h *host) claim(i *instance) {
	now := h.sim.time.now
	i.claimed = now
	h.verified = now - settle
	h.send(tell(&flowv1.Ownership{Claims: []*flowv1.Claim{h.claimOf(i)}}))
}

func (h *host) claimOf(i *instance) *flowv1.Claim {
	a := i.address
	return &flowv1.Claim{
		Network: a.network, Addr: a.addr[:], PortFrom: uint32(a.from), PortTo: uint32(a.to), Workload: i.service.name, Instance: i.name,
		Zone: "a", Region: h.region.name, Evidence: flowv1.Evidence_EVIDENCE_NETNS, FromNs: h.clock(i.claimed),
	}
}

// vanished: the address left its interface. What the exporter notices while it is down, it never says.
func (h *host) vanished(i *instance) {
	last := h.instances[len(h.instances)-1]
	h.instances[i.hostIndex], last.hostIndex = last, i.hostIndex
	h.instances = h.instances[:len(h.instances)-1]
	i.hostIndex = -1
	run := h.run
	h.sim.time.after(h.sim.between(0, 4*ms), func() {
		if i.claimed == 0 || h.run != run || h.down || h.frozen {
			return
		}
		h.release(i, h.looked())
		h.verified = h.sim.time.now - settle
	})
}

// isShared: the exporter knows that the instance's address stands for others, and claims it for nobody.
func (h *host) isShared(i *instance) bool {
	return h.gateway != nil && h.gateway.own == i && h.gateway.known
}

func (h *host) release(i *instance, at int64) {
	h.releaseFor(i, at, flowv1.ReleaseReason_RELEASE_REASON_GONE)
}

func (h *host) releaseFor(i *instance, at int64, why flowv1.ReleaseReason) {
	a := i.address
	at = max(at, i.claimed)
	i.claimed = 0
	h.send(tell(&flowv1.Ownership{Releases: []*flowv1.Release{{
		Network: a.network, Addr: a.addr[:], PortFrom: uint32(a.from), PortTo: uint32(a.to), Workload: i.service.name, Instance: i.name,
		AtNs: h.clock(at), Reason: why,
	}}}))
}

func tell(o *flowv1.Ownership) *flowv1.ControlRequest {
	return &flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: o}}
}

// freeze stops the host for 40 s. The scheduler gives it up after a while and hands the addresses of half of its instances to others.
func (h *host) freeze() {
	s, r := h.sim, h.region
	if h.frozen || s.ending {
		return
	}
	h.verified = h.looked()
	h.frozen, h.froze = true, s.time.now
	for _, i := range h.instances {
		if i.address.kind != plain || s.chance(0.5) {
			continue
		}
		s.time.after(s.between(2*sec, 12*sec), func() {
			i.lost, i.died = true, s.time.now
			i.service.remove(i)
			r.release(i)
			s.time.after(s.between(0, sec), func() { r.start(i.service) })
		})
	}
	s.time.after(40*sec, h.thaw)
}

// thaw: the exporter sees that it stood still. Everything it claimed has a hole; what is still listed on interfaces is claimed again, until
// the node's agent takes away what belongs elsewhere by now.
func (h *host) thaw() {
	s := h.sim
	h.frozen, h.thawed = false, s.time.now
	last := h.verified
	h.verified = s.time.now - settle
	for _, i := range h.instances {
		if i.claimed != 0 {
			h.release(i, last)
		}
		if !h.isShared(i) {
			h.claim(i)
		}
	}
	if s.cfg.faults.loss && s.chance(0.5) { // its connection did not survive
		h.cut()
	}
	for _, i := range append([]*instance(nil), h.instances...) {
		if i.lost {
			s.time.after(s.between(200*ms, 2*sec), func() { h.vanished(i) })
		}
	}
	h.lastSeal = s.time.now
}

// crash ends the exporter's run; a new one begins after a while. The containers go on.
func (h *host) crash() {
	s := h.sim
	if h.frozen || h.down || s.ending {
		return
	}
	h.down = true
	h.stream.close()
	h.pending, h.order = nil, nil
	clear(h.unacked)
	s.time.after(s.between(500*ms, 5*sec), func() {
		h.down = false
		h.run++
		h.seq = 0
		h.lastSeal = s.time.now
		if g := h.gateway; g != nil {
			g.known = g.began // its first check, before it claims anything
		}
		for _, i := range h.instances {
			if i.claimed = s.time.now; h.isShared(i) {
				i.claimed = 0
			}
		}
		h.verified = s.time.now - settle
		h.connect()
	})
}
