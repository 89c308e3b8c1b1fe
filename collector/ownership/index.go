package ownership

import (
	"math/bits"
	"sync/atomic"
)

const (
	refBits    = 27
	refMask    = 1<<refBits - 1
	slotEmpty  = 0
	slotGone   = 1 // a tombstone: readers probe past it
	maxEntries = 16 << 20
)

// index finds the record of a key: open addressing with linear probing, 4 bytes a slot: 5 bits of the hash and 27 of the record's
// place in the log. A deleted slot stays a tombstone until the next rebuild, because moving its neighbours could hide them from a
// reader that is on its way.
type index struct {
	mask  uint32
	slots []atomic.Uint32
}

func newIndex(size uint32) *index {
	slots := make([]atomic.Uint32, size)
	advise(slots)
	return &index{mask: size - 1, slots: slots}
}

func (t *Table) hash(net uint32, a Addr) uint64 {
	hi, lo := bits.Mul64(a.Hi^t.seed[0]^uint64(net)*0x9e3779b97f4a7c15, a.Lo^t.seed[1])
	hi, lo = bits.Mul64(hi^lo^t.seed[1], 0xd6e8feb86659fd93^uint64(net))
	return hi ^ lo
}

// tagOf is the part of the hash that stands in the slot: the home of a key comes from other bits.
func tagOf(h uint64) uint32 { return uint32(h>>(64-32+refBits)) << refBits }

// probe goes on from slot i to the first that is empty or has the tag.
func (ix *index) probe(tag, i uint32) (at, said uint32) {
	for ; ; i++ {
		s := ix.slots[i&ix.mask].Load()
		if s&^refMask == tag && s != slotGone || s == slotEmpty {
			return i, s
		}
	}
}

// slotOf gives the slot and the place of a key's record, or noSlot. For writers.
func (t *Table) slotOf(net uint32, a Addr) (slot, ref uint32) {
	if net == 0 {
		return noSlot, 0
	}
	k, h, ix := Key{NetworkID(net), a}, t.hash(net, a), t.index.Load()
	for i := uint32(h); ; i++ {
		at, s := ix.probe(tagOf(h), i)
		if s == slotEmpty {
			return noSlot, 0
		}
		if t.log.at(s & refMask).is(k) {
			return at & ix.mask, s & refMask
		}
		i = at
	}
}

// insert links a record of a key that is not there, and says in which slot.
func (t *Table) insert(net uint32, a Addr, ref uint32) (slot uint32) {
	if ix := t.index.Load(); uint64(t.used+1)*10 > uint64(len(ix.slots))*7 {
		t.rebuild()
	}
	h := t.hash(net, a)
	ix := t.index.Load()
	for i := uint32(h) & ix.mask; ; i = (i + 1) & ix.mask {
		s := ix.slots[i].Load()
		if s > slotGone {
			continue
		}
		if s == slotEmpty {
			t.used++
		}
		ix.slots[i].Store(tagOf(h) | ref)
		t.added.Add(1)
		return i
	}
}

// rebuild writes a new index without tombstones, large enough for half as many entries again, and publishes it whole.
func (t *Table) rebuild() {
	size := uint32(1024)
	for uint64(size)*7 < uint64(t.addresses+1)*15 {
		size *= 2
	}
	old, ix := t.index.Load(), newIndex(size)
	t.used = 0
	for i := range old.slots {
		s := old.slots[i].Load()
		if s <= slotGone {
			continue
		}
		for j := uint32(t.hash(t.log.at(s&refMask).key())) & ix.mask; ; j = (j + 1) & ix.mask {
			if ix.slots[j].Load() == slotEmpty {
				ix.slots[j].Store(s)
				t.used++
				break
			}
		}
	}
	t.index.Store(ix)
	t.log.recycled.Add(1) // whoever looks at the old one's slots sees no change any more
}
