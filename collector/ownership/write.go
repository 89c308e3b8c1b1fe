package ownership

import "math"

// Claim opens a range. now is the collector's clock. A claim that repeats what is known changes nothing but the count that
// tells a shared address from a conflict; the same exporter's claim for another owner ends its open range; a claim that starts
// after the watermark of its own open range (the host was frozen, the address was away) leaves a hole between the two.
func (t *Table) Claim(c *Claim, now int64) error {
	if r := t.checkClaim(c, now); r != 0 {
		return t.refuse(r, "claim")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x, ok := t.internExporter(c.Exporter, c.Host)
	if !ok {
		return t.refuse(NamesFull, "claim")
	}
	t.touch(x, now)
	e := &t.mine
	t.load(c.Network, c.Addr, e)
	m, reason := t.meet(c, x, e)
	if reason != 0 {
		return t.refuse(reason, "claim")
	}
	if m.repeat {
		t.stats.repeats.Add(1)
		return nil
	}
	before := t.liveRanges
	if reason := t.makePlace(e, x, now); reason != 0 {
		return t.refuse(reason, "claim")
	}
	if t.liveRanges != before {
		m, _ = t.meet(c, x, e) // what it met may be what was forgotten
	}
	if reason := t.open(c, x, e, m); reason != 0 {
		return t.refuse(reason, "claim")
	}
	t.stats.claims.Add(1)
	if t.exporters.at(x).barred.Load() {
		t.stats.refused[BadClock].Add(1)
	}
	return nil
}

// whole cuts a time to what the table keeps; none is 0.
func whole(ns int64) int64 { return max(ns-ns%tick, tick) }

func (t *Table) refuse(r Reason, what string) error {
	t.stats.refused[r].Add(1)
	return &RefusedError{r, what}
}

func (t *Table) checkClaim(c *Claim, now int64) Reason {
	switch {
	case !t.nameOK(c.Exporter, false), !t.nameOK(c.Host, true), !t.nameOK(c.Network, false), !t.ownerOK(&c.Owner):
		return BadName
	case !unicast(c.Addr):
		return BadAddress
	case !portsOK(c.PortFrom, c.PortTo):
		return BadPorts
	case c.From <= 0:
		return BadTime
	case c.From > now+int64(t.cfg.MaxAhead), c.From/tick > latestFrom:
		return FromFuture
	}
	return 0
}

func portsOK(from, to uint16) bool { return from == 0 && to == 0 || from > 0 && to >= from }

// unicast refuses what cannot be one host's address: a claim of 0.0.0.0 or :: is how a careless "everything" looks.
func unicast(a Addr) bool {
	if a.Hi == 0 && a.Lo>>32 == 0xffff {
		v4 := uint32(a.Lo)
		return v4>>24 != 0 && v4>>28 != 0xe && v4 != 0xffffffff
	}
	return (a.Hi != 0 || a.Lo != 0) && a.Hi>>56 != 0xff
}

// touch notes that the exporter is alive without moving its watermark, for one that has none yet.
func (t *Table) touch(x uint32, now int64) {
	if s := t.exporters.at(x); s.verified.Load() == 0 && s.advanced.Load() == 0 {
		s.advanced.Store(now)
	}
}

// meeting is what a claim finds of the same exporter, address and ports.
type meeting struct {
	repeat bool  // nothing new
	old    int   // which open range the new one ends, or -1
	from   int64 // where the new one begins: not before the last one ended
}

func (t *Table) meet(c *Claim, x uint32, e *entry) (meeting, Reason) {
	from := whole(c.From)
	m := meeting{from: from, old: -1}
	owner, known := t.ownerIDs[c.Owner]
	for i := range e.pieces {
		p := &e.pieces[i]
		if p.exporter != x || p.ports != packPorts(c.PortFrom, c.PortTo) {
			continue
		}
		if known && p.owner == owner && within(from, p.from, t.endOf(p), p.to == open) {
			if p.flags.claims() < maxClaims {
				p.flags += oneClaim
				t.save(e)
			}
			m.repeat = true
			return m, 0
		}
		if p.to == open {
			m.old = i
		} else {
			m.from = max(m.from, p.to)
		}
	}
	if m.old < 0 || from >= e.pieces[m.old].from {
		return m, 0
	}
	// An older claim than the open range: the same owner's adds nothing that may be trusted, another owner's would rewrite history.
	if m.repeat = known && e.pieces[m.old].owner == owner; m.repeat {
		return m, 0
	}
	return m, OutOfOrder
}

// within tells a repeated claim: one that starts inside a range that is known. An ended range may be claimed anew from its end.
func within(at, from, end int64, isOpen bool) bool {
	return at == from || at > from && (at < end || isOpen && at == end)
}

func (t *Table) endOf(p *piece) int64 {
	if p.to != open {
		return p.to
	}
	return max(p.from, t.exporters.at(p.exporter).verified.Load())
}

// open adds the new range and ends the exporter's old one. The table has room.
func (t *Table) open(c *Claim, x uint32, e *entry, m meeting) Reason {
	net, ok := t.internNetwork(c.Network)
	if !ok {
		return NamesFull
	}
	owner, ok := t.internOwner(c.Owner)
	if !ok {
		if t.networkRefs[net].entries == 0 {
			t.networkRefs[net].entries++
			t.dropNetwork(net)
		}
		return NamesFull
	}
	e.net = net // an entry that is not there yet may be the network's first
	if m.old >= 0 {
		t.supersede(&e.pieces[m.old], owner, m.from)
	}
	t.owners.refs[owner]++
	t.exporters.refs[x]++
	t.liveRanges++
	e.add(piece{from: m.from, to: open, owner: owner, exporter: x, flags: oneClaim, ports: packPorts(c.PortFrom, c.PortTo)})
	t.save(e)
	return 0
}

// supersede ends the range that the exporter's own new claim replaces: where its watermark left it, and not after the new one's
// start. For another owner that is a release; for the same owner a hole.
func (t *Table) supersede(old *piece, owner uint32, from int64) {
	end := min(from, t.endOf(old))
	if old.owner != owner {
		old.flags |= released
	}
	old.flags, old.to = old.flags.withLoose(from-end), end
}

// load takes apart what is known of an address; nothing, where it is not in the table.
func (t *Table) load(network string, a Addr, e *entry) {
	e.net, e.addr, e.lost, e.pieces = uint32(t.Network(network)), a, 0, e.room[:0]
	var ref uint32
	if e.slot, ref = t.slotOf(e.net, a); e.slot != noSlot {
		e.read(t.log.at(ref))
	}
}

// save puts an entry in the place of the one it was loaded from, and one that has no range left out of the table.
func (t *Table) save(e *entry) {
	ix := t.index.Load()
	if e.slot != noSlot {
		ref := ix.at(e.slot) >> tagBits
		_, _, _, size := t.log.at(ref).shape()
		t.log.count(ref, -size)
	}
	switch {
	case len(e.pieces) == 0:
		ix.set(e.slot, slotGone)
		e.slot = noSlot
		t.addresses--
		t.dropNetwork(e.net)
	case e.slot == noSlot:
		t.networkRefs[e.net].entries++
		t.addresses++
		t.words = e.pack(t.words)
		e.slot = t.insert(e.net, e.addr, t.log.append(t.words))
	default:
		t.words = e.pack(t.words)
		ix.set(e.slot, ix.at(e.slot)&tagMask|t.log.append(t.words)<<tagBits)
	}
	for _, owner := range t.parting {
		t.dropOwner(owner)
	}
	t.parting = t.parting[:0]
	t.tidy()
}

// Release closes the exporter's open range of the address and ports at the last moment that was verified. now is the collector's clock. The end
// was noticed some time between the two: a fraction of a second where all is well, more after a host froze or a stream was cut. For that
// time nobody knows whether the owner was still there.
func (t *Table) Release(r *Release, now int64) error {
	switch {
	case !unicast(r.Addr):
		return t.refuse(BadAddress, "release")
	case !portsOK(r.PortFrom, r.PortTo):
		return t.refuse(BadPorts, "release")
	case r.At <= 0 && !r.Absent:
		return t.refuse(BadTime, "release")
	case r.At > now+int64(t.cfg.MaxAhead):
		return t.refuse(FromFuture, "release")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x, e := t.exporterIDs[r.Exporter], &t.mine
	t.load(r.Network, r.Addr, e)
	for i := range e.pieces {
		p := &e.pieces[i]
		if p.exporter != x || p.ports != packPorts(r.PortFrom, r.PortTo) || p.to != open {
			continue
		}
		at := whole(r.At)
		if at < p.from && !r.Absent {
			return t.refuse(ToBeforeFrom, "release") // of an earlier range: it came late, or twice
		}
		p.to = max(at, p.from)
		p.flags = (p.flags | released).withLoose(noticed(r, whole(now)-p.to))
		t.save(e)
		t.stats.releases.Add(1)
		return nil
	}
	return t.refuse(UnknownRange, "release")
}

// noticed is how loose a release leaves the end of a range. One by a whole set says nothing of when its owner went, or why; and of an address that stands for others
// from now on nothing says who spoke under it after the end.
func noticed(r *Release, after int64) int64 {
	switch {
	case r.Shared:
		return math.MaxInt64
	case r.Absent:
		return max(after, longestLinger+1)
	}
	return after
}

// Watermark moves an exporter's open ranges on. A watermark that does not advance changes nothing, not even the exporter's
// being alive: it stands still.
func (t *Table) Watermark(w *Watermark) error {
	switch {
	case !t.nameOK(w.Exporter, false), !t.nameOK(w.Host, true):
		return t.refuse(BadName, "watermark")
	case w.VerifiedTo <= 0, !clockOK(w.ClockNs):
		return t.refuse(BadTime, "watermark")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x, ok := t.internExporter(w.Exporter, w.Host)
	if !ok {
		return t.refuse(NamesFull, "watermark")
	}
	t.noteClock(x, w.ReceivedAt, w.ClockNs)
	if w.VerifiedTo > w.ReceivedAt+int64(t.cfg.MaxAhead) {
		return t.refuse(FromFuture, "watermark")
	}
	t.stats.watermarks.Add(1)
	s := t.exporters.at(x)
	if to := whole(w.VerifiedTo); to > s.verified.Load() {
		// Alive before verified: the other order shows a reader an advanced watermark of an exporter that stands still.
		s.advanced.Store(max(w.ReceivedAt, s.advanced.Load()))
		s.verified.Store(to)
	}
	s.vouch()
	return nil
}

// Seen says that an exporter has connected: until its first watermark, or until it counts as standing still, look-ups wait for
// what it may claim. clockNs is its clock when it sent this, 0 if unknown.
func (t *Table) Seen(exporter, host string, clockNs, now int64) error {
	switch {
	case !t.nameOK(exporter, false), !t.nameOK(host, true):
		return t.refuse(BadName, "exporter")
	case !clockOK(clockNs):
		return t.refuse(BadTime, "exporter")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	x, ok := t.internExporter(exporter, host)
	if !ok {
		return t.refuse(NamesFull, "exporter")
	}
	t.touch(x, now)
	t.noteClock(x, now, clockNs)
	return nil
}
