package ownership

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
	m, reason := t.meet(c, x)
	if reason != 0 {
		return t.refuse(reason, "claim")
	}
	if m.repeat {
		t.stats.repeats.Add(1)
		return nil
	}
	before := t.liveRanges
	if reason := t.room(c, x, now); reason != 0 {
		return t.refuse(reason, "claim")
	}
	if t.liveRanges != before {
		m, _ = t.meet(c, x) // what it met may be what was forgotten
	}
	if reason := t.open(c, x, m); reason != 0 {
		return t.refuse(reason, "claim")
	}
	t.stats.claims.Add(1)
	if t.exporters.at(x).barred.Load() {
		t.stats.refused[BadClock].Add(1)
	}
	return nil
}

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
	case c.From > now+int64(t.cfg.MaxAhead):
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
	repeat bool   // nothing new
	old    uint32 // the open range that the new one ends, or 0
	from   int64  // where the new one begins: not before the last one ended
}

func (t *Table) meet(c *Claim, x uint32) (meeting, Reason) {
	m := meeting{from: c.From}
	n := t.find(uint32(t.Network(c.Network)), c.Addr)
	if n == 0 {
		return m, 0
	}
	owner, known := t.ownerIDs[c.Owner]
	ports := packLink(c.PortFrom, c.PortTo, 0).ports()
	for i := t.entries.at(n).head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		r := t.node(i)
		w := who(r.who.Load())
		if w.exporter() != x || link(r.link.Load()).ports() != ports {
			continue
		}
		to := r.to.Load()
		if known && w.owner() == owner && within(c.From, r.from.Load(), t.endOf(to, r.from.Load(), x), to == open) {
			t.countClaim(r, w)
			m.repeat = true
			return m, 0
		}
		if to == open {
			m.old = i
		} else {
			m.from = max(m.from, to)
		}
	}
	if m.old == 0 || c.From >= t.node(m.old).from.Load() {
		return m, 0
	}
	// An older claim than the open range: the same owner's adds nothing that may be trusted, another owner's would rewrite history.
	if m.repeat = known && who(t.node(m.old).who.Load()).owner() == owner; m.repeat {
		return m, 0
	}
	return m, OutOfOrder
}

// within tells a repeated claim: one that starts inside a range that is known. An ended range may be claimed anew from its end.
func within(at, from, end int64, isOpen bool) bool {
	return at == from || at > from && (at < end || isOpen && at == end)
}

func (t *Table) endOf(to, from int64, x uint32) int64 {
	if to != open {
		return to
	}
	return max(from, t.exporters.at(x).verified.Load())
}

func (t *Table) countClaim(r *rangeNode, w who) {
	if w.claims() < maxClaims {
		r.who.Store(uint64(w + oneClaim))
	}
}

// open links the new range and ends the exporter's old one. The table has room.
func (t *Table) open(c *Claim, x uint32, m meeting) Reason {
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
	n := t.find(net, c.Addr)
	if n == 0 {
		n = t.newEntry(net, c.Addr)
	}
	if m.old != 0 {
		t.supersede(m.old, owner, m.from, x)
	}
	i := t.newNode(n)
	r := t.node(i)
	r.from.Store(m.from)
	r.to.Store(open)
	r.who.Store(uint64(packWho(owner, x)))
	t.owners.at(owner).refs++
	t.exporters.at(x).refs++
	t.link(t.entries.at(n), i, c.PortFrom, c.PortTo)
	return 0
}

// supersede ends the range that the exporter's own new claim replaces: where its watermark left it, and not after the new one's
// start. For another owner that is a release; for the same owner a hole.
func (t *Table) supersede(old, owner uint32, from int64, x uint32) {
	r := t.node(old)
	w := who(r.who.Load())
	end := min(from, t.endOf(open, r.from.Load(), x))
	if w.owner() != owner {
		w |= released
	}
	r.who.Store(uint64(w.withLoose(from - end)))
	r.to.Store(end)
}

func (t *Table) newEntry(net uint32, a Addr) uint32 {
	n := t.entries.alloc()
	e := t.entries.at(n)
	e.hi.Store(a.Hi)
	e.lo.Store(a.Lo)
	e.net.Store(net)
	e.head.Store(0)
	e.lost.Store(0)
	t.networkRefs[net].entries++
	t.insert(net, a, n)
	return n
}

// newNode gives an unused range of the entry: at home if that is free.
func (t *Table) newNode(n uint32) uint32 {
	t.liveRanges++
	if home := n | homeBit; t.entries.at(n).home.who.Load() == 0 {
		return home
	}
	return t.ranges.alloc()
}

func (t *Table) freeNode(i uint32) {
	t.liveRanges--
	if i&homeBit != 0 {
		t.node(i).who.Store(0)
		return
	}
	t.ranges.release(i)
}

// link puts a complete node into the chain, newest start first.
func (t *Table) link(e *entry, i uint32, portFrom, portTo uint16) {
	r := t.node(i)
	from := r.from.Load()
	var prev *rangeNode
	next := e.head.Load()
	for next != 0 && t.node(next).from.Load() > from {
		prev = t.node(next)
		next = link(prev.link.Load()).next()
	}
	r.link.Store(uint64(packLink(portFrom, portTo, next)))
	t.setNext(e, prev, i)
}

func (t *Table) setNext(e *entry, prev *rangeNode, i uint32) {
	if prev == nil {
		e.head.Store(i)
		return
	}
	l := link(prev.link.Load())
	prev.link.Store(uint64(packLink(l.portFrom(), l.portTo(), i)))
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
	x := t.exporterIDs[r.Exporter]
	n := t.find(uint32(t.Network(r.Network)), r.Addr)
	if x == 0 || n == 0 {
		return t.refuse(UnknownRange, "release")
	}
	ports := packLink(r.PortFrom, r.PortTo, 0).ports()
	for i := t.entries.at(n).head.Load(); i != 0; {
		node := t.node(i)
		w, l := who(node.who.Load()), link(node.link.Load())
		if w.exporter() == x && l.ports() == ports && node.to.Load() == open {
			at, from := r.At, node.from.Load()
			if at < from && !r.Absent {
				return t.refuse(ToBeforeFrom, "release") // of an earlier range: it came late, or twice
			}
			at = max(at, from)
			// Released before ended: a reader between the two sees an open range, never an unreleased end.
			node.who.Store(uint64((w | released).withLoose(now - at)))
			node.to.Store(at)
			t.stats.releases.Add(1)
			return nil
		}
		i = l.next()
	}
	return t.refuse(UnknownRange, "release")
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
	if w.VerifiedTo > s.verified.Load() {
		// Alive before verified: the other order shows a reader an advanced watermark of an exporter that stands still.
		s.advanced.Store(max(w.ReceivedAt, s.advanced.Load()))
		s.verified.Store(w.VerifiedTo)
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
