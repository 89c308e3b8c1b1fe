package ownership

import (
	"math"
	"sync/atomic"
)

// Key is what a look-up asks for, but its moment and port.
type Key struct {
	Network NetworkID
	Addr    Addr
}

// Found is where the table keeps what it knows of a key. It serves for the look-ups of one batch: whatever happens to the table meanwhile is noticed.
type Found struct {
	key   Key
	rec   *front
	slots *atomic.Uint64 // two of the index, one of them the key's, and what they said
	said  uint64
	ref   uint32 // where the record is; 0: nobody is known to have had the address
	added uint32 // what Table.added said before
	seen  uint64 // what log.recycled said before
}

func (f *Found) nobody() bool { return f.ref == 0 }

// stands says that nothing that the finder saw has been replaced or written over since. Only then all of it was true at one moment: a release and
// the watermark after it may have come between a look at a range and one at its exporter.
func (f *Found) stands(t *Table) bool {
	if t.log.recycled.Load() != f.seen {
		return false
	}
	if f.nobody() {
		return t.added.Load() == f.added
	}
	return f.slots.Load() == f.said
}

// findAtOnce is how many waits for memory overlap: more would push each other out of the nearest cache.
const findAtOnce = 64

// Find looks for many keys at once: the processor waits for memory once a few dozen keys, and not twice a look-up. At a million addresses
// in random order that is most of the time of a look-up. found is as long as keys. A record that only looks like the key's is told apart by the look-up itself.
func (v *View) Find(keys []Key, found []Found) {
	for len(keys) > findAtOnce {
		v.t.find(keys[:findAtOnce], found)
		keys, found = keys[findAtOnce:], found[findAtOnce:]
	}
	v.t.find(keys, found)
}

// Loops that read memory do nothing else: the fewer instructions between two reads, and the fewer branches that nobody can foresee, the more of
// them are under way at once.
func (t *Table) find(keys []Key, found []Found) {
	var hashes [findAtOnce]uint64
	seen, added, ix := t.log.recycled.Load(), t.added.Load(), t.index.Load()
	for i := range keys {
		hashes[i] = t.hash(uint32(keys[i].Network), keys[i].Addr)
	}
	for _, h := range hashes[:len(keys)] {
		ix.groups[uint32(h)&ix.mask][0].Load()
	}
	found = found[:len(keys)]
	// No branches here: which slot has the key, if any, cannot be foreseen.
	for i := range found {
		f, h := &found[i], hashes[i]
		f.key, f.seen, f.added = keys[i], seen, added
		g, tags := &ix.groups[uint32(h)&ix.mask], uint64(tagOf(h))*lanes
		a, b := g[0].Load(), g[1].Load()
		like := alike(a, tags)
		other := (like - 1) >> 63 // 1: it is not in the first word
		like |= alike(b, tags) & -other
		none := uint32((like - 1) >> 63) // 1: it is not in the second either
		f.said = a ^ (a^b)&-other
		// 1, where no record is, says that the key may be in the next group
		f.ref = uint32(f.said>>(32&^like))>>tagBits&(none-1) | uint32((b>>32+math.MaxUint32)>>32)&none
		f.slots, f.rec = &g[other], t.log.front(f.ref)
	}
	for i := range found {
		r := found[i].rec
		r[0].Load()
		r[4].Load() // often on the next line
	}
}

// findOne is find for one key, to the end.
func (t *Table) findOne(k Key, f *Found) {
	f.key, f.seen, f.added = k, t.log.recycled.Load(), t.added.Load()
	h, ix := t.hash(uint32(k.Network), k.Addr), t.index.Load()
	for home := uint32(h) & ix.mask; ; home = (home + 1) & ix.mask {
		g := &ix.groups[home]
		for i := range uint32(groupLen) {
			f.slots = &g[i/2]
			f.said = f.slots.Load()
			s := uint32(f.said >> (i % 2 * 32))
			f.ref, f.rec = s>>tagBits, t.log.front(s>>tagBits)
			if s&tagMask == tagOf(h) && f.rec.is(&f.key) {
				return
			}
		}
		if !g.wasFull() {
			f.ref = 0
			return
		}
	}
}
