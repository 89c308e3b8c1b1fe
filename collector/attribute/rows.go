package attribute

import (
	"strings"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// row names one row's remote end as well as is known now, and says whether it is worth waiting for better.
func (s *scratch) row(row int, round uint32) (waits bool) {
	at := s.moment(row)
	if at > s.v.Now()+int64(s.a.cfg.MaxAhead) || s.slack > int64(s.a.cfg.MaxAhead) {
		s.leave(row, flow.WhyClock, round)
		return false
	}
	x := s.sight(row)
	var claim ownership.Answer
	var n name
	var why uint32
	if s.b.Get32(flow.Kind, row) == flow.KindRollup {
		claim = s.wholeTime(row, &x)
		n, why = name{claim.Owner, evidenceOf(claim.Owner)}, whyOf[claim.Why]
	} else {
		claim = s.claim(row, &x, at)
		n, why = s.named(row, &x, claim)
		peer, by, seen := s.a.mirror.find(&x, s.tol)
		if seen {
			s.put(flow.PeerObserved, row, flow.PeerYes)
		}
		if peer != nil {
			s.compare(row, &x, peer, by, n)
			s.settle(row, &x, name{peer, flow.EvidenceMirror}, round)
			return false
		}
		if !seen && claim.Owner == nil && s.mirrorMayCome(row, &x, claim.Why) {
			claim.Wait = true
		}
		if seen && claim.Owner == nil && !claim.Wait {
			s.unnamed++
		}
	}
	switch {
	case n.owner != nil:
		s.settle(row, &x, n, round)
		return false
	case claim.Wait:
		s.leave(row, flow.WhyPending, round)
		return true
	}
	if why == flow.WhyNoEvidence && s.refused(row, &x) {
		why = flow.WhyRefusedClaim
	}
	s.leave(row, why, round)
	if claim.Why == ownership.NoEvidence && s.b.Get32(flow.Kind, row) == flow.KindFailed {
		s.before(row, &x, at)
	}
	return false
}

// refused: there is a claim, but not by one who may make it.
func (s *scratch) refused(row int, x *sight) bool {
	return s.a.cfg.Refused != nil && s.a.cfg.Refused(text(s.b, s.b.Get32(flow.Network, row)), x.remote)
}

// moment is the time that the remote end is looked up at.
func (s *scratch) moment(row int) int64 {
	for _, f := range [...]flow.U64{flow.IntervalStartNs, flow.StartTimeNs, flow.EndTimeNs} {
		if ns := s.b.Get64(f, row); ns != 0 {
			return clampTime(ns) + s.untilAnswer(row)
		}
	}
	return s.b.ReceivedTimeNs
}

// untilAnswer is how long after its first SYN a connection's peer answered, where that is longer than the tolerance: SYNs were lost, and by the time of the
// answer somebody else may have had the address. Whoever answers is the peer.
func (s *scratch) untilAnswer(row int) int64 {
	b := s.b
	if b.Get32(flow.Role, row) != flow.RoleClient || b.Get32(flow.RecordSeq, row) != 0 || b.Get32(flow.StartObserved, row) == 0 {
		return 0
	}
	// connect_us ends when the answer arrived, half a round trip after it was given.
	took := (int64(b.Get32(flow.ConnectUs, row)) - int64(b.Get32(flow.MinRttUs, row))/2) * 1000
	if b.Get32(flow.Kind, row) == flow.KindFailed && b.Get32(flow.CloseReason, row) == flow.CloseRefused {
		took = clampTime(b.Get64(flow.EndTimeNs, row)) - clampTime(b.Get64(flow.StartTimeNs, row))
	}
	if took <= int64(s.a.cfg.Tolerance) {
		return 0
	}
	return took
}

// claim is what the table says about the row's remote end. Three kinds of record need care, because the address may have gone to somebody else
// while the connection was silent: a later record in which nothing was heard, of a flow that is not remembered (this node has just started,
// or was not asked before), is looked up at the flow's start, for a connection never changes its peer; one of a connection that the
// exporter found open has no start to look up; and an attempt that nobody answered says nothing of
// who was there at the edge of a range.
func (s *scratch) claim(row int, x *sight, at int64) ownership.Answer {
	observed := s.b.Get32(flow.StartObserved, row) != 0
	silent := (!observed || s.b.Get32(flow.RecordSeq, row) > 0) && !s.heard(row) && !s.a.flows.Contains(flowKey{x.exporter, x.flow})
	if silent && observed {
		at = x.start
	}
	a := s.lookup(row, x, at)
	switch {
	case a.Owner == nil:
	case silent && !observed:
		return ownership.Answer{Why: ownership.Gap}
	case a.Edge && !s.answered(row):
		return ownership.Answer{Why: ownership.NoEvidence}
	}
	return a
}

// wholeTime is what the table says about the remote end of a row that stands for many connections: its owner, if one had the address all the time.
func (s *scratch) wholeTime(row int, x *sight) ownership.Answer {
	from, to := clampTime(s.b.Get64(flow.IntervalStartNs, row)), clampTime(s.b.Get64(flow.EndTimeNs, row))
	half := (to - from + 1) / 2
	return s.v.Lookup(s.network(row).id, x.remote, x.remotePort, from+half, half+s.tol)
}

// answered: somebody had the address at that moment. A refusal is an answer.
func (s *scratch) answered(row int) bool {
	return s.b.Get32(flow.Kind, row) != flow.KindFailed || s.b.Get32(flow.CloseReason, row) == flow.CloseRefused
}

// heard: the peer itself spoke in the record's interval. Segments alone are no proof: a reset may come from whoever has the address now.
func (s *scratch) heard(row int) bool {
	reason := s.b.Get32(flow.CloseReason, row)
	return s.b.Get64(flow.RxBytes, row) > 0 || reason == flow.CloseFinLocal || reason == flow.CloseFinRemote
}

func (s *scratch) lookup(row int, x *sight, at int64) ownership.Answer {
	net := s.network(row).id
	if l := &s.last; l.valid && l.network == net && l.addr == x.remote && l.answer.HoldsAt(at) {
		return l.answer
	}
	a, foreign := ownership.Answer{}, false
	if r := s.a.cfg.Regions; r != nil {
		a, foreign = r.Lookup(text(s.b, s.b.Get32(flow.Network, row)), x.remote, x.remotePort, at, s.tol)
	}
	switch {
	case foreign:
	case s.here != nil:
		a = s.v.LookupFound(s.here, x.remotePort, at, s.tol)
	default:
		a = s.v.Lookup(net, x.remote, x.remotePort, at, s.tol)
	}
	s.last = lastLookup{net, x.remote, a, true}
	return a
}

// mirrorMayCome: both ends are on this host in a network of its own, so the peer's record is on its way too; or the peer spoke, and claims of its address
// cannot say whose it was, so that there is an exporter that records that end. A failed connection has no peer.
func (s *scratch) mirrorMayCome(row int, x *sight, why ownership.Why) bool {
	return s.v.Now() < s.b.ReceivedTimeNs+int64(s.a.cfg.MirrorWait) && s.b.Get32(flow.Kind, row) != flow.KindFailed &&
		(s.network(row).hostLocal || x.remote == x.local || isLoopback(x.remote) ||
			s.heard(row) && (why == ownership.Clock || why == ownership.Gap || why == ownership.Conflict || why == ownership.Shared))
}

func isLoopback(a ownership.Addr) bool {
	return a.Hi == 0 && (a.Lo == 1 || a.Lo>>24 == 0xffff<<8|127)
}

// compare counts whether the peer, as the record of the exporter by says, is who the ranges name.
func (s *scratch) compare(row int, x *sight, peer *ownership.Owner, by uint64, claimed name) {
	switch {
	case claimed.owner == nil:
		s.alone++
	case claimed.owner.Workload == peer.Workload:
		s.agreed++
	default:
		s.disagreed++
		from, _ := s.a.exporters.Get(by)
		s.a.disagreements.add(&Disagreement{
			EndTimeNs: x.end, Network: strings.Clone(text(s.b, s.b.Get32(flow.Network, row))), Addr: x.remote, Port: x.remotePort,
			Exporter: strings.Clone(s.b.ExporterID), FlowID: x.flow, RecordSeq: s.b.Get32(flow.RecordSeq, row), PeerExporter: from,
			Named: *claimed.owner, Evidence: claimed.evidence, Peer: *peer,
		})
	}
}

// named chooses between what the flow was named before and the claim. While bytes arrive the peer is who it was. Without bytes
// the address may have gone to somebody else under a connection that nobody noticed is dead: then only agreement names it.
func (s *scratch) named(row int, x *sight, claim ownership.Answer) (name, uint32) {
	why := whyOf[claim.Why]
	fresh := name{claim.Owner, evidenceOf(claim.Owner)}
	if s.b.Get32(flow.RecordSeq, row) == 0 {
		return fresh, why
	}
	kept, ok := s.a.flows.Get(flowKey{x.exporter, x.flow})
	switch {
	case !ok:
		return fresh, why
	case s.b.Get64(flow.RxBytes, row) > 0 || s.b.Get32(flow.RxSegs, row) > 0:
		s.kept++
		return kept, flow.WhyNamed
	case claim.Owner != nil && (claim.Owner.Workload != kept.owner.Workload || claim.Owner.Instance != kept.owner.Instance):
		return name{}, flow.WhyGap
	}
	return fresh, why
}

func evidenceOf(o *ownership.Owner) uint32 {
	if o != nil && o.Assigned {
		return flow.EvidenceAssignment
	}
	return flow.EvidenceClaim
}

// settle writes a name and remembers it for the flow's later records.
func (s *scratch) settle(row int, x *sight, n name, round uint32) {
	b, t := s.b, s.ownerText(n.owner)
	b.U32[flow.RemoteWorkload][row] = t.workload
	b.U32[flow.RemoteInstance][row] = t.instance
	s.put(flow.RemoteZone, row, t.zone)
	s.put(flow.RemoteRegion, row, t.region)
	s.put(flow.RemoteRelease, row, t.release)
	b.U32[flow.RemoteEvidence][row] = n.evidence
	b.U32[flow.RemoteWhy][row] = flow.WhyNamed
	b.U32[flow.Version][row] = version(localEvidence(b, row), n.evidence, round)
	key := flowKey{x.exporter, x.flow}
	switch kind := b.Get32(flow.Kind, row); {
	case kind == flow.KindRollup: // its flow_id is one of many
	case kind == flow.KindActive:
		s.a.flows.Add(key, n)
	case b.Get32(flow.RecordSeq, row) > 0:
		s.a.flows.Remove(key)
	}
}

// leave writes why a row has no name.
func (s *scratch) leave(row int, why, round uint32) {
	b := s.b
	b.U32[flow.RemoteWhy][row] = why
	b.U32[flow.Version][row] = version(localEvidence(b, row), flow.EvidenceNone, round)
}

// before notes who had the address last, on a failed record without an answer.
func (s *scratch) before(row int, x *sight, at int64) {
	o, seen := s.v.Before(s.network(row).id, x.remote, x.remotePort, at)
	if o == nil {
		return
	}
	s.put(flow.RemoteLastWorkload, row, s.text(o.Workload))
	s.put(flow.RemoteLastInstance, row, s.text(o.Instance))
	if s.b.U64[flow.RemoteLastSeenNs] == nil {
		s.b.Make64(flow.RemoteLastSeenNs)
	}
	s.b.U64[flow.RemoteLastSeenNs][row] = uint64(seen)
}
