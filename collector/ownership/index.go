package ownership

import (
	"math"
	"math/bits"
	"sync/atomic"
)

const (
	tagBits    = 5
	tagMask    = 1<<tagBits - 1
	refBits    = 32 - tagBits
	slotEmpty  = 0
	slotGone   = 1 << tagBits // a tombstone: readers look past it
	maxEntries = 16 << 20
)

// index finds the record of a key: open addressing, 4 bytes a slot: 27 bits of the record's place in the log and 5 of the hash. Slots come in groups of four,
// two in a word, so that a reader looks at four without a branch: which of them has the key cannot be foreseen. A key is in the first slot of its group that was
// free, or of the next group that had one: a group whose last slot is empty was never full. A deleted slot stays a tombstone until the next rebuild,
// because moving its neighbours could hide them from a reader that is on its way.
type index struct {
	mask   uint32
	groups []group
}

type group [2]atomic.Uint64

const groupLen = 4

func newIndex(slots uint32) *index {
	groups := make([]group, slots/groupLen)
	advise(groups)
	return &index{mask: slots/groupLen - 1, groups: groups}
}

func (ix *index) len() int { return len(ix.groups) * groupLen }

// at is what a slot says, set changes it: there is one writer.
func (ix *index) at(slot uint32) uint32 { return ix.groups[slot/groupLen].at(slot % groupLen) }

func (ix *index) set(slot, s uint32) {
	w, shift := &ix.groups[slot/groupLen][slot/2%2], slot%2*32
	w.Store(w.Load()&^(math.MaxUint32<<shift) | uint64(s)<<shift)
}

func (g *group) at(slot uint32) uint32 { return uint32(g[slot/2].Load() >> (slot % 2 * 32)) }

// wasFull: keys that belong here may be in the next group.
func (g *group) wasFull() bool { return g.at(groupLen-1) != slotEmpty }

// lanes has a 1 in the place of each slot of a word.
const lanes = 1<<32 | 1

// alike has the sixth bit for each slot of a word whose tag is the same.
func alike(word, tags uint64) uint64 {
	return ((word^tags)&(tagMask*lanes)+tagMask*lanes)&(32*lanes) ^ 32*lanes
}

func (t *Table) hash(net uint32, a Addr) uint64 {
	hi, lo := bits.Mul64(a.Hi^t.seed[0]^uint64(net)*0x9e3779b97f4a7c15, a.Lo^t.seed[1])
	hi, lo = bits.Mul64(hi^lo^t.seed[1], 0xd6e8feb86659fd93^uint64(net))
	return hi ^ lo
}

// tagOf is the part of the hash that stands in the slot: the home of a key comes from other bits. It is not 0, which slots without a record have.
func tagOf(h uint64) uint32 { return uint32(h>>32*tagMask>>32) + 1 }

// slotOf gives the slot and the place of a key's record, or noSlot. For writers.
func (t *Table) slotOf(net uint32, a Addr) (slot, ref uint32) {
	if net == 0 {
		return noSlot, 0
	}
	k, h, ix := Key{NetworkID(net), a}, t.hash(net, a), t.index.Load()
	for home := uint32(h) & ix.mask; ; home = (home + 1) & ix.mask {
		g := &ix.groups[home]
		for i := range uint32(groupLen) {
			if s := g.at(i); s&tagMask == tagOf(h) && t.log.front(s>>tagBits).is(&k) {
				return home*groupLen + i, s >> tagBits
			}
		}
		if !g.wasFull() {
			return noSlot, 0
		}
	}
}

// insert links a record of a key that is not there, and says in which slot.
func (t *Table) insert(net uint32, a Addr, ref uint32) (slot uint32) {
	if ix := t.index.Load(); uint64(t.used+1)*10 > uint64(ix.len())*7 {
		t.rebuild()
	}
	h, ix := t.hash(net, a), t.index.Load()
	slot = ix.free(h)
	if ix.at(slot) == slotEmpty {
		t.used++
	}
	ix.set(slot, ref<<tagBits|tagOf(h))
	t.added.Add(1)
	return slot
}

// free is the first slot without a record for a key.
func (ix *index) free(h uint64) uint32 {
	slot := uint32(h) & ix.mask * groupLen
	for ix.at(slot) > slotGone {
		slot = (slot + 1) % uint32(ix.len())
	}
	return slot
}

// rebuild writes a new index without tombstones, large enough for half as many entries again, and publishes it whole.
func (t *Table) rebuild() {
	size := uint32(1024)
	for uint64(size)*7 < uint64(t.addresses+1)*15 {
		size *= 2
	}
	old, ix := t.index.Load(), newIndex(size)
	t.used = 0
	for i := range uint32(old.len()) {
		if s := old.at(i); s > slotGone {
			ix.set(ix.free(t.hash(t.log.at(s>>tagBits).key())), s)
			t.used++
		}
	}
	t.index.Store(ix)
	t.log.recycled.Add(1) // whoever looks at the old one's slots sees no change any more
}
