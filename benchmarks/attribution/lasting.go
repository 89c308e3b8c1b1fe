package main

import "tributary/proto/flow"

// lastingFlow is a connection that lives for a while, as one of its ends sees it.
type lastingFlow struct {
	sim           *sim
	local, remote *instance
	role          uint32
	id            uint64
	run           int
	seq           uint32
	start, last   int64
	due, end      int64
	found         bool
	port          uint16
}

const checkEvery = 5 * sec

// lasting begins a long flow. It is reported after 5 s, then every 30 s, and when it ends.
func (s *sim) lasting(local, remote *instance, role uint32, start int64) {
	end, port := start+s.between(20*sec, 90*sec), uint16(s.between(0, 20000))
	begin := func(local, remote *instance, role uint32) {
		f := &lastingFlow{sim: s, local: local, remote: remote, role: role, run: local.host.run, start: start, last: start, due: start + checkEvery, end: end, port: port}
		f.id = s.newFlow(truth{remote: remote})
		s.time.at(f.due, f.check)
	}
	begin(local, remote, role)
	if s.cfg.pairs {
		begin(remote, local, flow.RoleClient+flow.RoleServer-role)
	}
}

// check reports what is to be reported.
func (f *lastingFlow) check() {
	s, h := f.sim, f.local.host
	now := s.time.now
	if s.ending {
		return
	}
	switch {
	case f.local.lost:
		return
	case h.frozen || h.down:
		s.time.after(sec, f.check)
		return
	case h.run != f.run:
		// A new run of the exporter finds the socket.
		f.run, f.found, f.seq, f.start, f.last, f.due = h.run, true, 0, now, now, now+checkEvery
		f.id = s.newFlow(truth{remote: f.remote})
		s.time.after(checkEvery, f.check)
		return
	}
	peer := f.remote.host
	heard := f.remote.died > f.last && (!peer.frozen && !f.remote.lost || f.last < peer.froze)
	switch holder := f.remote.address.holder; {
	case f.local.died <= now || f.end <= now && heard:
		f.report(flow.KindClosed, max(f.last, min(f.local.died, now)), heard, 0)
		return
	case f.remote.died <= now && !f.remote.lost:
		f.report(flow.KindClosed, max(f.last, f.remote.died), heard, 0)
		return
	case f.remote.lost && holder != f.remote && holder.alive(now) && !holder.host.frozen && s.chance(0.3):
		// What we sent reaches the new owner of the address, who knows nothing of this connection and resets it.
		f.report(flow.KindClosed, now, false, 1)
		return
	case now >= f.due:
		f.report(flow.KindActive, now, heard, 0)
		f.due = now + 30*sec
	}
	s.time.after(checkEvery, f.check)
}

func (f *lastingFlow) report(kind uint32, end int64, heard bool, segs uint32) {
	h := f.local.host
	x := row{
		flow: f.id, seq: f.seq, kind: kind, role: f.role, local: f.local, remote: f.remote.address, start: f.start, begin: f.last, end: end,
		rxSegs: segs, found: f.found,
	}
	if heard {
		x.rx, x.rxSegs = 1000, 8
	}
	x.ports(f.port, f.local, f.remote, f.role)
	f.seq++
	f.last = end
	h.pending = append(h.pending, x)
	if kind == flow.KindClosed {
		f.sim.rivals.beat(f.local, f.start, end)
		f.sim.rivals.beat(f.remote, f.start, min(end, f.remote.died))
	}
}
