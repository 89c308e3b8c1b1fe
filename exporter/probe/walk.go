package probe

import (
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"golang.org/x/sys/unix"

	"tributary/bpf"
	"tributary/exporter/clock"
)

// walks is what is known between two walks; kernel times are CLOCK_BOOTTIME.
type walks struct {
	began   uint64 // when the last complete walk began; 0 before the first
	nextDue uint64 // the earliest due time it passed over
	quietTo uint64 // until then no connection can be due for its youth
	last    bool   // the walk after Detach was opened
}

// Readable says whether what is captured can be read with the privileges that the process has now.
func (p *Probe) Readable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots == nil {
		return ErrClosed
	}
	if _, err := p.read(); err != nil {
		return err
	}
	walk, err := p.slots.Open()
	if err != nil {
		return fmt.Errorf("open a walk: %w", err)
	}
	return walk.Close()
}

// Walk opens a pass over the open sockets. Reading it gives the active records that
// are due, one after the other, until io.EOF; the caller closes it before the next
// Walk. It is nil if nothing can be due yet. Records must be handled before ring
// records that are read later: use exporter/ring.
//
// The first pass is the inventory: the sockets that are older than Start, in every
// namespace of the scope. The first one after Detach reports every connection, due or not,
// and the ones after that nothing: so a reader that walks once more before it ends
// has all bytes up to then.
//
// A pass over the slots takes 1.4 ms where few are taken, and one over 262,144 buckets behind them 3 to 8 (BenchmarkWalk); so one is left out while the last one's
// earliest due time has not come, unless sockets opened since, over which no walk has passed, are old enough to be due.
func (p *Probe) Walk() (io.ReadCloser, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots == nil {
		return nil, ErrClosed
	}
	if p.inventory != nil && !p.detached {
		return p.openInventory()
	}
	now := clock.Boot()
	if p.detached {
		return p.lastWalk(now)
	}
	due, err := p.mayBeDue(now)
	if err != nil || !due {
		return nil, err
	}
	return p.openWalk(walks{began: now})
}

// lastWalk needs mu.
func (p *Probe) lastWalk(now uint64) (io.ReadCloser, error) {
	if p.walks.last {
		return nil, nil
	}
	if err := p.objects.WalkAll.Set(uint32(1)); err != nil {
		return nil, fmt.Errorf("prepare the last walk: %w", err)
	}
	return p.openWalk(walks{began: now, last: true})
}

// openWalk needs mu.
func (p *Probe) openWalk(w walks) (io.ReadCloser, error) {
	if err := p.objects.WalkNextDue.Set(uint64(math.MaxUint64)); err != nil {
		return nil, fmt.Errorf("prepare walk: %w", err)
	}
	var hashed uint64
	if err := p.objects.HashedSockets.Get(&hashed); err != nil {
		return nil, fmt.Errorf("read how many sockets are hashed: %w", err)
	}
	inner, err := p.slots.Open()
	if err != nil {
		return nil, fmt.Errorf("open the walk of slots: %w", err)
	}
	if hashed > 0 {
		hashed, err := p.hashed.Open()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open the walk of open sockets: %w", err), inner.Close())
		}
		inner = oneAfterTheOther{io.MultiReader(inner, hashed), inner, hashed}
	}
	return &pass{ReadCloser: inner, probe: p, walk: w}, nil
}

// oneAfterTheOther are the two parts of a walk.
type oneAfterTheOther struct {
	io.Reader
	first, second io.Closer
}

// Close implements io.Closer.
func (o oneAfterTheOther) Close() error { return errors.Join(o.first.Close(), o.second.Close()) }

// SetActiveEvery changes Options.ActiveEvery, for each connection from its next record on.
func (p *Probe) SetActiveEvery(every time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opts.ActiveEvery = every
	if p.objects == nil {
		return nil
	}
	if err := p.objects.ActiveEveryNs.Set(uint64(every)); err != nil {
		return fmt.Errorf("set the interval of active records: %w", err)
	}
	return nil
}

// mayBeDue needs mu.
func (p *Probe) mayBeDue(now uint64) (bool, error) {
	if p.walks.began == 0 || now >= p.walks.nextDue {
		return true, nil
	}
	if now < p.walks.quietTo {
		return false, nil
	}
	var perCPU []bpf.CaptureYoungCounts
	if err := p.objects.YoungSockets.Lookup(uint32(0), &perCPU); err != nil {
		return false, fmt.Errorf("read how many sockets are young: %w", err)
	}
	age := uint64(min(p.opts.ActiveFirst, p.opts.SynFirst))
	if !oldEnough(perCPU, now, 0) { // there is none: one that comes has its age before it
		p.walks.quietTo = now + age
		return false, nil
	}
	return oldEnough(perCPU, now, age), nil
}

// oldEnough says whether sockets over which no walk has passed may be as old as age. They are counted by the second (2^30 ns) of
// their opening. The count of a second that began less than age ago is of sockets that are too young, or so old that
// they have been walked over.
func oldEnough(perCPU []bpf.CaptureYoungCounts, now, age uint64) bool {
	const seconds = uint64(len(bpf.CaptureYoungCounts{}.N))
	var sum [seconds]int64
	for i := range perCPU {
		for second, n := range perCPU[i].N {
			sum[second] += n
		}
	}
	tooYoung := now>>30 - (now-min(age, now))>>30
	for back := min(tooYoung, seconds-1); back < seconds; back++ {
		if sum[(now>>30-back)%seconds] != 0 {
			return true
		}
	}
	return false
}

// pass is one walk in progress.
type pass struct {
	io.ReadCloser
	probe *Probe
	walk  walks
	ended bool
}

// Read notes the end, because only a complete walk says what is due next.
func (w *pass) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	w.ended = w.ended || err == io.EOF
	return n, err
}

// Close ends the walk.
func (w *pass) Close() error {
	err := w.ReadCloser.Close()
	p := w.probe
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil || !w.ended {
		p.walks = walks{}
		return err
	}
	if rerr := p.objects.WalkNextDue.Get(&w.walk.nextDue); rerr != nil {
		p.walks = walks{}
		return fmt.Errorf("read the next due time: %w", rerr)
	}
	p.walks = w.walk
	return err
}

// tickMicroseconds is the length of a jiffy, which the kernel tells as the resolution of
// its coarse clocks (KTIME_LOW_RES): exact on every kernel, without privilege, kernel
// configuration or waiting.
func tickMicroseconds() (uint32, error) {
	var ts unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		return 0, fmt.Errorf("read the length of a jiffy: %w", err)
	}
	return uint32(ts.Nano() / 1000), nil
}
