package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/service/log"
	"tributary/service/poller"
)

// ErrNotRunning is returned by Drain before Run.
var ErrNotRunning = errors.New("ring reader is not running")

// Poll is how long a record below the fill mark waits at most where [Options] does not say it. It is there for names that may go, and not for what waits for the
// records: that is what [Reader.Drain] is for. Each look costs, whatever it finds: others have used the caches meanwhile.
const Poll = 500 * time.Millisecond

// Handler takes one record; b is reused after it returns. An error says that the
// record is not understood.
type Handler func(b []byte) error

// Options are the settings of a Reader. FD and Size are required.
type Options struct {
	FD   int // of the ring's map; Run duplicates it
	Size int // of the ring in bytes

	// Poll bounds how long a record waits below the fill mark; default [Poll].
	Poll time.Duration

	// Rest tells the kernel side that the reader sleeps until the next record, which must wake it. It is called when the ring
	// has been empty for Poll. Without it the reader looks every Poll.
	Rest func() error

	// Walk opens a pass over the open sockets, or nil if there is nothing to pass
	// over; at once, every WalkEvery (default 1 s) and when Run's context has ended
	// its records of RecordSize bytes go to the handler. AfterWalk is called on the reading goroutine when a pass is complete.
	// Without Walk there are no passes.
	Walk       func() (io.ReadCloser, error)
	WalkEvery  time.Duration
	RecordSize int
	AfterWalk  func()

	Log *slog.Logger
}

// Stats are the books of a Reader: Read and Walked were handed over; of these
// Invalid were refused by the handler.
type Stats struct {
	Read       uint64 // from the ring
	Walked     uint64 // from walks
	Invalid    uint64
	Discarded  uint64 // reserved and given up by the kernel program
	Walks      uint64
	WalkErrors uint64
}

type books struct{ read, walked, invalid, discarded, walks, walkErrors atomic.Uint64 }

// Reader reads one ring. Run may be called once.
type Reader struct {
	opts   Options
	log    *slog.Logger
	handle Handler
	books  books

	mu      sync.Mutex
	state   state
	poll    *poller.Poller // while running
	waiters []chan struct{}

	mem      *mapping
	seen     uint64    // where the ring ended in the round before
	moved    time.Time // when that was seen to change
	resting  bool      // the next record wakes us
	nextWalk time.Time
	walkBuf  []byte
}

type state int

const (
	idle state = iota
	running
	stopped
)

// New returns a reader that does nothing until Run.
func New(opts Options) *Reader {
	if opts.Poll == 0 {
		opts.Poll = Poll
	}
	if opts.WalkEvery == 0 {
		opts.WalkEvery = time.Second
	}
	logger := opts.Log
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Reader{opts: opts, log: log.Limited(logger, 10*time.Second)}
}

// Stats returns the books so far.
func (r *Reader) Stats() Stats {
	return Stats{
		Read: r.books.read.Load(), Walked: r.books.walked.Load(), Invalid: r.books.invalid.Load(),
		Discarded: r.books.discarded.Load(), Walks: r.books.walks.Load(), WalkErrors: r.books.walkErrors.Load(),
	}
}

// Run reads until ctx ends, then empties the ring and returns nil. It returns an
// error if the ring cannot be mapped or polled.
func (r *Reader) Run(ctx context.Context, handle Handler) error {
	if err := r.open(); err != nil {
		return err
	}
	defer r.shut()
	r.handle = handle
	stop := context.AfterFunc(ctx, r.wake)
	defer stop()
	r.nextWalk = time.Now()
	r.moved = r.nextWalk
	for {
		r.round()
		if ctx.Err() != nil {
			r.finish()
			return nil
		}
		r.rest()
		if err := r.poll.Wait(r.untilNext(), r.ready); err != nil {
			return err
		}
	}
}

// rest lets the reader sleep if nothing has come for Poll. Rounds fall on beats, so the one before may have been a moment ago.
func (r *Reader) rest() {
	if end := r.mem.position; end != r.seen {
		r.seen, r.moved, r.resting = end, time.Now(), false
		return
	}
	if r.opts.Rest == nil || r.resting || time.Since(r.moved) < r.opts.Poll {
		return
	}
	if err := r.opts.Rest(); err != nil {
		r.log.Warn("the ring is looked at though it is empty", "error", err)
		return
	}
	r.resting = true
}

// finish hands over all there is, the active records of what goes on included.
func (r *Reader) finish() {
	r.readTo(r.mem.producer())
	if r.opts.Walk != nil {
		r.walk()
	}
	r.readTo(r.mem.producer())
}

