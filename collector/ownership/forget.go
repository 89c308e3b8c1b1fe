package ownership

// makePlace makes place for one more range of an address, or says which bound is in the way.
func (t *Table) makePlace(e *entry, x uint32, now int64) Reason {
	if int(t.exporters.refs[x]) >= t.cfg.MaxPerExporter {
		return ExporterFull
	}
	if len(e.pieces) >= t.cfg.MaxPerAddress && !t.forgetFirstEnded(e, now) {
		return AddressFull
	}
	isNew := e.slot == noSlot
	if t.liveRanges < t.cfg.MaxRanges && (!isNew || t.addresses < t.cfg.MaxAddresses) && t.log.words < fullWords {
		return 0
	}
	if !t.makeRoom(e.slot, now) {
		return TableFull
	}
	if isNew && t.addresses >= t.cfg.MaxAddresses {
		return TableFull
	}
	return 0
}

// ended says when a range ended, if it has: it was closed, or its exporter has been silent for DeadAfter.
func (t *Table) ended(p *piece, now int64) (int64, bool) {
	return t.endOf(p), p.to != open || t.exporters.at(p.exporter).advanced.Load() < now-int64(t.cfg.DeadAfter)
}

// firstEnded finds the range that ended first, or -1.
func (t *Table) firstEnded(e *entry, now int64) (victim int, end int64) {
	victim, end = -1, open
	for i := range e.pieces {
		if to, ok := t.ended(&e.pieces[i], now); ok && to < end {
			victim, end = i, to
		}
	}
	return victim, end
}

// forgetFirstEnded forgets the range of the entry that ended first.
func (t *Table) forgetFirstEnded(e *entry, now int64) bool {
	victim, end := t.firstEnded(e, now)
	if victim < 0 {
		return false
	}
	t.forget(e, victim, end)
	t.save(e)
	t.stats.forgotten[ForgottenAddress].Add(1)
	return true
}

// makeRoom walks on from the hand and forgets, of the next entries with something that ended, the longest ended range. keep is
// the slot of the entry that the caller is about to add to. If an entry is needed, only one that becomes empty makes room.
func (t *Table) makeRoom(keep uint32, now int64) bool {
	const look, mostSteps = 64, 64 << 10
	needEntry := keep == noSlot && t.addresses >= t.cfg.MaxAddresses
	e, ix := &t.other, t.index.Load()
	in, best, seen := uint32(noSlot), int64(open), 0
	for steps := min(ix.len(), mostSteps); steps > 0 && seen < look; steps-- {
		if t.step(ix, e); e.slot == noSlot || e.slot == keep || needEntry && len(e.pieces) > 1 {
			continue
		}
		if victim, end := t.firstEnded(e, now); victim >= 0 {
			if seen++; end < best {
				in, best = e.slot, end
			}
		}
	}
	if in == noSlot {
		return false
	}
	t.take(ix, in, e)
	victim, end := t.firstEnded(e, now)
	t.forget(e, victim, end)
	t.save(e)
	t.stats.forgotten[ForgottenTable].Add(1)
	return true
}

// step moves the hand to the next slot and takes what is there apart.
func (t *Table) step(ix *index, e *entry) {
	t.hand = (t.hand + 1) % uint32(ix.len())
	t.take(ix, t.hand, e)
}

// take takes apart what is in a slot; the entry has no slot if nothing is.
func (t *Table) take(ix *index, slot uint32, e *entry) {
	e.slot = noSlot
	if s := ix.at(slot); s > slotGone {
		e.read(t.log.at(s >> tagBits))
		e.slot = slot
	}
}

// Expire forgets what ended longer ago than the retention, in at most budget entries, going on where the last call stopped, and
// runs of exporters that left nothing behind. Call it every second or so; a full round of the table should take less than the
// retention.
func (t *Table) Expire(now int64, budget int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := now - int64(t.cfg.Retention)
	e, ix := &t.other, t.index.Load()
	for steps := ix.len(); steps > 0 && budget > 0; steps-- {
		if t.step(ix, e); e.slot == noSlot {
			continue
		}
		budget--
		t.expire(e, now, limit)
	}
	t.measureSlack()
	for _, x := range t.exporterIDs {
		if t.exporters.refs[x] == 0 && t.exporters.at(x).advanced.Load() < now-int64(t.cfg.DeadAfter) {
			t.dropExporter(x)
		}
	}
}

// expire forgets an entry's ranges that ended before the limit.
func (t *Table) expire(e *entry, now, limit int64) {
	before := len(e.pieces)
	for i := before - 1; i >= 0; i-- {
		if end, ok := t.ended(&e.pieces[i], now); ok && end < limit {
			t.forget(e, i, end)
			t.stats.forgotten[ForgottenAge].Add(1)
		}
	}
	if len(e.pieces) != before {
		t.save(e)
	}
}

// forget takes a range out of an entry that the caller saves, and remembers that the entry's history is incomplete up to its end.
// The entry goes with its last range, the owner when no reader can meet it any more.
func (t *Table) forget(e *entry, i int, end int64) {
	e.lost = max(e.lost, uint32(min(end/second+1, 1<<32-1)))
	p := e.pieces[i]
	e.remove(i)
	t.liveRanges--
	t.exporters.refs[p.exporter]--
	t.parting = append(t.parting, p.owner)
}
