package ownership

// room makes place for one more range of the claim's address, or says which bound is in the way.
func (t *Table) room(c *Claim, x uint32, now int64) Reason {
	if int(t.exporters.at(x).refs) >= t.cfg.MaxPerExporter {
		return ExporterFull
	}
	n := t.find(uint32(t.Network(c.Network)), c.Addr)
	if n != 0 && t.length(n) >= t.cfg.MaxPerAddress && !t.forgetFirstEnded(n, now) {
		return AddressFull
	}
	if t.liveRanges < t.cfg.MaxRanges && (n != 0 || t.entries.live < t.cfg.MaxAddresses) {
		return 0
	}
	if !t.makeRoom(n, now) {
		return TableFull
	}
	if n == 0 && t.entries.live >= t.cfg.MaxAddresses {
		return TableFull
	}
	return 0
}

func (t *Table) length(n uint32) int {
	count := 0
	for i := t.entries.at(n).head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		count++
	}
	return count
}

// ended says when a range ended, if it has: it was closed, or its exporter has been silent for DeadAfter.
func (t *Table) ended(r *rangeNode, now int64) (int64, bool) {
	to := r.to.Load()
	if to != open {
		return to, true
	}
	x := t.exporters.at(who(r.who.Load()).exporter())
	return max(r.from.Load(), x.verified.Load()), x.advanced.Load() < now-int64(t.cfg.DeadAfter)
}

// forgetFirstEnded forgets the range of the entry that ended first.
func (t *Table) forgetFirstEnded(n uint32, now int64) bool {
	var victim uint32
	best := int64(open)
	for i := t.entries.at(n).head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		if end, ok := t.ended(t.node(i), now); ok && end < best {
			victim, best = i, end
		}
	}
	if victim == 0 {
		return false
	}
	t.forget(n, victim, best)
	t.stats.forgotten[ForgottenAddress].Add(1)
	return true
}

// makeRoom walks on from the hand and forgets, of the next entries with something that ended, the longest ended range. keep is
// the entry that the caller is about to add to. If an entry is needed, only one that becomes empty makes room.
func (t *Table) makeRoom(keep uint32, now int64) bool {
	const look = 64
	needEntry := keep == 0 && t.entries.live >= t.cfg.MaxAddresses
	var victim, entryOf uint32
	best, seen := int64(open), 0
	for steps := t.entries.next; steps > 1 && seen < look; steps-- {
		n := t.step()
		e := t.entries.at(n)
		if n == keep || e.net.Load() == 0 || needEntry && t.length(n) > 1 {
			continue
		}
		for i := e.head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
			if end, ok := t.ended(t.node(i), now); ok {
				seen++
				if end < best {
					victim, entryOf, best = i, n, end
				}
			}
		}
	}
	if victim == 0 {
		return false
	}
	t.forget(entryOf, victim, best)
	t.stats.forgotten[ForgottenTable].Add(1)
	return true
}

func (t *Table) step() uint32 {
	if t.hand++; t.hand >= t.entries.next {
		t.hand = 1
	}
	return t.hand
}

// Expire forgets what ended longer ago than the retention, in at most budget entries, going on where the last call stopped, and
// runs of exporters that left nothing behind. Call it every second or so; a full round of the table should take less than the
// retention.
func (t *Table) Expire(now int64, budget int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := now - int64(t.cfg.Retention)
	for steps := min(budget, int(t.entries.next)-1); steps > 0; steps-- {
		n := t.step()
		e := t.entries.at(n)
		if e.net.Load() == 0 {
			continue
		}
		for i := e.head.Load(); i != 0; {
			r := t.node(i)
			next := link(r.link.Load()).next()
			if end, ok := t.ended(r, now); ok && end < limit {
				t.forget(n, i, end)
				t.stats.forgotten[ForgottenAge].Add(1)
			}
			i = next
		}
	}
	t.measureSlack()
	for _, x := range t.exporterIDs {
		if s := t.exporters.at(x); s.refs == 0 && s.advanced.Load() < now-int64(t.cfg.DeadAfter) {
			t.dropExporter(x)
		}
	}
}

// forget unlinks a range and remembers that the entry's history is incomplete up to its end. The entry goes with its last range.
func (t *Table) forget(n, i uint32, end int64) {
	e := t.entries.at(n)
	var prev *rangeNode
	for j := e.head.Load(); j != i; j = link(t.node(j).link.Load()).next() {
		prev = t.node(j)
	}
	r := t.node(i)
	if lost := uint32(min(end/second+1, 1<<32-1)); lost > e.lost.Load() {
		e.lost.Store(lost)
	}
	t.setNext(e, prev, link(r.link.Load()).next())
	e.gen.Add(1)
	w := who(r.who.Load())
	t.freeNode(i)
	t.exporters.at(w.exporter()).refs--
	t.dropOwner(w.owner())
	if e.head.Load() == 0 {
		net := e.net.Load()
		t.unlink(net, e.addr(), n)
		e.net.Store(0)
		e.gen.Add(1)
		t.entries.release(n)
		t.dropNetwork(net)
	}
}
