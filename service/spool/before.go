package spool

import "time"

// Before is how the run before this one ended.
type Before struct {
	Run     string    // "": there was none, or it left no word
	Kept    time.Time // everything until then was on disk or settled: what was given to Append, or what Sealed spoke of
	InOrder bool      // Run had returned, and nothing was lost by that. Otherwise the run was killed after Kept
}

const inOrder = "ended in order"

// leaveWord writes into the lock file until when this run has kept everything. It is not synced: after a power cut the next run
// finds an older word, and takes the gap for longer than it was.
//
// The word of the run before stays until this run has told of it: whoever comes next would otherwise never hear from when on something is missing.
func (w *writer) leaveWord(ended bool) {
	if w.lock == nil || !w.told() {
		return
	}
	kept, now := w.kept()
	h := w.config.head(kept, 0)
	h.CreatedNs -= (now - kept).Nanoseconds()
	if ended {
		h.Reason = inOrder
	}
	slot, err := encodeSlot(h)
	if err == nil {
		err = w.lock.WriteAt(0, slot, slot)
	}
	if err != nil {
		w.failed("leave word for the next run", err)
	}
}

// toldAfter is when a run without a batch has told of the run before by other means, where anybody listens.
const toldAfter = time.Minute

// told reports whether what is to be said of the run before travels: with the first batch of this one, at the latest.
func (w *writer) told() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.index.stats
	return s.Before.Run == "" || s.Appended.Batches > 0 || w.config.Clock.Boot()-w.attached >= toldAfter
}

// Sealed says that of all there was until then (Config.Clock.Boot) Append has what it will ever get, and leaves a word of it. Whoever calls it
// does so before there is anything, and goes on: until the next call no word says more. Without it what was given to Append is all there was.
func (s *Spool) Sealed(until time.Duration) {
	s.mu.Lock()
	s.sealed, s.unsaid = until, true
	s.mu.Unlock()
	signal(s.work)
}

// leaveSealed leaves the word that Sealed asked for.
func (w *writer) leaveSealed() {
	w.mu.Lock()
	unsaid := w.unsaid
	w.unsaid = false
	w.mu.Unlock()
	if unsaid {
		w.leaveWord(false)
	}
}

// kept returns until when, since boot, everything is kept: what is only in memory is not.
func (w *writer) kept() (at, now time.Duration) {
	now = w.config.Clock.Boot()
	w.mu.Lock()
	defer w.mu.Unlock()
	at = now
	if w.sealed > 0 {
		at = min(at, w.sealed)
	}
	for _, e := range w.index.memory.entries {
		if e.state != gone {
			return min(at, e.at-w.config.Unsealed), now
		}
	}
	return at, now
}

// readWord takes what the run before left in the lock file.
func (w *writer) readWord(lock File) {
	h, err := readHead(lock)
	if err != nil || h.Host != w.config.Host || h.Run == w.config.Run {
		return
	}
	b := Before{Run: h.Run, Kept: time.Unix(0, h.CreatedNs), InOrder: h.Reason == inOrder}
	if now := w.config.Clock.Boot(); h.BootID == w.config.BootID && h.BootID != "" && h.BootNs > 0 && h.BootNs <= now.Nanoseconds() { // the wall clock may have been set since
		b.Kept = w.config.Clock.Wall().Add(time.Duration(h.BootNs) - now)
	}
	w.mu.Lock()
	w.index.stats.Before = b
	w.mu.Unlock()
	w.attached = w.config.Clock.Boot()
	if !b.InOrder {
		w.log.Warn("the run before was killed: what it had not sealed is lost", "exporter_id", plain(b.Run), "all_kept_until", b.Kept)
	}
}
