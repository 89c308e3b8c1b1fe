package main

import (
	"fmt"

	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// grants are a region's claims_allowed: its hosts may claim for its own workloads, in the shared network and on their own bridges; the forger for
// workloads that there are not.
func (r *region) grants() session.Grants {
	return session.Grants{
		{Identity: r.name + "-h*", Networks: []string{"default", r.name + "-h*"}, Workloads: []string{fmt.Sprintf("r%d/*", r.number)}},
		{Identity: r.name + "-f*", Workloads: []string{"forger/*"}},
	}
}

// newForger makes a host that has nobody's addresses and claims everybody's.
func (r *region) newForger() *host {
	h := r.sim.newHost(r, len(r.hosts))
	h.name = r.name + "-f0"
	r.sim.every(200*ms, func() { h.forge() })
	return h
}

// forge claims addresses of others, present and past ones, and says that others' claims are over.
func (h *host) forge() {
	s, r := h.sim, h.region
	from := r.hosts[s.rng.IntN(len(r.hosts))].instances
	if s.chance(0.3) {
		from = r.gone
	}
	if len(from) == 0 {
		return
	}
	x := from[s.rng.IntN(len(from))]
	a, now := x.address, h.clock(s.time.now)
	h.send(tell(&flowv1.Ownership{
		Claims: []*flowv1.Claim{{
			Network: a.network, Addr: a.addr[:], PortFrom: uint32(a.from), PortTo: uint32(a.to), Workload: fmt.Sprintf("r%d/forged", r.number), Instance: "forged-1",
			Evidence: flowv1.Evidence_EVIDENCE_NETNS, FromNs: now - s.between(0, 60*sec),
		}},
		Releases: []*flowv1.Release{{
			Network: a.network, Addr: a.addr[:], PortFrom: uint32(a.from), PortTo: uint32(a.to), Workload: x.service.name, Instance: x.name, AtNs: now,
			Reason: flowv1.ReleaseReason_RELEASE_REASON_GONE,
		}},
	}))
}

// impersonate reports the peer's record of a connection under a false name: a mirror that must not name anybody.
func (h *host) impersonate(local, remote *instance, role uint32, port uint16, start, end int64) {
	s := h.sim
	id := s.newFlow(truth{remote: local})
	impostor := &instance{service: &service{name: fmt.Sprintf("r%d/forged", h.region.number)}, name: "forged-1", host: h, address: remote.address}
	x := row{
		flow: id, kind: flow.KindClosed, role: flow.RoleClient + flow.RoleServer - role, local: impostor, remote: local.address, start: start, begin: start, end: end,
		rx: 1000, rxSegs: 8,
	}
	x.ports(port, remote, local, x.role)
	h.pending = append(h.pending, x)
}
