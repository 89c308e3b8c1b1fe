package spool

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"slices"
	"time"
)

var errNoDirectory = errors.New("no spool directory is configured")

// attach takes the directory and lists what earlier runs left in it.
func (w *writer) attach() {
	if w.config.FS == nil {
		w.mu.Lock()
		w.err = errNoDirectory
		w.mu.Unlock()
		w.log.Info("batches are kept in memory only: a kill loses them", "error", errNoDirectory)
		return
	}
	lock, err := w.config.FS.Lock()
	if err != nil {
		w.detached(err)
		return
	}
	files, err := w.config.FS.List()
	if err != nil {
		lock.Close()
		w.detached(err)
		return
	}
	w.readWord(lock)
	w.lock = lock
	w.leaveWord(false)
	found, number, bytes := w.sort(files)
	w.mu.Lock()
	w.index.segments = append(found, w.index.segments...)
	w.number = number
	w.mu.Unlock()
	w.syncLast(found)
	w.setState(DiskOK, nil)
	w.log.Info("batches are kept on disk", "segments_found", len(found), "bytes_found", bytes)
}

// syncLast makes what a killed run did not sync any more survive a power cut. Only its last segment can be meant.
func (w *writer) syncLast(found []*segment) {
	w.dirtyDir = true
	if len(found) == 0 {
		return
	}
	f, err := w.config.FS.Open(found[len(found)-1].name())
	if err == nil {
		err = f.Sync()
		f.Close()
	}
	if err != nil {
		w.failed("sync the last segment", err)
	}
}

// detached goes on without a directory. The state does not change at the first try, so it is said here.
func (w *writer) detached(err error) {
	w.mu.Lock()
	first := errors.Is(w.err, errNotStarted)
	w.index.stats.DiskErrors++
	w.mu.Unlock()
	w.setState(DiskNone, err)
	if first {
		w.log.Warn("batches are kept in memory only: a kill loses them", "state", DiskNone, "error", err, "retry_every", w.config.RetryEvery)
	}
}

// sort returns the segments by number, the number of the next file, and the segments' bytes.
func (w *writer) sort(files []FileInfo) (found []*segment, number uint64, bytes int64) {
	slices.SortFunc(files, func(a, b FileInfo) int { return cmp.Compare(a.Name, b.Name) })
	number = 1
	for _, f := range files {
		n, kind, ours := parseName(f.Name)
		switch {
		case !ours:
			if f.Name != lockName {
				w.foreign(Unknown, f.Name, nil)
			}
			continue
		case f.Strange: // its number is taken all the same
			w.foreign(Unknown, f.Name, nil)
		case kind == kindSegment:
			found = append(found, &segment{number: n, size: f.Size})
			bytes += f.Size
		case kind == kindAcked, kind == kindRolling:
			if err := w.config.FS.Remove(f.Name); err != nil {
				w.failed("remove "+f.Name, err)
			}
		default:
			w.quarantine.add(f)
		}
		number = max(number, n+1)
	}
	return found, number, bytes
}

// foreign counts a file that is not ours to send.
func (w *writer) foreign(state SegmentState, name string, err error) {
	w.mu.Lock()
	w.index.stats.Foreign[state]++
	w.mu.Unlock()
	w.log.Warn("a file in the spool directory is not ours to send", "file", name, "because", state, "error", err)
}

// scanOne reads the headers of the oldest segment that was not read yet, and reports whether there are more.
func (w *writer) scanOne() (more bool) {
	w.mu.Lock()
	i := slices.IndexFunc(w.index.segments, func(g *segment) bool { return !g.scanned })
	var g *segment
	if i >= 0 {
		g = w.index.segments[i]
	}
	w.mu.Unlock()
	if g == nil {
		return false
	}
	w.scan(g)
	if err := w.room(0, 0); err != nil {
		w.failed("make room", err)
	}
	signal(w.ready)
	return true
}

