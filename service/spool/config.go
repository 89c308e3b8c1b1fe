package spool

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where the spool is, what bounds it, and who writes.
type Config struct {
	FS FS // the directory; nil: memory only

	MaxBytes        int64         // on disk, quarantine not included
	MaxAge          time.Duration // of a batch; it must be below the time the store keeps raw rows
	MaxBatches      int           // in memory and on disk
	MemoryBytes     int64         // of batches that are not on disk
	CacheBytes      int64         // of batches that are on disk and kept in memory to be sent without a read
	SegmentBytes    int64         // a segment that reaches it is followed by a new one
	QuarantineBytes int64
	SyncEvery       time.Duration
	RetryEvery      time.Duration // how often an unusable directory is tried again
	Unsealed        time.Duration // how much older than its Append a batch's oldest record may be, for the word to the next run ([Spool.Sealed])
	KeepAcked       time.Duration // how long batches on disk are kept after their acknowledgement, for [Spool.Recall]; 0: not at all

	// Shrink makes fewer bytes of batches of this run that were never handed out, where they would be dropped because the spool is full. What it returns takes
	// their place; its sequence numbers are some of theirs, ascending. An error: they stay as they are. nil: nothing is shrunk. It may be called from several
	// goroutines at once: what is in memory is shrunk by who adds to it, what is on disk by Run.
	Shrink func([]Batch) ([]Batch, error)

	Run     string // this run
	Metrics string // what the names of the metrics begin with
	Host    string // segments of other hosts are left alone
	BootID  string // within one boot, ages do not depend on the wall clock

	Clock Clock // zero: the machine's
}

// Clock tells the time. Both functions or none are set.
type Clock struct {
	Wall func() time.Time
	Boot func() time.Duration // since the start of the host, sleep included
}

// Default returns the bounds that hold for an exporter where nothing else is said: 256 MiB and 6 h on disk, below 8 MiB of memory while the
// disk is well.
func Default() Config {
	return Config{
		MaxBytes: 256 << 20, MaxAge: 6 * time.Hour, MaxBatches: maxBatches, MemoryBytes: 64 << 20, CacheBytes: 2 << 20,
		SegmentBytes: 4 << 20, QuarantineBytes: 16 << 20, SyncEvery: time.Second, RetryEvery: 5 * time.Second, Metrics: "tributary_exporter_spool",
	}
}

// maxBatches lets a quiet exporter keep the batches of 6 h, two a second, in less than 3 MiB of memory.
const maxBatches = 49152

// maxSegments bounds the files and what is remembered of each; only a crash loop makes so many.
const maxSegments = 2048

func (c *Config) check() error {
	switch {
	case c.MaxBytes < 64<<10:
		return fmt.Errorf("spool size %d is below 64 KiB", c.MaxBytes)
	case c.MaxAge <= 0 || c.SyncEvery <= 0 || c.RetryEvery <= 0:
		return fmt.Errorf("spool times must be above zero: age %v, sync %v, retry %v", c.MaxAge, c.SyncEvery, c.RetryEvery)
	case c.MaxBatches < 1 || c.MemoryBytes < 0 || c.CacheBytes < 0 || c.QuarantineBytes < 0 || c.SegmentBytes < 1:
		return fmt.Errorf("a spool bound is negative or zero: %d batches, memory %d, cache %d, quarantine %d, segment %d",
			c.MaxBatches, c.MemoryBytes, c.CacheBytes, c.QuarantineBytes, c.SegmentBytes)
	case c.Run == "":
		return fmt.Errorf("the spool needs the name of the run")
	}
	// So that dropping the oldest segment costs at most an eighth.
	c.SegmentBytes = min(c.SegmentBytes, c.MaxBytes/8)
	if c.Clock.Wall == nil {
		c.Clock = Clock{Wall: time.Now, Boot: uptime}
	}
	_, err := encodeSlot(c.head(0, 0))
	return err
}

// head makes the head of a new segment.
func (c *Config) head(now time.Duration, nonce uint64) head {
	return head{
		Run: c.Run, Host: c.Host, BootID: c.BootID, Nonce: nonce,
		CreatedNs: c.Clock.Wall().UnixNano(), BootNs: now.Nanoseconds(),
	}
}

// uptime reads CLOCK_BOOTTIME, which nobody can set.
func uptime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0 // cannot happen since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}
