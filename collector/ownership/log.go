package ownership

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const (
	chunkWords = 1 << chunkShift // 64 KiB
	chunkShift = 13
	maxChunks  = 1 << (refBits - chunkShift)
	// fullWords is how many words claims may fill: what is left is for what replaces records, and for what died and is not cleaned up yet.
	fullWords = maxChunks * chunkWords / 8 * 7
	// nobodys is the first word where no record is but Find may look: of no key.
	nobodys   = 1 << 10
	noRecords = -1 // of a chunk that is not in use
	// minFresh and maxFresh bound the chunks that are made at once when there are many: 2 MiB, a huge page, to 16 MiB.
	minFresh, maxFresh = hugePage / 8 / chunkWords, 256
)

type chunk [chunkWords]atomic.Uint64

// recordLog keeps the records: each is written behind the last one, in chunks that never move. A record that was replaced leaves a hole; when holes
// make up more than a 16th, the emptiest chunk's records are written anew and the chunk is used again. Only writers write.
type recordLog struct {
	dir atomic.Pointer[[]*atomic.Uint64] // where the chunks begin
	// recycled counts whenever readers may be looking at a record that is about to be written over, or at an index that is changed no more: a reader that saw the same
	// count before and after has seen nothing of it. That another record took the place of the one looked at, shows in the index.
	recycled atomic.Uint64

	_      cpu.CacheLinePad // what follows belongs to writers
	live   []int32          // words in use, by chunk
	words  int              // in use, of all
	unused []uint32         // chunks without records
	fresh  []chunk          // that were never in use
	head   uint32           // where the next record goes
	room   uint32           // words behind it in its chunk
}

func newRecordLog() *recordLog {
	l := &recordLog{}
	l.dir.Store(new([]*atomic.Uint64))
	l.next()
	l.at(0)[0].Store(nobodys)
	l.at(0)[1].Store(nobodys)
	return l
}

// at gives a record, and all that lies behind it in its chunk. To index a pointer to an array would read its first word, to see whether it is nil:
// chunks begin at addresses that share a few sets of the cache, so that each look-up waited for one more line.
func (l *recordLog) at(ref uint32) record {
	return unsafe.Slice((*l.dir.Load())[ref>>chunkShift], chunkWords)[ref&(chunkWords-1):]
}

// front gives the first words of a record. A chunk has as many behind the beginning of its last record, too.
func (l *recordLog) front(ref uint32) *front {
	return (*front)(unsafe.Add(unsafe.Pointer((*l.dir.Load())[ref>>chunkShift]), ref%chunkWords*8))
}

// append writes a record and says where.
func (l *recordLog) append(rec []uint64) uint32 {
	if int(l.room) < len(rec) {
		l.next()
	}
	ref, to := l.head, l.at(l.head)
	for i, w := range rec {
		to[i].Store(w)
	}
	l.head += uint32(len(rec))
	l.room -= uint32(len(rec))
	l.count(ref, len(rec))
	return ref
}

// count notes that a record of so many words came into use, or went out of it.
func (l *recordLog) count(ref uint32, words int) {
	l.live[ref>>chunkShift] += int32(words)
	l.words += words
}

// next goes on in a chunk without records.
func (l *recordLog) next() {
	dir := *l.dir.Load()
	c := uint32(len(dir))
	if n := len(l.unused); n > 0 {
		c, l.unused = l.unused[n-1], l.unused[:n-1]
		l.recycled.Add(1)
	} else {
		// Appending writes behind the length that readers of the old header know, never into it.
		if len(l.fresh) == 0 {
			l.fresh = make([]chunk, pieceAfter(len(dir)))
			advise(l.fresh)
		}
		dir, l.fresh = append(dir, &l.fresh[0][0]), l.fresh[1:]
		l.live = append(l.live, 0)
		l.dir.Store(&dir)
	}
	l.live[c] = 0
	l.head = firstRecord(c)
	l.room = (c+1)<<chunkShift - l.head - (frontWords - shortestRec)
}

// pieceAfter is how many chunks are made at once after so many.
func pieceAfter(chunks int) int {
	if chunks < minFresh {
		return 1 + chunks/16
	}
	return min(max(minFresh, 1+chunks/16), maxFresh)
}

// firstRecord is where the records of a chunk begin: none has the number of a free slot.
func firstRecord(c uint32) uint32 { return max(c<<chunkShift, slotGone>>tagBits+1) }

// wasteful says that holes take too much room.
func (l *recordLog) wasteful() bool {
	holes := (len(l.live)-len(l.unused))*chunkWords - l.words
	return holes > l.words/16+2*chunkWords
}

// emptiest is the chunk with the least in use, the present one left out.
func (l *recordLog) emptiest() uint32 {
	best, least := uint32(0), int32(chunkWords+1)
	for c, n := range l.live {
		if n != noRecords && n < least && uint32(c) != l.head>>chunkShift {
			best, least = uint32(c), n
		}
	}
	return best
}

// retire takes a chunk without records out of use.
func (l *recordLog) retire(c uint32) {
	l.live[c] = noRecords
	l.unused = append(l.unused, c)
}

func (l *recordLog) bytes() int {
	return (len(l.live)+len(l.fresh))*chunkWords*8 + (cap(l.live)+cap(l.unused))*4
}

// tidy writes the records of the emptiest chunks anew while holes take too much room.
func (t *Table) tidy() {
	for t.log.wasteful() {
		t.evacuate(t.log.emptiest())
	}
}

// evacuate moves what a chunk holds to the head of the log. A record is in use if the index says so.
func (t *Table) evacuate(c uint32) {
	ix := t.index.Load()
	t.askAhead(ix, c)
	ref := firstRecord(c)
	for t.log.live[c] > 0 {
		r := t.log.at(ref)
		_, _, _, size := r.shape()
		net, addr := r.key()
		if slot, found := t.slotOf(net, addr); slot != noSlot && found == ref {
			t.words = t.words[:0]
			for i := range size {
				t.words = append(t.words, r[i].Load())
			}
			t.log.count(ref, -size)
			ix.set(slot, ix.at(slot)&tagMask|t.log.append(t.words)<<tagBits)
		}
		ref += uint32(size)
	}
	t.log.retire(c)
}

// askAhead reads where the index has a chunk's records, all at once: one after the other the writer would wait for memory at each.
func (t *Table) askAhead(ix *index, c uint32) {
	for ref := firstRecord(c); ref>>chunkShift == c; {
		r := t.log.at(ref)
		_, _, _, size := r.shape()
		if size > 1 { // what lies behind the last record may be anything
			ix.groups[uint32(t.hash(r.key()))&ix.mask][0].Load()
		}
		ref += uint32(size)
	}
}
