package spool

// FaultyDisk is the simulated file system for tests that see this room from outside.
type FaultyDisk struct{ *sim }

// NewFaultyDisk returns an empty one.
func NewFaultyDisk(seed uint64) FaultyDisk { return FaultyDisk{newSim(seed, 0)} }

// SmallOn is a small spool on a simulated disk and the clock of the bubble.
func SmallOn(d FaultyDisk, run string) Config {
	c := simulated(d, run)
	c.MaxBytes, c.SegmentBytes, c.CacheBytes, c.MemoryBytes = 64<<20, 16<<10, 8<<10, 64<<20 // nothing overflows
	return c
}

// Kill ends the process that uses the disk, Cut the power, Heal all faults.
func (d FaultyDisk) Kill() { d.kill() }

// Cut is a power cut.
func (d FaultyDisk) Cut() { d.cut() }

// Heal ends all faults.
func (d FaultyDisk) Heal() { d.heal() }

// Flip changes a bit and reports whether there was one.
func (d FaultyDisk) Flip() bool { return d.flip() }

// Fail makes every write fail.
func (d FaultyDisk) Fail() { d.spoil() }

// Fill leaves room for so many bytes.
func (d FaultyDisk) Fill(room int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = d.used() + room + 1
}
