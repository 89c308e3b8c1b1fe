// Package clock turns the kernel's times (CLOCK_BOOTTIME) into wall time.
//
// The distance between the two changes when the wall clock is set or slewed, so it
// is measured again at once when the kernel says that it was set, and every
// [Options.Every]: five samples, the one taken in the shortest time wins. Two times converted by one [Anchor] keep their order and their
// distance; convert all times of a record with one.
//
// It does not judge whether the wall clock is right.
package clock

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// samples taken for one anchor; of several the tightest is within about 100 ns.
const samples = 5

// Reading is one look at both clocks: wall lies between before and after. All are
// nanoseconds, wall since the epoch, the others of CLOCK_BOOTTIME.
type Reading struct{ Before, Wall, After int64 }

// Options are the settings of a Clock; zero values stand for the defaults.
type Options struct {
	Every time.Duration           // default 10 s
	Read  func() (Reading, error) // default: the machine's clocks; of others the kernel tells nothing
	// Step is called when the distance changed by more than a second between two
	// measurements: someone set the wall clock.
	Step func(by time.Duration)
}

// Anchor is the distance from kernel time to wall time at one moment.
type Anchor int64

// Wall converts a kernel time to nanoseconds since the epoch.
func (a Anchor) Wall(kernel uint64) int64 { return int64(kernel) + int64(a) }

// Time converts a kernel time.
func (a Anchor) Time(kernel uint64) time.Time { return time.Unix(0, a.Wall(kernel)) }

// Clock keeps the anchor. Its methods may be called from any goroutine.
type Clock struct {
	opts   Options
	anchor atomic.Int64
	watch  func(set func()) (stop func(), err error) // nil: nobody tells when the clock is set
}

// New returns a clock with a first anchor, so that it is usable without Run.
func New(opts Options) (*Clock, error) {
	if opts.Every == 0 {
		opts.Every = 10 * time.Second
	}
	c := &Clock{opts: opts}
	if opts.Read == nil {
		c.opts.Read, c.watch = readMachine, watchSettings
	}
	a, err := c.measure()
	if err != nil {
		return nil, err
	}
	c.anchor.Store(a)
	return c, nil
}

// Anchor returns the latest distance.
func (c *Clock) Anchor() Anchor { return Anchor(c.anchor.Load()) }

// Wall converts one kernel time by the latest anchor. For the times of one record
// take Anchor once.
func (c *Clock) Wall(kernel uint64) int64 { return c.Anchor().Wall(kernel) }

// Run measures again when the clock is set and every Options.Every, until ctx ends,
// and returns nil. If the clocks cannot be read, the old anchor stays.
func (c *Clock) Run(ctx context.Context) error {
	set := make(chan struct{}, 1)
	if c.watch != nil {
		told := func() {
			select {
			case set <- struct{}{}:
			default: // one is on its way
			}
		}
		if stop, err := c.watch(told); err == nil { // else the next beat finds it
			defer stop()
		}
	}
	beat := time.NewTimer(Beat(c.opts.Every))
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-set:
		case <-beat.C:
			beat.Reset(Beat(c.opts.Every))
		}
		_ = c.Sync() // the old anchor serves until the next beat
	}
}

// Sync measures now.
func (c *Clock) Sync() error {
	a, err := c.measure()
	if err != nil {
		return err
	}
	by := time.Duration(a - c.anchor.Swap(a))
	if c.opts.Step != nil && by.Abs() > time.Second {
		c.opts.Step(by)
	}
	return nil
}

func (c *Clock) measure() (int64, error) {
	var anchor int64
	best := int64(-1)
	for range samples {
		r, err := c.opts.Read()
		if err != nil {
			return 0, err
		}
		if width := r.After - r.Before; best < 0 || width < best {
			best = width
			anchor = r.Wall - r.Before - width/2
		}
	}
	return anchor, nil
}

// Boot is the kernel's time now.
func Boot() uint64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // exists since Linux 2.6.39
	return uint64(now.Nano())
}

// Beat is how long it is to the next multiple of every since boot. Periodic work that waits so falls on the same moments, and an
// idle exporter wakes once for all of it: a wake-up costs it more than the work.
func Beat(every time.Duration) time.Duration {
	return every - time.Duration(Boot())%every
}

func readMachine() (Reading, error) {
	var before, wall, after unix.Timespec
	for _, c := range []struct {
		id int32
		to *unix.Timespec
	}{{unix.CLOCK_BOOTTIME, &before}, {unix.CLOCK_REALTIME, &wall}, {unix.CLOCK_BOOTTIME, &after}} {
		if err := unix.ClockGettime(c.id, c.to); err != nil {
			return Reading{}, fmt.Errorf("read clock %d: %w", c.id, err)
		}
	}
	return Reading{before.Nano(), wall.Nano(), after.Nano()}, nil
}
