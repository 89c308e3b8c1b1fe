package main

import (
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// truth is what a flow's records should say about their remote end.
type truth struct {
	remote    *instance // nil if nobody had the address
	neighbour *instance // who had it before, where nobody has it
	distance  int64     // and how long before
	silent    bool      // an attempt towards a host that stands still
	behind    bool      // the remote end is behind a gateway, whose address the record has
	alone     bool      // and nobody's record says so: any other name is wrong, none is right
}

// row is one record as the exporter has it, in true time.
type row struct {
	flow                uint64
	seq, kind, role     uint32
	local               *instance
	remote              *address
	localPort, peerPort uint16
	start, begin, end   int64
	rx                  uint64
	rxSegs              uint32
	found               bool     // by the inventory: its start was not observed
	known               *address // what the other end knows the local one by, if its host translates it
	knownPort           uint16
}

// sealed is a batch on its way.
type sealed struct {
	wire *flowv1.Batch
	rows []row
	met  bool
}

func (s *sim) newFlow(t truth) uint64 {
	s.flows = append(s.flows, t)
	return uint64(len(s.flows) - 1)
}

// traffic makes the connections that a host's exporter has seen since its last batch.
func (h *host) traffic() {
	s := h.sim
	if s.ending || h.down {
		h.lastSeal = s.time.now
		return
	}
	for h.quota += s.cfg.rowsPerTick; h.quota >= 1; h.quota-- {
		if len(h.instances) == 0 {
			break
		}
		local := h.instances[s.rng.IntN(len(h.instances))]
		if local.idle || local.lost {
			continue
		}
		h.connection(local)
	}
	h.lastSeal = s.time.now
}

// peer chooses who the instance talks to: a neighbour on its bridge, one of a service that it uses, or now and then one that was born or died just
// now.
func (h *host) peer(local *instance) *instance {
	s, r := h.sim, h.region
	if local.address.kind == bridged {
		return h.instances[s.rng.IntN(len(h.instances))]
	}
	late := func(list []*instance) *instance { return list[len(list)-1-s.rng.IntN(min(len(list), 64))] }
	switch x := s.rng.Float64(); {
	case x < 0.05 && len(r.fresh) > 0:
		return late(r.fresh)
	case x < 0.08 && len(r.gone) > 0:
		return late(r.gone)
	}
	v := local.service.uses[s.rng.IntN(len(local.service.uses))]
	if o := s.regions[s.rng.IntN(len(s.regions))]; o != r && s.chance(crossShare*float64(len(s.regions))/float64(len(s.regions)-1)) {
		v = o.services[s.rng.IntN(len(o.services))]
	}
	if len(v.members) == 0 {
		return nil
	}
	return v.members[s.rng.IntN(len(v.members))]
}

// reaches: what is on a bridge talks to its neighbours there.
func (i *instance) reaches(o *instance) bool {
	return i.address.kind == o.address.kind || i.address.kind != bridged && o.address.kind != bridged
}

// connection makes one connection of an instance, as its exporter and its peer's see it.
func (h *host) connection(local *instance) {
	s := h.sim
	role := uint32(flow.RoleClient)
	if s.chance(0.5) {
		role = flow.RoleServer
	}
	if local.address.kind != bridged && s.chance(0.01) {
		h.nobody(local)
		return
	}
	if local.address.kind == bridged && h.goesOut(local) {
		return
	}
	remote := h.peer(local)
	if remote == nil || remote == local || remote.idle || !local.reaches(remote) {
		return
	}
	if remote.host.frozen && remote.died == forever {
		if s.chance(0.1) {
			h.attempt(local, remote)
		}
		return
	}
	from := max(h.lastSeal, local.born+ms, remote.born+ms, h.thawed, remote.host.thawed)
	to := min(s.time.now, local.died, remote.died)
	if remote.lost || from >= to {
		return
	}
	start := s.between(from, to)
	end := min(to, start+s.between(500_000, 40*ms))
	if s.chance(0.02) {
		s.lasting(local, remote, role, start)
		return
	}
	// The server sees the connection a little later than the client.
	port, apart := uint16(s.between(0, 20000)), s.between(50_000, ms)
	peerStart, peerEnd := start+apart, end+apart
	if role == flow.RoleServer {
		peerStart, peerEnd = start-apart, end-apart
	}
	h.report(local, remote, role, port, start, end)
	if f := h.region.forger; f != nil && s.chance(0.01) {
		f.impersonate(local, remote, role, port, start, end)
	}
	if s.cfg.pairs {
		remote.host.report(remote, local, flow.RoleClient+flow.RoleServer-role, port, peerStart, max(peerStart, peerEnd))
	} else {
		s.rivals.beat(remote, peerStart, peerEnd)
	}
}

// report adds the record of one end.
func (h *host) report(local, remote *instance, role uint32, port uint16, start, end int64) {
	s := h.sim
	if h.frozen || h.down {
		return
	}
	id := s.newFlow(truth{remote: remote})
	x := row{flow: id, kind: flow.KindClosed, role: role, local: local, remote: remote.address, start: start, begin: start, end: end, rx: 1000, rxSegs: 8}
	x.ports(port, local, remote, role)
	h.pending = append(h.pending, x)
	s.rivals.beat(local, start, end)
}

// ports: a server's port is well known, a client's is not; both lie in the block where an end has only a part of its address. n is
// the client's choice.
func (x *row) ports(n uint16, local, remote *instance, role uint32) {
	port := func(i *instance, server bool) uint16 {
		switch {
		case i.address.from != 0 && server:
			return i.address.from
		case i.address.from != 0:
			return i.address.from + 1 + n%99
		case server:
			return 8080
		}
		return 40000 + n
	}
	x.localPort, x.peerPort = port(local, role == flow.RoleServer), port(remote, role != flow.RoleServer)
}

// nobody is an attempt towards an address that its owner lost a moment ago.
func (h *host) nobody(local *instance) {
	s, r := h.sim, h.region
	if len(r.gone) == 0 {
		return
	}
	was := r.gone[len(r.gone)-1-s.rng.IntN(min(len(r.gone), 32))]
	if was.address.holder != was || was.address.kind != plain || was.died > s.time.now {
		return
	}
	start := s.between(max(h.lastSeal, was.died, local.born+ms), s.time.now)
	if start > s.time.now {
		return
	}
	id := s.newFlow(truth{neighbour: was, distance: start - was.died})
	x := row{flow: id, kind: flow.KindFailed, role: flow.RoleClient, local: local, remote: was.address, start: start, begin: start, end: s.time.now}
	x.ports(uint16(s.between(0, 20000)), local, was, flow.RoleClient)
	h.pending = append(h.pending, x)
}

// attempt is one towards an instance whose host stands still.
func (h *host) attempt(local, remote *instance) {
	s := h.sim
	start := s.between(max(h.lastSeal, local.born), s.time.now)
	if start < remote.born {
		return
	}
	id := s.newFlow(truth{remote: remote, silent: true})
	x := row{flow: id, kind: flow.KindFailed, role: flow.RoleClient, local: local, remote: remote.address, start: start, begin: start, end: s.time.now}
	x.ports(uint16(s.between(0, 20000)), local, remote, flow.RoleClient)
	h.pending = append(h.pending, x)
}

// seal makes batches of what is pending and sends them.
func (h *host) seal() {
	if h.down {
		h.pending = nil
		return
	}
	for len(h.pending) > 0 {
		n := min(len(h.pending), 4096)
		x := &sealed{rows: append([]row(nil), h.pending[:n]...)}
		h.pending = append(h.pending[:0], h.pending[n:]...)
		for i := range x.rows {
			h.addRow(&x.rows[i])
		}
		h.seq++
		columns, rows := h.builder.Seal(nil)
		x.wire = &flowv1.Batch{
			ExporterId: h.exporterID(), BatchSeq: h.seq, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns,
			Host: h.name, BootId: h.name, SealedTimeNs: h.clock(h.sim.time.now),
		}
		h.unacked[h.seq] = x
		h.order = append(h.order, h.seq)
		h.ship(x)
	}
}

func (h *host) addRow(x *row) {
	w := h.builder
	w.AddRow()
	w.Set64(flow.FlowID, x.flow)
	w.Set32(flow.RecordSeq, x.seq)
	w.Set32(flow.Kind, x.kind)
	w.Set32(flow.Role, x.role)
	w.Set64(flow.StartTimeNs, uint64(h.clock(x.start)))
	w.Set64(flow.IntervalStartNs, uint64(h.clock(x.begin)))
	w.Set64(flow.EndTimeNs, uint64(h.clock(x.end)))
	w.SetText(flow.Network, x.remote.network)
	w.SetAddr(flow.LocalAddr, x.local.address.addr)
	w.SetAddr(flow.RemoteAddr, x.remote.addr)
	w.Set32(flow.LocalPort, uint32(x.localPort))
	w.Set32(flow.RemotePort, uint32(x.peerPort))
	w.Set64(flow.RxBytes, x.rx)
	w.Set64(flow.TxBytes, 1000)
	w.Set32(flow.RxSegs, x.rxSegs)
	w.Set32(flow.TxSegs, 8)
	if !x.found {
		w.Set32(flow.StartObserved, 1)
	}
	if x.known != nil {
		w.SetAddr(flow.NatLocalAddr, x.known.addr)
		w.Set32(flow.NatLocalPort, uint32(x.knownPort))
	}
	w.SetText(flow.LocalWorkload, x.local.service.name)
	w.SetText(flow.LocalInstance, x.local.name)
	w.Set32(flow.LocalEvidence, flow.EvidenceNetns)
}

// ship sends a batch, once or twice.
func (h *host) ship(x *sealed) {
	s, n, run, l := h.sim, h.node, h.exporterID(), h.stream.life
	if !h.stream.up {
		return // with the next connection
	}
	h.region.byExporter[run] = h
	era := n.era
	arrive := func() {
		if era == n.era && !n.down {
			n.take(h, run, l, x)
		}
	}
	s.time.after(s.latency(), arrive)
	if s.cfg.faults.repeat && s.chance(0.01) {
		s.time.after(s.latency(), arrive)
	}
}

// acked forgets a batch.
func (h *host) acked(seq uint64) {
	delete(h.unacked, seq)
	for len(h.order) > 0 && h.unacked[h.order[0]] == nil {
		h.order = h.order[1:]
	}
}