func (r *Reader) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != idle {
		return errors.New("ring reader runs once")
	}
	mem, err := mapRing(r.opts.FD, r.opts.Size)
	if err != nil {
		return err
	}
	poll, err := poller.New(r.opts.FD, "the ring")
	if err != nil {
		mem.close()
		return err
	}
	r.mem, r.poll, r.state = mem, poll, running
	return nil
}

func (r *Reader) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = stopped
	r.release(r.waiters)
	r.waiters = nil
	_ = r.poll.Close() // nothing can be lost by it
	r.mem.close()
}

// ready says whether the ring may have come to where it wakes us before the wait for that began: its fill mark, or the first
// record of a rest.
func (r *Reader) ready() bool {
	if r.resting {
		return r.mem.waiting() > 0
	}
	return r.mem.waiting() >= uint64(r.opts.Size)/4
}

func (r *Reader) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == running {
		r.poll.Wake()
	}
}

// Drain waits until everything that was in the ring when it was called has been
// handed over, or until ctx ends. After Run has returned it is nil at once.
func (r *Reader) Drain(ctx context.Context) error {
	done := make(chan struct{})
	r.mu.Lock()
	switch r.state {
	case idle:
		r.mu.Unlock()
		return ErrNotRunning
	case stopped:
		r.mu.Unlock()
		return nil
	}
	r.waiters = append(r.waiters, done)
	r.poll.Wake()
	r.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain the ring: %w", ctx.Err())
	}
}

// round empties the ring once, answers those who wait for that, and walks if it is time.
func (r *Reader) round() {
	r.mu.Lock()
	waiters := r.waiters
	r.waiters = nil
	r.mu.Unlock()
	r.readTo(r.mem.producer())
	r.release(waiters)
	if r.opts.Walk != nil && !time.Now().Before(r.nextWalk) {
		r.walk()
		r.nextWalk = time.Now().Add(clock.Beat(r.opts.WalkEvery))
	}
}

func (r *Reader) release(waiters []chan struct{}) {
	for _, done := range waiters {
		close(done)
	}
}

func (r *Reader) untilNext() time.Duration {
	wait := clock.Beat(r.opts.Poll)
	if r.resting {
		wait = time.Hour
	}
	if r.opts.Walk != nil {
		wait = max(0, min(wait, time.Until(r.nextWalk)))
	}
	return wait
}

// readTo hands over all records up to position limit. A record that a program on
// another CPU is still writing is waited for: that takes less than a microsecond.
func (r *Reader) readTo(limit uint64) {
	for {
		sample, state := r.mem.next(limit)
		switch state {
		case sampleEnd:
			r.mem.commit()
			return
		case sampleBusy:
			r.mem.commit()
			time.Sleep(10 * time.Microsecond)
		case sampleDiscarded:
			r.books.discarded.Add(1)
		case sampleReady:
			r.books.read.Add(1)
			r.give(sample)
			r.mem.advance(len(sample))
		}
	}
}

func (r *Reader) give(b []byte) {
	if err := r.handle(b); err != nil {
		r.books.invalid.Add(1)
		r.log.Warn("kernel record refused", "error", err)
	}
}

// walk hands over the active records that are due. Each part is handed over before
// the ring is read again, which keeps active records before their ends.
func (r *Reader) walk() {
	pass, err := r.opts.Walk()
	if err != nil {
		r.walkFailed(err)
		return
	}
	if pass != nil {
		err = r.readWalk(pass)
		if cerr := pass.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		r.walkFailed(err)
		return
	}
	r.books.walks.Add(1)
	if r.opts.AfterWalk != nil {
		r.opts.AfterWalk()
	}
}

func (r *Reader) walkFailed(err error) {
	r.books.walkErrors.Add(1)
	r.log.Warn("walk of the open sockets broke off; the next one makes up for it", "error", err)
}

func (r *Reader) readWalk(pass io.Reader) error {
	if r.walkBuf == nil {
		r.walkBuf = make([]byte, 32<<10)
	}
	have := 0
	for {
		n, err := pass.Read(r.walkBuf[have:])
		have += n
		rest := r.walkBuf[:have]
		for len(rest) >= r.opts.RecordSize {
			r.books.walked.Add(1)
			r.give(rest[:r.opts.RecordSize])
			rest = rest[r.opts.RecordSize:]
		}
		have = copy(r.walkBuf, rest)
		r.readTo(r.mem.producer())
		switch {
		case errors.Is(err, io.EOF) && have == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("walk ended inside a record: %d bytes", have)
		case errors.Is(err, unix.EAGAIN): // a million entries passed without output
		case err != nil:
			return fmt.Errorf("read walk: %w", err)
		}
	}
}
