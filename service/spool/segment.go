package spool

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// An entry's life: waiting → taken → gone, back to waiting at a restart. A taken one that overflows is a ghost until an
// acknowledgement or a restart tells what became of it.
const (
	waiting uint8 = iota
	taken
	ghost
	gone
)

// entry is what is remembered of one batch.
type entry struct {
	seq   uint64
	at    time.Duration // of being sealed, on the clock of this boot
	body  []byte        // nil: on disk only
	off   uint32        // of the record header in the segment
	size  uint32        // of the body
	rows  uint32
	acked uint32 // second of this boot in which it was acknowledged; 0: it was not, or it is not on disk
	state uint8
	why   Reason // of a ghost
	again bool   // it was handed out before
	small bool   // it was shrunk in memory, or cannot be
}

// segment is a file and the batches in it, or the batches that are in memory only (number 0).
type segment struct {
	number  uint64
	head    head
	size    int64         // of the file
	created time.Duration // on the clock of this boot
	scanned bool
	active  bool // still written to
	doomed  bool // to be removed
	removed bool // there is no file any more
	frozen  bool // Run makes something else of it; nothing of it was ever handed out, nor is
	shrunk  bool // that has been done

	lastAck time.Duration // on the clock of this boot
	kept    atomic.Bool   // all of it is acknowledged, and its file has the name that says so; Run alone changes it

	entries []entry // ascending seq
	waiting int
	taken   int // ghosts included
	from    int // no entry before it waits
	to      int // no entry from it on waits

	cachedFrom int // no entry before it has its body in memory
}

func (g *segment) name() string {
	if g.kept.Load() {
		return fileName(g.number, kindAcked)
	}
	return fileName(g.number, kindSegment)
}

func (g *segment) add(e entry) {
	g.entries = append(g.entries, e)
	switch e.state {
	case waiting:
		g.waiting++
		g.to = len(g.entries)
	case taken, ghost:
		g.taken++
	}
}

// first returns the oldest entry that waits. There must be one.
func (g *segment) first() *entry {
	for g.entries[g.from].state != waiting {
		g.from++
	}
	return &g.entries[g.from]
}

// last returns the newest entry that waits. There must be one.
func (g *segment) last() *entry {
	for g.entries[g.to-1].state != waiting {
		g.to--
	}
	return &g.entries[g.to-1]
}

// settled reports whether no batch of the segment is needed any more.
func (g *segment) settled() bool { return g.scanned && g.waiting+g.taken == 0 }

// span returns the entries with first ≤ seq ≤ last.
func (g *segment) span(first, last uint64) []entry {
	from := sort.Search(len(g.entries), func(i int) bool { return g.entries[i].seq >= first })
	to := from + sort.Search(len(g.entries)-from, func(i int) bool { return g.entries[from+i].seq > last })
	return g.entries[from:to]
}

// remove takes an entry out of a list in memory.
func (g *segment) remove(i int) {
	switch g.entries[i].state {
	case waiting:
		g.waiting--
	case taken, ghost:
		g.taken--
	}
	if i == 0 {
		g.entries[0] = entry{}
		g.entries = g.entries[1:]
	} else {
		g.entries = slices.Delete(g.entries, i, i+1)
	}
	g.from = max(0, g.from-1)
	g.to = len(g.entries)
	if len(g.entries) == 0 {
		g.entries = nil // so that its array does not grow for ever
	}
}

// rewind makes everything taken wait again, and calls lost for each ghost.
func (g *segment) rewind(lost func(*entry)) {
	if g.taken == 0 {
		return
	}
	for i := range g.entries {
		switch e := &g.entries[i]; e.state {
		case taken:
			e.state, e.again = waiting, true
			g.taken--
			g.waiting++
		case ghost:
			lost(e)
		}
	}
	g.from, g.to = 0, len(g.entries)
}
