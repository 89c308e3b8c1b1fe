package spool

import (
	"errors"
	"io/fs"
	"slices"
)

// errNoRoom means that nothing more can be removed.
var errNoRoom = errors.New("the spool is full and its oldest segment cannot be removed")

// room drops segments until bytes and batches more are within the bounds: those that are acknowledged first, then the oldest.
func (w *writer) room(bytes int64, batches int) error {
	for {
		g, why := w.excess(bytes, batches)
		if why == 0 {
			return nil
		}
		if g == nil {
			return errNoRoom
		}
		if !g.scanned {
			w.scan(g) // to count what is lost
			continue
		}
		if w.giveUpKept() || w.shrinkOldest() {
			continue
		}
		if g == w.active {
			w.seal(false)
		}
		w.mu.Lock()
		lost := g.waiting
		w.index.drop(g, why)
		w.mu.Unlock()
		if lost > 0 {
			w.log.Warn("the spool is full: the oldest batches are dropped", "reason", why, "segment", g.name(), "batches", lost)
		}
		w.clean()
	}
}

// giveUpKept removes the oldest segment that is only kept for Recall, and reports whether there was one: it makes room at no loss.
func (w *writer) giveUpKept() bool {
	w.mu.Lock()
	i := slices.IndexFunc(w.index.segments, func(g *segment) bool { return g.settled() && !g.active && !g.doomed && !g.removed })
	if i >= 0 {
		w.index.segments[i].doomed = true
	}
	w.mu.Unlock()
	if i < 0 {
		return false
	}
	w.clean()
	return true
}

// excess returns the bound that is crossed and the oldest segment that still has a file. nil: all are given up already.
func (w *writer) excess(bytes int64, batches int) (oldest *segment, why Reason) {
	w.mu.Lock()
	defer w.mu.Unlock()
	segments, entries := 0, batches
	for _, g := range w.index.segments {
		if g.removed {
			continue
		}
		bytes += g.size
		entries += len(g.entries)
		segments++
		if oldest == nil && !g.doomed {
			oldest = g
		}
	}
	switch {
	case bytes > w.config.MaxBytes && segments > 0:
		return oldest, OverflowSize
	case entries > w.config.MaxBatches || segments > maxSegments:
		return oldest, OverflowBatches
	}
	return nil, 0
}

// clean removes the files of segments that are settled or given up. What was acknowledged lately stays for a while under another name,
// where there is space.
func (w *writer) clean() {
	w.mu.Lock()
	now := w.config.Clock.Boot()
	var over, renamed []*segment
	for _, g := range w.index.segments {
		switch keep := w.state != DiskFull && !w.stopping && now < g.lastAck+w.config.KeepAcked; {
		case g.removed || g.active:
		case g.doomed || g.settled() && (g.lastAck == 0 || !keep):
			g.doomed = true // nothing of it comes back any more
			over = append(over, g)
		case g.settled() != g.kept.Load():
			renamed = append(renamed, g)
		}
	}
	w.mu.Unlock()
	for _, g := range renamed {
		w.rename(g)
	}
	freed := false
	for _, g := range over {
		if err := w.config.FS.Remove(g.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			w.failed("remove "+g.name(), err)
			continue
		}
		freed = true
		w.mu.Lock()
		g.removed = true
		w.mu.Unlock()
	}
	w.mu.Lock()
	for i := len(w.index.segments) - 1; i >= 0; i-- {
		if g := w.index.segments[i]; g.removed && g.settled() {
			w.index.forget(g)
		}
	}
	full := w.state == DiskFull
	w.mu.Unlock()
	if freed && full {
		w.setState(DiskOK, nil)
	}
}

// rename gives a segment the name that says whether all of it is acknowledged: a run after a kill does not send it again.
func (w *writer) rename(g *segment) {
	from := g.name()
	g.kept.Store(!g.kept.Load())
	if err := w.config.FS.Rename(from, g.name()); err != nil {
		g.kept.Store(!g.kept.Load())
		w.failed("rename "+from, err)
		w.mu.Lock()
		g.lastAck = 0 // not again
		w.mu.Unlock()
	}
}
