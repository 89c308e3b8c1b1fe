package main

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

const (
	delayStep  = 10 * ms
	delaySteps = 12_000
	samples    = 12
	warmUp     = 15 * sec // all collectors start from nothing, at once: how long names took then is not counted
)

// score counts how our rules did.
type score struct {
	rows, named, wrong, pendingNow uint64
	joined                         uint64 // named in the store alone, by the peer's record
	nobody                         uint64 // attempts towards nobody
	silent                         uint64 // attempts towards a host that stands still
	alone                          uint64 // left unnamed of those from behind a gateway that no other record knows of
	noWhy                          uint64
	unnamed                        map[uint32]uint64 // by why; attempts towards nobody are not among them
	silentUnnamed                  uint64
	evidence                       [16]uint64
	byKind                         [numKinds]tally
	reused                         tally
	cross                          tally // towards other regions
	delay                          [delaySteps + 1]uint64
	disagreed                      float64
	rangesWrong                    uint64 // rows named by a mirror that the ranges alone would have named wrong
	refused                        map[string]uint64
	wrongSamples, unnamedSamples   []string
}

func newScore() *score { return &score{unnamed: map[uint32]uint64{}, refused: map[string]uint64{}} }

// batch judges what leaves the collector and says whether it leaves for the first time.
func (k *score) batch(n *node, b *flow.Batch) (first bool) {
	now := n.region.sim.time.now
	first = b.Get32(flow.Version, 0)&0xffffff == 1
	for r := range b.Rows {
		why, key := b.Get32(flow.RemoteWhy, r), rowKey{b.Get64(flow.FlowID, r), b.Get32(flow.RecordSeq, r)}
		before, waited := n.waiting[key]
		at := before.row
		if first {
			at = n.region.store.insert(n, b, r)
		}
		switch {
		case first && (why == flow.WhyPending || why == flow.WhyPeerRegionDown): // it is kept, and comes again
			n.waiting[key] = undecided{row: at, why: why}
			k.pendingNow++
			continue
		case waited:
			delete(n.waiting, key)
		}
		k.row(n, b, r, why, now, at)
	}
	return first
}

// row judges a row that leaves the collector for the last time; at is its place in the store.
func (k *score) row(n *node, b *flow.Batch, r int, why uint32, now int64, at int32) {
	key := rowKey{b.Get64(flow.FlowID, r), b.Get32(flow.RecordSeq, r)}
	t := &n.region.sim.flows[key.flow]
	evidence := b.Get32(flow.RemoteEvidence, r)
	k.rows++
	k.evidence[evidence]++
	isNamed := evidence != flow.EvidenceNone
	if isNamed != (why == flow.WhyNamed) {
		k.noWhy++
	}
	switch {
	case t.remote == nil:
		k.nobodyRow(n, b, r, t, isNamed)
		return
	case t.alone && !isNamed:
		k.alone++
		return
	}
	if t.silent {
		k.silent++
	}
	wrong := isNamed && (b.Text(flow.RemoteWorkload, r) != t.remote.service.name || b.Text(flow.RemoteInstance, r) != t.remote.name)
	tallies := k.talliesOf(n, t)
	for _, x := range tallies {
		x.note(isNamed, wrong)
	}
	left := n.region.store.undecided
	if u, ok := left[key]; ok { // another collector took the same batch in, and has left it
		k.decided(u)
		delete(left, key)
	}
	switch {
	case !isNamed:
		left[key] = undecided{at, why, tallies}
		k.unnamed[why]++
		if t.silent {
			k.silentUnnamed++
		}
		if len(k.unnamedSamples) < samples && !t.silent && why != flow.WhyClock && k.rows%7 == 0 {
			k.unnamedSamples = append(k.unnamedSamples, n.explain(b, r, t))
		}
	case wrong:
		k.wrong++
		k.sample(n, b, r, t)
	default:
		k.named++
		if evidence == flow.EvidenceMirror && b.Get32(flow.RecordSeq, r) == 0 && b.Get32(flow.StartObserved, r) != 0 {
			k.checkRanges(n, b, r, t)
		}
		k.late(now, endOf(n, b, r))
	}
}

// endOf returns when a short connection ended, in virtual time; -1 where the row is not its only record.
func endOf(n *node, b *flow.Batch, r int) int64 {
	if b.Get32(flow.RecordSeq, r) != 0 || b.Get32(flow.Kind, r) != flow.KindClosed {
		return -1
	}
	return int64(b.Get64(flow.EndTimeNs, r)) - epoch - n.region.byExporter[b.ExporterID].clockError
}

// late counts how long after its end a flow got its name; one that ended while the world warmed up does not count.
func (k *score) late(now, end int64) {
	if end >= warmUp {
		k.delay[max(0, min((now-end)/delayStep, delaySteps))]++
	}
}

// talliesOf are those that a row towards somebody counts in.
func (k *score) talliesOf(n *node, t *truth) []*tally {
	tallies := []*tally{&k.byKind[t.kind()]}
	if t.remote.before != nil {
		tallies = append(tallies, &k.reused)
	}
	if t.remote.host.region != n.region {
		tallies = append(tallies, &k.cross)
	}
	return tallies
}

