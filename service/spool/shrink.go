package spool

import (
	"hash/crc32"
	"math/rand/v2"
	"slices"
)

// shrinkOldest makes fewer bytes of the oldest whole segment of which nothing was ever handed out, and reports whether it did.
func (w *writer) shrinkOldest() bool {
	if w.config.Shrink == nil {
		return false
	}
	g := w.freeze()
	if g == nil {
		return false
	}
	err := w.shrink(g)
	w.mu.Lock()
	g.frozen, g.shrunk = false, true // not again
	w.mu.Unlock()
	signal(w.ready)
	if err != nil {
		w.log.Warn("batches of a full spool are not rolled up", "segment", g.name(), "reason", err)
	}
	return err == nil
}

// freeze finds the segment and keeps everybody else away from it. Of earlier runs nobody remembers what was handed out.
func (w *writer) freeze() *segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.index.segments {
		fresh := g.scanned && !g.active && !g.doomed && !g.removed && !g.shrunk && g.head.Run == w.config.Run && g.waiting > 0 && g.waiting == len(g.entries)
		if fresh && !slices.ContainsFunc(g.entries, func(e entry) bool { return e.again }) {
			g.frozen = true
			return g
		}
	}
	return nil
}

// shrink replaces the file of a frozen segment at once: a kill leaves the one before or the one after, never both.
func (w *writer) shrink(g *segment) error {
	batches := make([]Batch, 0, len(g.entries))
	for i := range g.entries { // nobody else changes them
		e := &g.entries[i]
		body, err := w.read(g, record{seq: e.seq, off: int64(e.off), size: e.size})
		if err != nil {
			return err
		}
		batches = append(batches, Batch{Run: g.head.Run, Seq: e.seq, Rows: e.rows, Body: body})
	}
	less, err := w.config.Shrink(batches)
	if err != nil {
		return err
	}
	now := &segment{number: g.number, created: g.created, head: g.head, size: recordsAt, scanned: true}
	now.head.Nonce = rand.Uint64()
	if err := w.writeShrunk(now, g, less); err != nil {
		_ = w.config.FS.Remove(fileName(g.number, kindRolling)) // else the next start does
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index.replace(g, now)
	return nil
}

// writeShrunk makes the new file, with its entries, and puts it in the place of the old one.
func (w *writer) writeShrunk(now, old *segment, less []Batch) error {
	name := fileName(now.number, kindRolling)
	f, err := w.config.FS.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	slot, err := encodeSlot(now.head)
	if err == nil {
		err = f.WriteAt(0, slot, slot)
	}
	for i := 0; i < len(less) && err == nil; i++ {
		b := &less[i]
		at, found := slices.BinarySearchFunc(old.entries, b.Seq, func(e entry, seq uint64) int { return int(int64(e.seq - seq)) })
		if !found {
			continue // Shrink made it up
		}
		e := entry{seq: b.Seq, at: old.entries[at].at, off: uint32(now.size), size: uint32(len(b.Body)), rows: b.Rows}
		r := record{
			seq: e.seq, off: now.size, size: e.size, sum: crc32.Checksum(b.Body, castagnoli), rows: e.rows,
			ageMs: uint32(min(max(0, (e.at-now.created).Milliseconds()), 1<<32-1)),
		}
		header := encodeRecord(r, now.head.Nonce)
		err = f.WriteAt(now.size, header[:], b.Body)
		now.size += recordBytes + int64(len(b.Body))
		now.add(e)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = w.config.FS.Rename(name, old.name())
	}
	if err != nil {
		return err
	}
	// What was replaced must not come back after a power cut, when what takes its place was sent.
	if err := w.config.FS.Sync(); err != nil {
		w.failed("sync the directory", err)
	}
	return nil
}

// replace lets a segment have the entries of what took its place.
func (x *index) replace(g, now *segment) {
	for i := range g.entries {
		e := &g.entries[i]
		x.release(g, e)
		x.stats.Pending.sub(e.rows)
		x.stats.RolledUp.add(e.rows)
	}
	for i := range now.entries {
		x.stats.Pending.add(now.entries[i].rows)
		x.stats.Rollups.add(now.entries[i].rows)
	}
	x.indexed += len(now.entries) - len(g.entries)
	g.head, g.size, g.entries, g.waiting, g.from, g.to, g.cachedFrom = now.head, now.size, now.entries, now.waiting, 0, len(now.entries), 0
}

// shrinkMemory makes fewer bytes of the oldest batches in memory that were never handed out, as many as a segment holds, and reports whether it did. The caller
// holds mu: whoever wants a batch waits meanwhile.
func (s *Spool) shrinkMemory() bool {
	if s.config.Shrink == nil {
		return false
	}
	m := s.index.memory
	var batches []Batch
	for i, bytes := 0, int64(0); i < len(m.entries) && bytes < s.config.SegmentBytes; i++ {
		if e := &m.entries[i]; e.state == waiting && !e.again && !e.small {
			e.small = true // not again
			batches = append(batches, Batch{Run: s.config.Run, Seq: e.seq, Rows: e.rows, Body: e.body})
			bytes += int64(e.size)
		}
	}
	if len(batches) < 2 {
		return false
	}
	less, err := s.config.Shrink(batches)
	if err != nil {
		s.log.Warn("batches of a full spool are not rolled up", "reason", err)
		return false
	}
	s.index.exchange(batches, less)
	return true
}

// exchange lets some of the batches in memory be those of less, under the same seq, and forgets the others.
func (x *index) exchange(batches, less []Batch) {
	for _, b := range batches {
		i := slices.IndexFunc(x.memory.entries, func(e entry) bool { return e.seq == b.Seq })
		e := &x.memory.entries[i]
		x.leave(x.memory, e)
		x.stats.RolledUp.add(e.rows)
		at := slices.IndexFunc(less, func(l Batch) bool { return l.Seq == b.Seq })
		if at < 0 {
			x.memory.remove(i)
			x.indexed--
			continue
		}
		e.state, e.body, e.rows, e.size = waiting, less[at].Body, less[at].Rows, uint32(len(less[at].Body))
		x.memory.waiting++
		x.stats.MemoryBytes += memorySize(e)
		for _, c := range []*Count{&x.stats.Pending, &x.stats.InMemory, &x.stats.Rollups} {
			c.add(e.rows)
		}
	}
	x.memory.from, x.memory.to = 0, len(x.memory.entries)
}
