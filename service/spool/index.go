package spool

import (
	"slices"
	"time"
)

// index is what is remembered of every batch, and the books. It touches no file and has no lock: its owner has.
type index struct {
	segments []*segment // by number: the oldest first
	memory   *segment   // batches that are not on disk, all newer than those that are
	stats    Stats
	indexed  int // entries in all of them

	cacheBytes int64 // of bodies that are in memory though they are on disk
	turn       int
}

func newIndex() *index { return &index{memory: &segment{scanned: true}} }

// lists calls f for every list, oldest first.
func (x *index) lists(f func(*segment)) {
	for _, g := range x.segments {
		f(g)
	}
	f(x.memory)
}

// leave takes an entry out of the books of what is pending. The caller says into which it goes.
func (x *index) leave(g *segment, e *entry) {
	if e.state == waiting {
		g.waiting--
	} else {
		g.taken--
	}
	e.state = gone
	x.release(g, e)
	x.stats.Pending.sub(e.rows)
	if g == x.memory {
		x.stats.InMemory.sub(e.rows)
	}
}

// release forgets the body.
func (x *index) release(g *segment, e *entry) {
	if e.body == nil {
		return
	}
	if g == x.memory {
		x.stats.MemoryBytes -= memorySize(e)
	} else {
		x.cacheBytes -= int64(len(e.body))
	}
	e.body = nil
}

// entryBytes is what a batch costs beside its body, rounded up.
const entryBytes = 128

func memorySize(e *entry) int64 { return int64(e.size) + entryBytes }

// lose drops an entry; one that is under way later.
func (x *index) lose(g *segment, e *entry, why Reason) {
	switch e.state {
	case waiting:
		x.leave(g, e)
		x.stats.Dropped[why].add(e.rows)
	case taken:
		e.state, e.why = ghost, why
		x.release(g, e)
	}
}

// settle takes the batches of a range of one run out. Those that are not there were settled before.
func (x *index) settle(now time.Duration, run, current string, first, last uint64, into *Count) (n Count) {
	x.lists(func(g *segment) {
		if g.frozen || g.head.Run != run && (g != x.memory || run != current) {
			return
		}
		entries := g.span(first, last)
		for i := range entries {
			if e := &entries[i]; e.state != gone {
				x.leave(g, e)
				into.add(e.rows)
				n.add(e.rows)
				if into == &x.stats.Acked {
					e.acked, g.lastAck = uint32(now/time.Second)+1, now
				}
			}
		}
	})
	return n
}

// unsent reports whether a batch of a range of the present run waits and was never handed out.
func (x *index) unsent(current string, first, last uint64) (found bool) {
	x.lists(func(g *segment) {
		if !found && g.head.Run == current && g.waiting > 0 {
			found = slices.ContainsFunc(g.span(first, last), func(e entry) bool { return e.state == waiting && !e.again })
		}
	})
	return found
}

// restart makes everything under way wait again.
func (x *index) restart() {
	x.lists(func(g *segment) {
		g.rewind(func(e *entry) {
			why := e.why
			x.leave(g, e)
			x.stats.Dropped[why].add(e.rows)
		})
	})
}

// recall makes what was acknowledged since a time, and is still on disk, wait again.
func (x *index) recall(since time.Duration) (n Count) {
	second := uint32(max(0, since)/time.Second) + 1
	for _, g := range x.segments {
		if g.removed || g.doomed || !g.scanned || g.lastAck < since {
			continue
		}
		for i := range g.entries {
			if e := &g.entries[i]; e.state == gone && e.acked >= second {
				e.state, e.again, e.acked = waiting, true, 0
				g.waiting++
				x.stats.Pending.add(e.rows)
				x.stats.Recalled.add(e.rows)
				n.add(e.rows)
			}
		}
		g.from, g.to = 0, len(g.entries)
	}
	return n
}

// pick returns the batch to hand out next, nil if none waits. While the oldest has waited for longer than behind, three of
// four are the newest: otherwise fresh data would be as late as the oldest, for hours after a long outage.
func (x *index) pick(now, behind time.Duration) (g *segment, e *entry) {
	g = x.oldest()
	if g == nil {
		return nil, nil
	}
	e = g.first()
	if now-e.at <= behind {
		x.turn = 0
		return g, e
	}
	if x.turn++; x.turn%4 == 1 {
		return g, e
	}
	g = x.newest()
	return g, g.last()
}

func (x *index) oldest() *segment {
	for _, g := range x.segments {
		if g.waiting > 0 && !g.frozen {
			return g
		}
	}
	if x.memory.waiting > 0 {
		return x.memory
	}
	return nil
}

func (x *index) newest() *segment {
	if x.memory.waiting > 0 {
		return x.memory
	}
	for _, g := range slices.Backward(x.segments) {
		if g.waiting > 0 && !g.frozen {
			return g
		}
	}
	return nil
}

// evict forgets the oldest bodies that are on disk, until at most bytes are left.
func (x *index) evict(bytes int64) {
	for _, g := range x.segments {
		for ; g.cachedFrom < len(g.entries) && x.cacheBytes > bytes; g.cachedFrom++ {
			x.release(g, &g.entries[g.cachedFrom])
		}
	}
}

// trim forgets the settled front of the list in memory.
func (x *index) trim() {
	for len(x.memory.entries) > 0 && x.memory.entries[0].state == gone {
		x.memory.remove(0)
		x.indexed--
	}
}

// full reports whether one of size more would be too much for memory.
func (x *index) full(size, mostBytes int64, mostBatches int) bool {
	return x.stats.MemoryBytes+size > mostBytes || x.memory.waiting+x.memory.taken >= mostBatches
}

// fits drops the oldest batches in memory until one of size more fits. False: nothing is left to drop.
func (x *index) fits(size, mostBytes int64, mostBatches int, why Reason) bool {
	full := func() bool { return x.full(size, mostBytes, mostBatches) }
	for _, state := range []uint8{waiting, taken} { // what is under way only where nothing else is left
		for i := 0; i < len(x.memory.entries) && full(); i++ {
			if e := &x.memory.entries[i]; e.state == state {
				x.lose(x.memory, e, why)
			}
		}
	}
	x.trim()
	return !full()
}

// expire drops what was sealed before a time.
func (x *index) expire(before time.Duration) {
	x.lists(func(g *segment) {
		if g.waiting == 0 || g.frozen {
			return
		}
		for i := g.from; i < len(g.entries) && g.entries[i].at < before; i++ {
			x.lose(g, &g.entries[i], OverflowAge)
		}
	})
	x.trim()
}

// drop gives a segment up.
func (x *index) drop(g *segment, why Reason) {
	for i := range g.entries {
		x.lose(g, &g.entries[i], why)
	}
	g.doomed = true
}

// forget takes a segment out whose file is gone and whose last batch is settled.
func (x *index) forget(g *segment) {
	x.indexed -= len(g.entries)
	x.segments = slices.DeleteFunc(x.segments, func(other *segment) bool { return other == g })
}

// snapshot returns the books.
func (x *index) snapshot(now time.Duration) Stats {
	s := x.stats
	x.lists(func(g *segment) {
		if g.number > 0 && !g.removed {
			s.Segments++
			s.DiskBytes += g.size
		}
		s.Scanning = s.Scanning || !g.scanned
		s.UnderWay += uint64(g.taken)
		if s.OldestPending > 0 || g.waiting+g.taken == 0 {
			return
		}
		i := slices.IndexFunc(g.entries, func(e entry) bool { return e.state != gone })
		s.OldestPending = max(0, now-g.entries[i].at)
	})
	return s
}
