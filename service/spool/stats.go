package spool

import "time"

// Reason says why a batch was lost.
type Reason uint8

// The reasons. Those of memory say why the batch was not on disk when there was no more memory for it.
const (
	_               Reason = iota
	OverflowSize           // the oldest made room: bytes on disk
	OverflowAge            // it became too old to be stored anywhere
	OverflowBatches        // the oldest made room: number of batches or segments
	Corrupt                // it does not have the bytes any more that were written
	Torn                   // its end is not there: a power cut, or a kill in the middle of the write
	Unreadable             // the file is gone or cannot be read
	MemoryDiskFull         // memory was full, and so was the disk
	MemoryDiskError        // memory was full, and the disk refused to write
	MemoryNoDisk           // memory was full, and there is no usable directory
	MemoryDiskSlow         // memory was full, and the disk did not keep up
	Shutdown               // it was in memory only when the program stopped
	Invalid                // empty, too large, or out of order: a mistake of the caller
	reasons
)

var reasonNames = [reasons]string{
	"", "overflow_size", "overflow_age", "overflow_batches", "corrupt", "torn", "unreadable", "memory_disk_full",
	"memory_disk_error", "memory_no_disk", "memory_disk_slow", "shutdown", "invalid",
}

// String returns the reason's label.
func (r Reason) String() string { return reasonNames[r] }

// Reasons returns all of them.
func Reasons() []Reason {
	all := make([]Reason, 0, reasons-1)
	for r := Reason(1); r < reasons; r++ {
		all = append(all, r)
	}
	return all
}

// Count is a number of batches and of the rows in them.
type Count struct {
	Batches uint64
	Rows    uint64
}

func (c *Count) add(rows uint32) {
	c.Batches++
	c.Rows += uint64(rows)
}

func (c *Count) sub(rows uint32) {
	c.Batches--
	c.Rows -= uint64(rows)
}

// Stats are the books of one moment: Appended + Recovered + Recalled + Rollups = Acked + Rejected + Σ Dropped + RolledUp + Pending. After [Spool.Run] has
// returned, Pending is what the next run will find.
type Stats struct {
	Appended  Count
	Recovered Count // found on disk, left by earlier runs
	Recalled  Count // acknowledged, and pending again since
	Rollups   Count // that [Config.Shrink] made of RolledUp
	RolledUp  Count
	Acked     Count
	Rejected  Count // by a collector
	Dropped   [reasons]Count
	Pending   Count  // not settled: waiting or under way
	InMemory  Count  // of these, not on disk
	UnderWay  uint64 // batches handed out and not settled, those that overflowed meanwhile included

	MemoryBytes   int64         // of InMemory
	DiskBytes     int64         // of all segments, settled batches in them included
	Segments      int           // files
	OldestPending time.Duration // age of the oldest batch that is not settled
	Scanning      bool          // the segments of earlier runs are not all counted yet

	Before Before // how the run before this one ended

	State State // of the disk
	Err   error // why State is not DiskOK

	Damaged       [reasons]uint64 // places on disk where no record could be read, rows unknown: Corrupt or Torn
	DamagedBytes  uint64
	Foreign       [states]uint64 // files left alone or set aside, by [SegmentState]
	Quarantined   Count          // rejected batches kept for a look
	QuarantineErr uint64         // rejected batches that could not be kept
	DiskErrors    uint64         // writes, syncs and removals that failed
	SlowWrites    uint64         // times Append did not wait any longer
	Syncs         uint64
}

// State is the state of the disk.
type State uint8

// The states.
const (
	DiskNone  State = iota // no directory, or not usable: see Stats.Err
	DiskOK                 // batches go to disk
	DiskFull               // no space
	DiskError              // the last write failed for another reason
)

// String names the state for a person.
func (s State) String() string {
	return [...]string{"memory only", "ok", "disk full", "disk error"}[s]
}

// SegmentState says what a file in the directory is to us.
type SegmentState uint8

// The states of a file.
const (
	Ready    SegmentState = iota // ours to send
	Newer                        // of a newer version; left alone
	Foreign                      // of another host; left alone
	Headless                     // its head cannot be read; set aside
	Rejected                     // a batch a collector refused
	Empty                        // nothing was ever written to it; removed
	Unknown                      // not our name; left alone
	Kept                         // acknowledged, and kept a minute in case the store forgets
	states
)

// String names the state for a person.
func (s SegmentState) String() string {
	return [...]string{"ready", "newer version", "other host", "unreadable head", "rejected", "empty", "not ours", "acknowledged"}[s]
}
