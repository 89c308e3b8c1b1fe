package ownership

import "sync/atomic"

// Key is what a look-up asks for, but its moment and port.
type Key struct {
	Network NetworkID
	Addr    Addr
}

// Found is where the table keeps what it knows of a key. It serves for the look-ups of one batch: whatever happens to the table meanwhile is noticed.
type Found struct {
	key  Key
	rec  record         // nil: nobody is known to have had the address
	slot *atomic.Uint32 // of the index, and what it said; of an address that nobody had, Table.added
	said uint32
	at   uint32 // the slot's number
	seen uint64 // what log.recycled said before
}

// stands says that nothing that the finder saw has been replaced or written over since. Only then all of it was true at one moment: a release and
// the watermark after it may have come between a look at a range and one at its exporter.
func (f *Found) stands(t *Table) bool {
	return f.slot.Load() == f.said && t.log.recycled.Load() == f.seen
}

// findAtOnce is how many waits for memory overlap: more would push each other out of the nearest cache.
const findAtOnce = 64

// Find looks for many keys at once: the processor waits for memory once a few dozen keys, and not twice a look-up. At a million addresses
// in random order that is most of the time of a look-up. found is as long as keys.
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
		ix.slots[uint32(h)&ix.mask].Load()
	}
	var somebody [findAtOnce]*Found
	n := 0
	for i := range keys {
		f := &found[i]
		f.key, f.seen = keys[i], seen
		if t.candidate(ix, hashes[i], uint32(hashes[i]), added, f) {
			somebody[n] = f
			n++
		}
	}
	for _, f := range somebody[:n] {
		f.rec[0].Load()
		f.rec[min(4, len(f.rec)-1)].Load() // often on the next line
	}
	for _, f := range somebody[:n] {
		if f.rec.is(f.key) || t.goOn(ix, added, f) {
			w := f.rec[min(2+int(f.rec[0].Load()/wideKey&1)*2, len(f.rec)-1)].Load() // the newest range's
			t.exporters.at(exporterOf(w)).verified.Load()
			t.owners.at(ownerOf(w)).owner.Load()
		}
	}
}

// findOne is find for one key.
func (t *Table) findOne(k Key, f *Found) {
	f.key, f.seen = k, t.log.recycled.Load()
	added, ix := t.added.Load(), t.index.Load()
	h := t.hash(uint32(k.Network), k.Addr)
	if t.candidate(ix, h, uint32(h), added, f) && !f.rec.is(k) {
		t.goOn(ix, added, f)
	}
}

// candidate goes on from slot i to the next record that may be the key's.
func (t *Table) candidate(ix *index, h uint64, i, added uint32, f *Found) bool {
	i, s := ix.probe(tagOf(h), i)
	if s == slotEmpty {
		f.rec, f.slot, f.said = nil, &t.added, added
		return false
	}
	f.rec, f.slot, f.said, f.at = t.log.at(s&refMask), &ix.slots[i&ix.mask], s, i
	return true
}

// goOn takes the next candidates, until one is the key's or none is left.
func (t *Table) goOn(ix *index, added uint32, f *Found) bool {
	h := t.hash(uint32(f.key.Network), f.key.Addr)
	for t.candidate(ix, h, f.at+1, added, f) {
		if f.rec.is(f.key) {
			return true
		}
	}
	return false
}