// scan reads the headers of a segment.
func (w *writer) scan(g *segment) {
	f, err := w.config.FS.Open(g.name())
	if err != nil {
		w.skip(g, err)
		return
	}
	defer f.Close()
	h, err := readHead(f)
	if err == nil && h.Host != w.config.Host {
		err = foreignError(h.Host)
	}
	if err != nil {
		w.strange(g, f, err)
		return
	}
	created := w.created(h)
	var entries []entry
	var damages []damage
	err = scan(f, g.size, h.Nonce, func(r record) {
		entries = append(entries, entry{
			seq: r.seq, off: uint32(r.off), size: r.size, rows: r.rows, at: created + time.Duration(r.ageMs)*time.Millisecond,
		})
	}, func(d damage) { damages = append(damages, d) })
	if err != nil {
		w.failed("scan "+g.name(), err) // what was found until then is sent
	}
	w.mu.Lock()
	g.head, g.created = h, created
	w.index.recovered(g, slices.Clip(entries), damages)
	w.mu.Unlock()
	for _, d := range damages {
		w.log.Warn("a part of a segment is damaged", "segment", g.name(), "reason", d.reason, "offset", d.off, "bytes", d.bytes)
	}
}

// created puts the beginning of a segment on the clock of this boot. The wall clock is believed only where there is nothing
// better, and never when it says that the segment is from the future.
func (w *writer) created(h head) time.Duration {
	now := w.config.Clock.Boot()
	if h.BootID == w.config.BootID && h.BootID != "" && h.BootNs <= now.Nanoseconds() {
		return time.Duration(h.BootNs)
	}
	return now - max(0, time.Duration(w.config.Clock.Wall().UnixNano()-h.CreatedNs))
}

// recovered takes over what was found in a segment.
func (x *index) recovered(g *segment, entries []entry, damages []damage) {
	g.scanned = true
	g.entries = make([]entry, 0, len(entries))
	for _, e := range entries {
		g.add(e)
		x.indexed++
		x.stats.Recovered.add(e.rows)
		x.stats.Pending.add(e.rows)
	}
	for _, d := range damages {
		x.stats.DamagedBytes += uint64(d.bytes)
		if d.record == nil {
			x.stats.Damaged[d.reason]++
			continue
		}
		x.stats.Recovered.add(d.record.rows)
		x.stats.Dropped[d.reason].add(d.record.rows)
	}
}

type foreignError string

func (e foreignError) Error() string { return "written by host " + string(e) }

// strange decides what happens to a segment that is not ours to send. f is open.
func (w *writer) strange(g *segment, f File, err error) {
	var foreign foreignError
	switch {
	case errors.Is(err, errNewer):
		w.foreign(Newer, g.name(), err)
		w.skip(g, nil)
	case errors.As(err, &foreign):
		w.foreign(Foreign, g.name(), err)
		w.skip(g, nil)
	case !errors.Is(err, errHead):
		w.skip(g, err)
	case unborn(f, g.size):
		w.mu.Lock()
		g.scanned, g.doomed = true, true // a kill between its creation and its first record
		w.index.stats.Foreign[Empty]++
		w.mu.Unlock()
	default:
		w.foreign(Headless, g.name(), err)
		name := fileName(g.number, kindCorrupt)
		if err := w.config.FS.Rename(g.name(), name); err == nil {
			w.quarantine.add(FileInfo{Name: name, Size: g.size})
		}
		w.skip(g, nil)
	}
}

// unborn reports whether a file holds at most a part of its own head.
func unborn(f io.ReaderAt, size int64) bool {
	if size > recordsAt {
		return false
	}
	var start [len(slotMagic)]byte
	n, err := f.ReadAt(start[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	return bytes.Equal(start[:n], slotMagic[:n]) || start == [len(slotMagic)]byte{}
}

// skip leaves a segment where it is. An error says why it cannot be read.
func (w *writer) skip(g *segment, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.foreign(Headless, g.name(), err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	g.scanned = true
	w.index.forget(g)
}
