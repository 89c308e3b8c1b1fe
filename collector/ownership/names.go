package ownership

import (
	"sync/atomic"
	"unicode"
	"unicode/utf8"
	"unique"
)

// ownerSlot holds one interned owner. assigned is the owner's, at hand.
type ownerSlot struct {
	owner    atomic.Pointer[Owner]
	assigned atomic.Bool
}

// exporterSlot holds one run of one exporter. A slot is free when who is nil.
type exporterSlot struct {
	who      atomic.Pointer[exporterName]
	verified atomic.Int64 // the watermark
	advanced atomic.Int64 // our clock when the watermark last advanced
	slack    atomic.Int64 // see ClockError, at most widestSlack
	vouched  atomic.Int64 // the watermark in our clock; math.MaxInt64: not to be waited for
	barred   atomic.Bool  // its clock is off beyond MaxClockError: its ranges name nobody
	clock    *clock       // belongs to writers
	_        [8]byte      // a slot is a cache line
}

type exporterName struct{ id, host string }

type networkRef struct {
	name    string
	entries int
}

// NetworkID stands for a network's name in look-ups. 0 is a network that nobody claims in.
type NetworkID uint32

// Network gives the id of a network's name, 0 if no claim has it. Ids of networks that were forgotten are not used again, so
// an old id finds nothing rather than something else.
func (t *Table) Network(name string) NetworkID {
	if v, ok := t.networks.Load(name); ok {
		return NetworkID(v.(uint32))
	}
	return 0
}

// Networks calls f with every network that somebody claims in, in no order, until f returns false.
func (t *Table) Networks(f func(name string, id NetworkID) bool) {
	t.networks.Range(func(name, id any) bool { return f(name.(string), NetworkID(id.(uint32))) })
}

func (t *Table) nameOK(s string, mayBeEmpty bool) bool {
	if s == "" {
		return mayBeEmpty
	}
	if len(s) > t.cfg.MaxNameBytes || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

func (t *Table) ownerOK(o *Owner) bool {
	return t.nameOK(o.Workload, false) && t.nameOK(o.Instance, true) && t.nameOK(o.Zone, true) && t.nameOK(o.Region, true) &&
		t.nameOK(o.Release, true)
}

// clone keeps a name without keeping the message it was cut from; equal names share their bytes.
func clone(s string) string { return unique.Make(s).Value() }

func (t *Table) internOwner(o Owner) (uint32, bool) {
	if id, ok := t.ownerIDs[o]; ok {
		return id, true
	}
	if t.owners.live >= t.cfg.MaxOwners {
		return 0, false
	}
	o.Workload, o.Instance, o.Zone, o.Region, o.Release =
		clone(o.Workload), clone(o.Instance), clone(o.Zone), clone(o.Region), clone(o.Release)
	id := t.owners.alloc()
	s := t.owners.at(id)
	s.assigned.Store(o.Assigned)
	s.owner.Store(&o)
	t.ownerIDs[o] = id
	return id, true
}

// dropOwner frees an owner whose last range is gone. A reader that still looks at a record with such a range sees at the end that another has its place in the index.
func (t *Table) dropOwner(id uint32) {
	if t.owners.refs[id]--; t.owners.refs[id] > 0 {
		return
	}
	s := t.owners.at(id)
	delete(t.ownerIDs, *s.owner.Load())
	s.owner.Store(nil)
	t.owners.release(id)
}

func (t *Table) internExporter(id, host string) (uint32, bool) {
	if n, ok := t.exporterIDs[id]; ok {
		return n, true
	}
	if t.exporters.live >= t.cfg.MaxExporters {
		return 0, false
	}
	name := &exporterName{clone(id), clone(host)}
	n := t.exporters.alloc()
	s := t.exporters.at(n)
	s.verified.Store(0)
	s.advanced.Store(0)
	s.slack.Store(0)
	s.vouched.Store(0)
	s.barred.Store(false)
	s.clock = new(clock)
	s.who.Store(name)
	t.exporterIDs[name.id] = n
	return n, true
}

// dropExporter frees a run that has no ranges left. Callers have checked that it is not alive.
func (t *Table) dropExporter(n uint32) {
	s := t.exporters.at(n)
	delete(t.exporterIDs, s.who.Load().id)
	t.clocks.Delete(s.who.Load().id)
	s.who.Store(nil)
	t.exporters.release(n)
}

func (t *Table) internNetwork(name string) (uint32, bool) {
	if v, ok := t.networks.Load(name); ok {
		return v.(uint32), true
	}
	if len(t.networkRefs) >= t.cfg.MaxNetworks || t.lastNetwork == ^uint32(0) {
		return 0, false
	}
	t.lastNetwork++
	name = clone(name)
	t.networkRefs[t.lastNetwork] = &networkRef{name: name}
	t.networks.Store(name, t.lastNetwork)
	return t.lastNetwork, true
}

func (t *Table) dropNetwork(id uint32) {
	ref := t.networkRefs[id]
	if ref.entries--; ref.entries > 0 {
		return
	}
	t.networks.Delete(ref.name)
	delete(t.networkRefs, id)
}
