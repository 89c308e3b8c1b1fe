package clock

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheTightestSampleWins(t *testing.T) {
	readings := []Reading{{100, 10500, 900}, {1000, 11010, 1020}, {2000, 12400, 2600}, {3000, 13500, 3900}, {4000, 14500, 4999}}
	next := 0
	c, err := New(Options{Read: func() (Reading, error) { next++; return readings[(next-1)%len(readings)], nil }})
	if err != nil {
		t.Fatal(err)
	}
	if c.Anchor() != 10000 || c.Wall(5) != 10005 || next != samples {
		t.Errorf("anchor %d after %d samples", c.Anchor(), next)
	}
}

func TestAnchorFollowsTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boot := time.Now()
		var set atomic.Int64 // nanoseconds
		var steps []time.Duration
		c, err := New(Options{
			Every: time.Minute,
			Read: func() (Reading, error) {
				up := time.Since(boot).Nanoseconds()
				return Reading{up, time.Now().UnixNano() + set.Load(), up}, nil
			},
			Step: func(by time.Duration) { steps = append(steps, by) },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		for _, s := range []struct{ set, want time.Duration }{
			{300 * time.Millisecond, 300 * time.Millisecond}, {time.Hour, time.Hour}, {-time.Minute, -time.Minute},
		} {
			set.Store(int64(s.set))
			time.Sleep(time.Minute + time.Second)
			if got := c.Anchor().Time(0); !got.Equal(boot.Add(s.want)) {
				t.Errorf("kernel time 0 is %v, want %v", got, boot.Add(s.want))
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(steps) != 2 || steps[0] != time.Hour-300*time.Millisecond {
			t.Errorf("steps %v", steps)
		}
	})
}

func TestUnreadableClocks(t *testing.T) {
	broken := errors.New("broken")
	fail := true
	read := func() (Reading, error) {
		if fail {
			return Reading{}, broken
		}
		return Reading{0, 7, 0}, nil
	}
	if _, err := New(Options{Read: read}); !errors.Is(err, broken) {
		t.Errorf("New: %v", err)
	}
	fail = false
	c, err := New(Options{Read: read})
	if err != nil {
		t.Fatal(err)
	}
	fail = true
	if err := c.Sync(); !errors.Is(err, broken) || c.Anchor() != 7 {
		t.Errorf("sync: %v, anchor %d", err, c.Anchor())
	}
}

func TestMachineClocksAgree(t *testing.T) {
	c, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	if off := time.Since(c.Anchor().Time(uint64(ts.Nano()))).Abs(); off > time.Second {
		t.Errorf("off by %v", off)
	}
}

func TestSetClockIsMeasuredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set atomic.Int64
		c, err := New(Options{Read: func() (Reading, error) { return Reading{0, set.Load(), 0}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		tell, stopped := make(chan func(), 1), false
		c.watch = func(f func()) (func(), error) {
			tell <- f
			return func() { stopped = true }, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		set.Store(int64(24 * time.Hour))
		(<-tell)()
		synctest.Wait()
		if c.Anchor() != Anchor(24*time.Hour) {
			t.Errorf("anchor %d", c.Anchor())
		}
		cancel()
		if err := <-done; err != nil || !stopped {
			t.Errorf("%v, stopped %v", err, stopped)
		}
	})
}

// The clock of this machine is not set here: make test-clocks does that in a virtual machine.
func TestWatchingTheMachine(t *testing.T) {
	stop, err := watchSettings(func() {})
	if err != nil {
		t.Fatal(err)
	}
	stop()
}
