package session

import (
	"hash/fnv"
	"io"
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
	Refused        // by the table, or the exporter_id is somebody else's
)

// turn makes stream the exporter's newest, if it is newer, and says whether messages of it count. who has opened it, as far as the message says: only a
// hello and a repeated set do, and where the exporter is known to be somebody's nothing else makes a stream the newest. The caller holds the exporter's lock.
func (b *Book) turn(e *exporter, stream int64, who Identity) Result {
	switch {
	case stream <= 0, stream < e.stream, stream == e.stream && e.local:
		return Stale
	case stream == e.stream && who == (Identity{}):
		return Applied
	case !e.owner.Take(who):
		return Refused
	}
	if stream > e.stream {
		b.begin(e, stream, false)
	}
	return Applied
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
	if result := b.turn(e, c.GetStream(), identityFrom(first.GetIdentity())); result != Applied {
		return result
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
	if result := b.turn(e, w.GetStream(), Identity{}); result != Applied {
		return result
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

// Owned is an exporter_id that belongs to somebody, for a snapshot.
type Owned struct {
	ExporterID string `json:"exporter_id"`
	Identity   []byte `json:"identity"`
	Stream     int64  `json:"stream"` // the newest
}

// Owned are the exporter_ids that belong to somebody.
func (b *Book) Owned() []Owned {
	b.mu.Lock()
	all := b.exporters.Values()
	b.mu.Unlock()
	var out []Owned
	for _, e := range all {
		e.mu.Lock()
		if who := e.owner.identity; who != (Identity{}) && e.stream != latest {
			out = append(out, Owned{e.id, who.bytes(), e.stream})
		}
		e.mu.Unlock()
	}
	return out
}

// RestoreOwner takes an owner out of a snapshot, after the exporter's claims. One without claims has nothing that another could take.
func (b *Book) RestoreOwner(o *Owned) {
	e := b.peek(o.ExporterID)
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.owner.Take(identityFrom(o.Identity)) && o.Stream > e.stream {
		b.begin(e, o.Stream, false)
	}
}

// Repeat publishes the whole sets of the exporters whose streams are at this node, of one share of them: call it with every share in turn. A
// node that starts reads these, and need not read back to where each exporter connected.
func (b *Book) Repeat(share, shares int, now int64) {
	b.mu.Lock()
	all := b.exporters.Values()
	b.mu.Unlock()
	for _, e := range all {
		if shareOf(e.id, shares) == share {
			b.RepeatOne(e.id, now)
		}
	}
}

// shareOf spreads exporters evenly, and the same in every run of a simulation.
func shareOf(id string, shares int) int {
	h := fnv.New64a()
	_, _ = io.WriteString(h, id) // a hash takes everything
	return int(h.Sum64() % uint64(shares))
}

// RepeatOne publishes the whole set of one exporter, if its stream is at this node.
func (b *Book) RepeatOne(id string, now int64) {
	e := b.peek(id)
	if e == nil {
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
	b.publish(e, &flowv1.OwnershipStep{ReceivedNs: now, Ownership: set, RepeatedSet: true, Identity: e.owner.identity.bytes()})
}
