package spool

import (
	"context"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// retireAfter is the age at which a segment without a pending batch is deleted though it is not full: what a kill would
// have sent again stays small.
const retireAfter = time.Minute

// writer is Run's: it alone writes and removes segments.
type writer struct {
	*Spool
	lock     File
	file     File     // of active
	active   *segment // what is written to
	dirty    bool     // it has unsynced bytes
	dirtyDir bool     // it has an unsynced name
	retryAt  time.Duration
	attached time.Duration // when the word of the run before was read
}

// Run writes batches to disk, syncs them, removes what is settled and reads what earlier runs left, until ctx ends; then it
// writes and syncs the rest and gives the directory free. Call it once. It has no error: a disk is not worth a stop.
func (s *Spool) Run(ctx context.Context) {
	w := &writer{Spool: s}
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	w.attach()
	beat := func() time.Duration { return s.config.SyncEvery - s.config.Clock.Boot()%s.config.SyncEvery } // together with the process's other periodic work
	timer := time.NewTimer(beat())
	defer timer.Stop()
	tick := func() {
		w.tick()
		timer.Reset(beat())
	}
	for ctx.Err() == nil {
		if w.pass() {
			signal(s.work)
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
			tick()
		case <-s.work:
			select { // work without end must not keep the sync waiting
			case <-timer.C:
				tick()
			default:
			}
		}
	}
	w.stop()
}

// pass does what can be done now, and reports whether there is more.
func (w *writer) pass() (more bool) {
	w.clean()
	w.write()
	w.leaveSealed()
	return w.scanOne()
}

// tick does what depends on the time.
func (w *writer) tick() {
	now := w.config.Clock.Boot()
	w.mu.Lock()
	w.index.expire(now - w.config.MaxAge)
	retire := w.active != nil && w.active.settled() && now-w.active.created >= retireAfter
	down := w.state != DiskOK && now >= w.retryAt
	asked := w.sealed == 0
	w.mu.Unlock()
	w.settled()
	if retire {
		w.seal(false)
	}
	w.sync()
	if asked {
		w.leaveWord(false)
	}
	if !down || w.config.FS == nil {
		return
	}
	if w.lock == nil {
		w.attach()
		return
	}
	w.setState(DiskOK, nil)
}

// sync makes what was written survive a power cut. After an error nobody knows what is on the disk, and a second try would
// report success (the kernel forgets): the segment is left as it is.
func (w *writer) sync() {
	if w.dirty {
		w.dirty = false
		err := w.file.Sync()
		w.mu.Lock()
		w.index.stats.Syncs++
		w.mu.Unlock()
		if err != nil {
			w.failed("sync", err)
			w.seal(false)
		}
	}
	if w.dirtyDir {
		w.dirtyDir = false
		if err := w.config.FS.Sync(); err != nil {
			w.failed("sync the directory", err)
		}
	}
}

// seal ends the active segment.
func (w *writer) seal(synced bool) {
	if synced {
		w.sync()
	}
	if w.active == nil {
		return
	}
	w.file.Close()
	w.mu.Lock()
	w.active.active = false
	w.mu.Unlock()
	w.file, w.active, w.dirty = nil, nil, false
}

func (w *writer) failed(what string, err error) {
	w.mu.Lock()
	w.index.stats.DiskErrors++
	w.mu.Unlock()
	w.log.Warn("the spool's disk reports an error", "doing", what, "error", err)
}

// setState changes how batches are kept, and says so once.
func (w *writer) setState(state State, err error) {
	w.mu.Lock()
	was := w.state
	w.state, w.err = state, err
	w.mu.Unlock()
	if state != DiskOK {
		w.retryAt = w.config.Clock.Boot() + w.config.RetryEvery
	}
	switch {
	case state == was:
	case state != DiskOK:
		w.log.Warn("batches are kept in memory only: a kill loses them", "state", state, "error", err, "retry_every", w.config.RetryEvery)
	case was != DiskNone:
		w.log.Info("batches go to disk again")
	}
}

// write moves batches from memory to disk, the oldest first.
func (w *writer) write() {
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.index.memory.entries, func(e entry) bool { return e.body != nil })
		if i < 0 || w.state != DiskOK {
			w.slow = w.slow && i >= 0
			close(w.written)
			w.written = make(chan struct{})
			w.mu.Unlock()
			return
		}
		e := w.index.memory.entries[i]
		w.mu.Unlock()
		off, err := w.put(&e)
		if err != nil {
			w.refused(err)
			continue
		}
		w.mu.Lock()
		w.move(e.seq, uint32(off))
		w.mu.Unlock()
	}
}

