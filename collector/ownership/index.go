package ownership

import (
	"math/bits"
	"sync/atomic"
)

const (
	tagBits    = 7
	slotBits   = 32 - tagBits
	slotMask   = 1<<slotBits - 1
	slotEmpty  = 0
	slotGone   = 1 // a tombstone: readers probe past it
	maxEntries = slotMask - 2
)

// index finds the entry of a key: open addressing with linear probing, 4 bytes a slot: 7 bits of the hash and 25 of the entry's
// number (plus 1, entries count from 1). A deleted slot stays a tombstone until the next rebuild, because moving its neighbours
// could hide them from a reader that is on its way.
type index struct {
	mask  uint32
	slots []atomic.Uint32
}

func newIndex(size uint32) *index { return &index{mask: size - 1, slots: make([]atomic.Uint32, size)} }

func (t *Table) hash(net uint32, a Addr) uint64 {
	hi, lo := bits.Mul64(a.Hi^t.seed[0]^uint64(net)*0x9e3779b97f4a7c15, a.Lo^t.seed[1])
	hi, lo = bits.Mul64(hi^lo^t.seed[1], 0xd6e8feb86659fd93^uint64(net))
	return hi ^ lo
}

func slotOf(h uint64, entry uint32) uint32 { return uint32(h>>(64-tagBits))<<slotBits | (entry + 1) }

// find gives the number of the key's entry, or 0.
func (t *Table) find(net uint32, a Addr) uint32 {
	if net == 0 {
		return 0
	}
	h := t.hash(net, a)
	ix := t.index.Load()
	tag := uint32(h>>(64-tagBits)) << slotBits
	for i := uint32(h) & ix.mask; ; i = (i + 1) & ix.mask {
		s := ix.slots[i].Load()
		if s == slotEmpty {
			return 0
		}
		if s == slotGone || s&^slotMask != tag {
			continue
		}
		n := s&slotMask - 1
		if e := t.entries.at(n); e.lo.Load() == a.Lo && e.hi.Load() == a.Hi && e.net.Load() == net {
			return n
		}
	}
}

// insert links a complete entry. The caller knows that the key is not there.
func (t *Table) insert(net uint32, a Addr, n uint32) {
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
		ix.slots[i].Store(slotOf(h, n))
		return
	}
}

func (t *Table) unlink(net uint32, a Addr, n uint32) {
	h := t.hash(net, a)
	ix := t.index.Load()
	want := slotOf(h, n)
	for i := uint32(h) & ix.mask; ; i = (i + 1) & ix.mask {
		switch ix.slots[i].Load() {
		case want:
			ix.slots[i].Store(slotGone)
			return
		case slotEmpty:
			return
		}
	}
}

// rebuild writes a new index without tombstones, large enough for half as many entries again, and publishes it whole.
func (t *Table) rebuild() {
	size := uint32(1024)
	for uint64(size)*7 < uint64(t.entries.live+1)*15 {
		size *= 2
	}
	old, ix := t.index.Load(), newIndex(size)
	t.used = 0
	for i := range old.slots {
		s := old.slots[i].Load()
		if s <= slotGone {
			continue
		}
		n := s&slotMask - 1
		e := t.entries.at(n)
		h := t.hash(e.net.Load(), e.addr())
		for j := uint32(h) & ix.mask; ; j = (j + 1) & ix.mask {
			if ix.slots[j].Load() == slotEmpty {
				ix.slots[j].Store(s)
				t.used++
				break
			}
		}
	}
	t.index.Store(ix)
}