// kind is that of the remote end's address, as the record has it.
func (t *truth) kind() kind {
	if t.behind {
		return behind
	}
	return t.remote.address.kind
}

// checkRanges asks the table for what the mirror has named.
func (k *score) checkRanges(n *node, b *flow.Batch, r int, t *truth) {
	addr := b.Addr(flow.RemoteAddr, r)
	tolerance := n.attr.Tolerance() + n.table.Clock(b.ExporterID).Slack
	a := n.table.View(n.now()).Lookup(n.table.Network(b.Text(flow.Network, r)), ownership.AddrFrom16(&addr), uint16(b.Get32(flow.RemotePort, r)),
		int64(b.Get64(flow.IntervalStartNs, r)), int64(tolerance))
	if a.Owner != nil && (a.Owner.Workload != t.remote.service.name || a.Owner.Instance != t.remote.name) {
		k.rangesWrong++
		k.sample(n, b, r, t)
	}
}

// nobodyRow judges a row whose address had no owner: any name is wrong.
func (k *score) nobodyRow(n *node, b *flow.Batch, r int, t *truth, isNamed bool) {
	k.nobody++
	if isNamed {
		k.wrong++
		k.sample(n, b, r, t)
	}
}

func (k *score) sample(n *node, b *flow.Batch, r int, t *truth) {
	if len(k.wrongSamples) < samples {
		k.wrongSamples = append(k.wrongSamples, n.explain(b, r, t))
	}
}

// explain shows a row, the truth and what the table knows.
func (n *node) explain(b *flow.Batch, r int, t *truth) string {
	at := int64(b.Get64(flow.IntervalStartNs, r))
	s := func(ns int64) string { return fmt.Sprintf("%.3f", float64(ns-epoch)/1e9) }
	addr := b.Addr(flow.RemoteAddr, r)
	net := b.Text(flow.Network, r)
	h := n.region.byExporter[b.ExporterID]
	out := fmt.Sprintf("now %s: %s (clock %+d ms) flow %d/%d %s start %s interval %s end %s rx %d: %s %s %s, evidence %s, why %s; ", s(n.now()), b.ExporterID,
		h.clockError/ms, b.Get64(flow.FlowID, r), b.Get32(flow.RecordSeq, r), flow.KindNames.Name(b.Get32(flow.Kind, r)),
		s(int64(b.Get64(flow.StartTimeNs, r))), s(at), s(int64(b.Get64(flow.EndTimeNs, r))), b.Get64(flow.RxBytes, r), ownership.AddrFrom16(&addr).Netip(),
		b.Text(flow.RemoteWorkload, r), b.Text(flow.RemoteInstance, r), flow.EvidenceNames.Name(b.Get32(flow.RemoteEvidence, r)),
		flow.WhyNames.Name(b.Get32(flow.RemoteWhy, r)))
	if i := t.remote; i != nil {
		out += fmt.Sprintf("truth %s %s on %s (clock %+d ms) from %s to %s", i.service.name, i.name, i.host.name, i.host.clockError/ms, s(epoch+i.born), s(epoch+min(i.died, 9999*sec)))
	} else {
		out += fmt.Sprintf("truth: nobody, %d ms after %s of %s (clock %+d ms)", t.distance/ms, t.neighbour.name, t.neighbour.host.name, t.neighbour.host.clockError/ms)
	}
	v := n.table.View(n.now())
	out += fmt.Sprintf("; horizon %s", s(v.Horizon()))
	for _, x := range v.Ranges(n.table.Network(net), ownership.AddrFrom16(&addr), at-60*sec, at+60*sec) {
		out += fmt.Sprintf("\n      %s by %s [%s, %s] ports %d-%d open %v released %v", x.Owner.Instance, x.Exporter, s(x.From), s(x.To), x.PortFrom, x.PortTo, x.Open, x.Released)
	}
	return out
}

// lostWaiting: what a collector that restarts had handed on as pending stays so.
func (k *score) lostWaiting(n *node) {
	for key, left := range n.waiting {
		if _, ok := n.region.store.undecided[key]; ok {
			continue
		}
		k.rows++
		k.unnamed[left.why]++
		n.region.store.undecided[key] = left
	}
	clear(n.waiting)
}

// met reads the counters of a collector that ends.
func (k *score) met(reg *prometheus.Registry) {
	families, err := reg.Gather()
	if err != nil {
		panic(err)
	}
	for _, f := range families {
		if f.GetName() != "tributary_collector_attribute_mirror_rows_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == "disagreed" {
				k.disagreed += m.GetCounter().GetValue()
			}
		}
	}
}

func (k *score) unnamedTotal() (n uint64) {
	for _, c := range k.unnamed {
		n += c
	}
	return n
}

// delayOf is the delay that a share of the named short flows stays below, in seconds.
func (k *score) delayOf(share float64) float64 {
	var all, sum uint64
	for _, c := range k.delay {
		all += c
	}
	for i, c := range k.delay {
		if sum += c; float64(sum) >= share*float64(all) {
			return float64(int64(i+1)*delayStep) / float64(sec)
		}
	}
	return 0
}