// refused goes on in memory.
func (w *writer) refused(err error) {
	w.mu.Lock()
	w.index.stats.DiskErrors++
	w.mu.Unlock()
	state := DiskError
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		state = DiskFull
	}
	w.setState(state, err)
}

// move notes that a batch is on disk. If it was settled meanwhile there is nothing to note.
func (w *writer) move(seq uint64, off uint32) {
	x := w.index
	i := slices.IndexFunc(x.memory.entries, func(e entry) bool { return e.seq == seq && e.state < ghost })
	if i < 0 {
		return
	}
	e := x.memory.entries[i]
	x.memory.remove(i)
	x.stats.InMemory.sub(e.rows)
	x.stats.MemoryBytes -= memorySize(&e)
	e.off = off
	w.active.add(e)
	x.cacheBytes += int64(len(e.body))
	x.evict(w.config.CacheBytes)
}

// put writes one batch and returns where it stands.
func (w *writer) put(e *entry) (off int64, err error) {
	if w.active != nil && w.active.size >= w.config.SegmentBytes {
		w.seal(true)
	}
	need := recordBytes + int64(len(e.body))
	if w.active == nil {
		if err := w.begin(need); err != nil {
			return 0, err
		}
	} else if err := w.room(need, 1); err != nil {
		return 0, err
	}
	if w.active == nil { // it made room itself
		return w.put(e)
	}
	g := w.active
	r := record{
		seq: e.seq, off: g.size, size: uint32(len(e.body)), sum: crc32.Checksum(e.body, castagnoli), rows: e.rows,
		ageMs: uint32(min(max(0, (e.at-g.created).Milliseconds()), 1<<32-1)),
	}
	header := encodeRecord(r, g.head.Nonce)
	if err := w.file.WriteAt(g.size, header[:], e.body); err != nil {
		// Truncation needs no space. Where even that fails, the next start skips what is broken.
		if w.file.Truncate(g.size) != nil || !errors.Is(err, unix.ENOSPC) {
			w.seal(true)
		}
		return 0, err
	}
	w.dirty = true
	w.mu.Lock()
	g.size += need
	w.mu.Unlock()
	return r.off, nil
}

// begin makes a new segment that will have need bytes of records.
func (w *writer) begin(need int64) error {
	if err := w.room(recordsAt+need, 1); err != nil {
		return err
	}
	w.mu.Lock()
	number := w.number
	w.number++
	w.mu.Unlock()
	now := w.config.Clock.Boot()
	g := &segment{number: number, created: now, head: w.config.head(now, rand.Uint64()), size: recordsAt, scanned: true, active: true}
	slot, err := encodeSlot(g.head)
	if err != nil {
		return err
	}
	f, err := w.config.FS.Create(g.name())
	if err != nil {
		return err
	}
	if err := f.WriteAt(0, slot, slot); err != nil {
		f.Close()
		_ = w.config.FS.Remove(g.name()) // an empty file that stays is removed by the next start
		return err
	}
	w.file, w.active, w.dirty, w.dirtyDir = f, g, true, true
	w.mu.Lock()
	w.index.segments = append(w.index.segments, g)
	w.mu.Unlock()
	return nil
}

// stop writes what it can, and ends.
func (w *writer) stop() {
	if w.lock != nil {
		w.setState(DiskOK, nil) // a last try
	}
	w.write()
	w.seal(true)
	w.mu.Lock()
	w.stopping = true
	w.mu.Unlock()
	w.clean()
	w.mu.Lock()
	x, before := w.index, w.index.stats.Dropped[Shutdown]
	for i := range x.memory.entries {
		e := &x.memory.entries[i]
		if e.state == gone {
			continue
		}
		why := Shutdown
		if e.state == ghost {
			why = e.why
		}
		x.leave(x.memory, e)
		x.stats.Dropped[why].add(e.rows)
	}
	x.trim()
	w.closed, w.running, w.state, w.err = true, false, DiskNone, errNotStarted
	left, lost := x.stats.Pending, x.stats.Dropped[Shutdown]
	w.mu.Unlock()
	w.settled()
	w.leaveWord(lost == before)
	if w.lock != nil {
		w.lock.Close()
	}
	if lost.Batches > before.Batches {
		w.log.Warn("stopped before everything was acknowledged, and it is not on disk: these rows are lost if the collector does not have them",
			"rows", lost.Rows-before.Rows, "batches", lost.Batches-before.Batches)
	}
	if left.Batches > 0 {
		w.log.Info("batches are left on disk for the next start", "batches", left.Batches, "rows", left.Rows)
	}
}
