package main

import (
	"fmt"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const (
	gatewayShare = 8        // one host of so many translates for the containers on its bridge
	sharedEdge   = 200 * ms // a watermark lies so long before the check that it follows, as in exporter/identity
)

// gateway is a host's address that stands for its containers too, from some moment on: a masquerade, and a published port that leads to one of them. Until then it is
// its own workload's alone, and claimed whole. Connection tracking tells the exporter of each connection before its first packet leaves, so a check knows of all that began before it.
type gateway struct {
	own     *instance // whose address it is
	begins  int64     // the first translated connection
	began   bool
	known   bool  // to the exporter: it claims the address no more
	checked int64 // up to when the check before vouched
	port    uint16
}

// newGateway makes an address of the host that stands for others from some moment on: from the start, from the address's own first moments, or later. One workload of the region
// uses the gateway's own.
func (h *host) newGateway(n int) {
	s, r := h.sim, h.region
	v := &service{name: fmt.Sprintf("r%d/gateway-%03d", r.number, n), region: r, uses: r.services[:6]}
	user := r.services[s.rng.IntN(len(r.services))]
	user.uses = append(user.uses, v)
	addr := h.addr
	addr[14] |= 8 // behind those of hosts
	a := &address{kind: gatewayed, network: "default", addr: addr, host: h}
	born := int64(0)
	if s.chance(0.5) {
		born = s.between(0, s.cfg.length)
	}
	g := &gateway{begins: s.between(born, s.cfg.length), port: 1024}
	if s.chance(0.5) {
		g.begins = born + s.between(ms, 500*ms)
	}
	h.gateway = g
	s.time.at(born, func() { h.openGateway(v, a) })
	s.time.at(g.begins, h.translates)
}

// openGateway: the address is there.
func (h *host) openGateway(v *service, a *address) {
	if h.frozen {
		h.sim.time.after(sec, func() { h.openGateway(v, a) })
		return
	}
	i := h.region.instanceOf(v, h, a)
	h.gateway.own = i
	h.sim.rivals.begins(i)
	h.appeared(i)
}

// translates is the moment of the first translated connections; more follow at once. Now and then the exporter dies before it can tell.
func (h *host) translates() {
	s, g := h.sim, h.gateway
	if h.frozen || g.own == nil {
		s.time.after(100*ms, h.translates)
		return
	}
	g.began, g.begins = true, s.time.now
	for n := range int64(8) {
		s.time.after(n*n*4*ms, func() {
			if local := h.container(); local != nil && !s.ending && !h.frozen {
				h.translated(local, s.time.now, s.time.now+s.between(ms, 20*ms))
			}
		})
	}
	if s.cfg.faults.exporter && s.chance(0.2) {
		s.time.after(s.between(0, sec), h.crash)
	}
}

// container is one on the host's bridge.
func (h *host) container() *instance {
	first := h.sim.rng.IntN(max(1, len(h.instances)))
	for n := range h.instances {
		if i := h.instances[(first+n)%len(h.instances)]; i.address.kind == bridged && i.alive(h.sim.time.now) {
			return i
		}
	}
	return nil
}

// checkGateway is what comes before a watermark: the exporter reads what connection tracking has told, and claims an address that stands for others no more, as of the check before.
func (h *host) checkGateway() {
	g := h.gateway
	if g == nil {
		return
	}
	if g.began && !g.known {
		g.known = true
		if g.own.claimed != 0 {
			h.releaseFor(g.own, g.checked, flowv1.ReleaseReason_RELEASE_REASON_SHARED)
		}
	}
	g.checked = h.sim.time.now - sharedEdge
}

// goesOut: half of a container's connections are translated, once its host does so.
func (h *host) goesOut(local *instance) bool {
	s, g := h.sim, h.gateway
	if g == nil || !g.began || s.chance(0.5) {
		return false
	}
	if from, to := max(h.lastSeal, g.begins, local.born+ms, h.thawed), min(s.time.now, local.died); from < to {
		start := s.between(from, to)
		h.translated(local, start, min(to, start+s.between(500_000, 40*ms)))
	}
	return true
}

// translated is a connection between a container behind the gateway and somebody elsewhere, who sees the gateway's address and a port that is the masquerade's or a published one. Only where both
// records come to one region is there anything that names the container.
func (h *host) translated(local *instance, start, end int64) {
	s, g := h.sim, h.gateway
	v := local.service.uses[s.rng.IntN(len(local.service.uses))]
	if len(v.members) == 0 {
		return
	}
	remote := v.members[s.rng.IntN(len(v.members))]
	if remote.idle || remote.lost || remote.address.kind == bridged || remote.host == h || remote.host.frozen || remote.born+ms > start || remote.died < end {
		return
	}
	role, outside := uint32(flow.RoleClient), g.nextPort()
	if s.chance(0.3) {
		role, outside = flow.RoleServer, 443
	}
	apart, port := s.between(50_000, ms), uint16(s.between(0, 20000))
	x := row{
		flow: s.newFlow(truth{remote: remote}), kind: flow.KindClosed, role: role, local: local, remote: remote.address, start: start, begin: start, end: end, rx: 1000, rxSegs: 8,
		known: g.own.address, knownPort: outside,
	}
	x.ports(port, local, remote, role)
	if !h.down {
		h.pending = append(h.pending, x)
	}
	there := remote.host
	if there.down {
		return
	}
	y := row{
		flow: s.newFlow(truth{remote: local, behind: true, alone: !s.cfg.pairs || h.down || h.frozen}), kind: flow.KindClosed, role: flow.RoleClient + flow.RoleServer - role, local: remote, remote: g.own.address,
		localPort: x.peerPort, peerPort: outside, start: start + apart, begin: start + apart, end: end + apart, rx: 1000, rxSegs: 8,
	}
	there.pending = append(there.pending, y)
}

// nextPort is one that the masquerade takes.
func (g *gateway) nextPort() uint16 {
	if g.port++; g.port < 1024 {
		g.port = 1024
	}
	return g.port
}
