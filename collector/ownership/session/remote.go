package session

import (
	"hash/maphash"
	"unique"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

// Result is what became of a message of another node.
type Result uint8

// The results.
const (
	Applied Result = iota
	Stale          // of an older stream than the newest
	Refused        // by the table
)

// turn makes stream the exporter's newest, if it is newer, and says whether messages of it count. The caller holds the exporter's lock.
func (b *Book) turn(e *exporter, stream int64) bool {
	if stream <= 0 || stream < e.stream || stream == e.stream && e.local {
		return false
	}
	if stream > e.stream {
		b.begin(e, stream, false)
	}
	return true
}

// Apply takes what an exporter said on a stream at another node. Times are that node's.
func (b *Book) Apply(c *flowv1.ExporterChanges) Result {
	if len(c.GetSteps()) == 0 {
		return Applied
	}
	// A name that the table refuses must not get a book.
	first := c.GetSteps()[0]
	if err := b.table.Seen(c.GetExporterId(), c.GetHost(), first.GetClockNs(), first.GetReceivedNs()); err != nil {
		return Refused
	}
	e := b.get(c.GetExporterId(), c.GetHost(), first.GetReceivedNs())
	e.mu.Lock()
	defer e.mu.Unlock()
	if !b.turn(e, c.GetStream()) {
		return Stale
	}
	for _, step := range c.GetSteps() {
		b.step(e, step)
	}
	return Applied
}

func (b *Book) step(e *exporter, step *flowv1.OwnershipStep) {
	switch m := step.GetOwnership(); {
	case step.GetRepeatedSet():
		for _, c := range m.GetClaims() {
			b.repeated(e, c, step.GetReceivedNs())
		}
		if m.GetFull() {
			b.sweep(e, step.GetReceivedNs(), nobody{})
		}
	case m != nil:
		b.ownership(e, m, step.GetReceivedNs(), nil, nobody{}) // its own node has seen to the grant
	}
}

// repeated takes a claim that was made before. One that is known is not claimed again: how often an address is claimed tells a shared one.
func (b *Book) repeated(e *exporter, m *flowv1.Claim, now int64) {
	k, reason := keyOf(m.GetNetwork(), m.GetAddr(), m.GetPortFrom(), m.GetPortTo())
	if reason != "" {
		return
	}
	known, ok := e.claims[k]
	if !ok || known.from != m.GetFromNs() || known.owner != unique.Make(ownerOf(m)) {
		b.claim(e, m, now, nil)
		return
	}
	known.pass = e.pass
	e.claims[k] = known
}

// Mark takes a watermark of an exporter that speaks with another node.
func (b *Book) Mark(w *flowv1.ExporterWatermark) Result {
	if err := b.table.Seen(w.GetExporterId(), w.GetHost(), 0, w.GetReceivedNs()); err != nil {
		return Refused
	}
	e := b.get(w.GetExporterId(), w.GetHost(), w.GetReceivedNs())
	e.mu.Lock()
	defer e.mu.Unlock()
	if !b.turn(e, w.GetStream()) {
		return Stale
	}
	if b.watermark(e, w.GetVerifiedToNs(), w.GetClockNs(), w.GetReceivedNs()) != nil {
		return Refused
	}
	return Applied
}

// Restore takes an open claim out of a snapshot: the exporter may speak again, here or elsewhere, and leave it out.
func (b *Book) Restore(c *ownership.Claim, verified int64) {
	e := b.get(c.Exporter, c.Host, verified)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.verified = max(e.verified, verified)
	e.claims[key{c.Network, c.Addr.As16(), c.PortFrom, c.PortTo}] = open{pass: e.pass, from: c.From, owner: unique.Make(c.Owner)}
}

// Repeat publishes the whole sets of the exporters whose streams are at this node, of one share of them: call it with every share in turn. A
// node that starts reads these, and need not read back to where each exporter connected.
func (b *Book) Repeat(share, shares int, now int64) {
	b.mu.Lock()
	all := b.exporters.Values()
	b.mu.Unlock()
	for _, e := range all {
		if int(maphash.String(b.seed, e.id)%uint64(shares)) == share {
			b.RepeatOne(e.id, now)
		}
	}
}

// RepeatOne publishes the whole set of one exporter, if its stream is at this node.
func (b *Book) RepeatOne(id string, now int64) {
	b.mu.Lock()
	e, ok := b.exporters.Peek(id)
	b.mu.Unlock()
	if !ok {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.local || !e.whole {
		return
	}
	set := &flowv1.Ownership{Full: true}
	for k, c := range e.claims {
		o := c.owner.Value()
		evidence := flowv1.Evidence_EVIDENCE_NONE
		if o.Assigned {
			evidence = flowv1.Evidence_EVIDENCE_ASSIGNMENT
		}
		set.Claims = append(set.Claims, &flowv1.Claim{
			Evidence: evidence, Network: k.network, Addr: k.addr[:], PortFrom: uint32(k.from), PortTo: uint32(k.to), FromNs: c.from, Workload: o.Workload,
			Instance: o.Instance, InstanceDerived: o.Derived, Zone: o.Zone, Region: o.Region, Release: o.Release,
		})
	}
	b.publish(e, &flowv1.OwnershipStep{ReceivedNs: now, Ownership: set, RepeatedSet: true})
}
