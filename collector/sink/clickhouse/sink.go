package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/proto/flow"
)

// ErrClosed is what done gets for a batch that was not stored when the sink closed.
var ErrClosed = errors.New("the ClickHouse sink is closed")

// maxOpenBlocks is how many days can be collected at the same time: today, the end of yesterday, and what is sent late.
const maxOpenBlocks = 4

// Sink is a required sink: see the package comment for what it promises.
type Sink struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	client  *client
	health  *health

	cancel  context.CancelFunc
	workers sync.WaitGroup
	wake    chan struct{} // something may be ready for a worker

	mu          sync.Mutex
	room        *sync.Cond // pending went down, or the sink closes
	started     bool
	closing     bool
	open        []*block // being filled, at most one a day, oldest first
	sealed      []*block // waiting for a worker
	spare       []*block
	pending     int64 // bytes
	bytesPerRow int64
	split       splitter
	tokenPrefix string
	tokens      uint64
	unsaved     int // rows answered with ErrClosed
}

// New checks the settings and returns a sink that does nothing until Start.
func New(cfg Config, registerer prometheus.Registerer, log *slog.Logger) (*Sink, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("ClickHouse sink: %w", err)
	}
	first, bytesPerRow := newBlock()
	run := make([]byte, 12)
	if _, err := rand.Read(run); err != nil {
		return nil, fmt.Errorf("make a token: %w", err)
	}
	s := &Sink{
		cfg:         cfg,
		log:         log.With("component", "clickhouse"),
		metrics:     newMetrics(registerer),
		client:      newClient(cfg),
		wake:        make(chan struct{}, 1),
		spare:       []*block{first},
		bytesPerRow: bytesPerRow,
		tokenPrefix: hex.EncodeToString(run),
		cancel:      func() {},
	}
	s.health = newHealth(s.log, s.metrics.failing)
	s.room = sync.NewCond(&s.mu)
	return s, nil
}

// Start begins to insert. The end of ctx does not stop the sink, Close does: what was taken is flushed first.
func (s *Sink) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closing {
		return errors.New("the ClickHouse sink was started before, or closed")
	}
	s.started = true
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for range s.cfg.Inserters {
		w, err := newWorker(s)
		if err != nil {
			s.cancel()
			return err
		}
		s.workers.Go(func() { w.run(ctx) })
	}
	return nil
}

// Write copies the batch's rows. It calls done once: with nil when all of them are stored, or with ErrClosed. It blocks while
// MaxPendingBytes are pending. done must be quick and must not call Write: the goroutine that calls it makes the room.
func (s *Sink) Write(b *flow.Batch, done func(error)) {
	if b.Rows == 0 {
		done(nil)
		return
	}
	if !s.take(b, done) {
		done(ErrClosed)
	}
}

func (s *Sink) take(b *flow.Batch, done func(error)) bool {
	size := int64(b.Rows) * s.bytesPerRow
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closing && s.pending > 0 && s.pending+size > s.cfg.MaxPendingBytes {
		s.sealAll()
		s.room.Wait()
	}
	if s.closing {
		return false
	}
	s.pending += size
	s.metrics.received.Add(float64(b.Rows))
	s.metrics.pendingRows.Add(float64(b.Rows))
	s.metrics.pendingBytes.Add(float64(size))
	t := &ticket{done: done}
	if first, last := days(b); first == last {
		s.add(first, b, t)
	} else {
		s.split.each(b, func(day uint64, part *flow.Batch) { s.add(day, part, t) })
	}
	return true
}

// add puts a batch of one day into that day's block.
func (s *Sink) add(day uint64, b *flow.Batch, t *ticket) {
	i := slices.IndexFunc(s.open, func(o *block) bool { return o.day == day })
	if i >= 0 && s.open[i].rows+b.Rows > s.cfg.BlockRows {
		s.seal(i)
		i = -1
	}
	if i < 0 {
		i = s.openBlock(day)
	}
	s.open[i].add(b, t)
	if s.open[i].rows >= s.cfg.BlockRows {
		s.seal(i)
	}
}

func (s *Sink) openBlock(day uint64) int {
	if len(s.open) == maxOpenBlocks {
		s.seal(0)
	}
	var o *block
	if n := len(s.spare); n > 0 {
		o, s.spare = s.spare[n-1], s.spare[:n-1]
	} else {
		o, _ = newBlock()
	}
	o.day, o.opened = day, time.Now()
	s.open = append(s.open, o)
	s.nudge()
	return len(s.open) - 1
}

func (s *Sink) seal(i int) {
	s.sealed = append(s.sealed, s.open[i])
	s.open = slices.Delete(s.open, i, i+1)
	s.nudge()
}

// sealAll sends what is open out of turn; what waits for room must not wait for age too.
func (s *Sink) sealAll() {
	for len(s.open) > 0 {
		s.seal(0)
	}
}

// nudge wakes a worker, if one sleeps.
func (s *Sink) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next returns a block that should go out now, or how long to wait for the next one to be old enough; last means that nothing
// will come any more. Blocks are sealed by age only here, when a worker is free: while the server is slow they grow instead.
func (s *Sink) next(now time.Time) (b *block, token string, wait time.Duration, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sealed) == 0 && len(s.open) > 0 {
		if age := now.Sub(s.open[0].opened); age >= s.cfg.BlockAge || s.closing {
			s.seal(0)
		} else {
			wait = s.cfg.BlockAge - age
		}
	}
	if len(s.sealed) == 0 {
		if wait == 0 {
			wait = time.Hour // a block that opens nudges
		}
		return nil, "", wait, s.closing
	}
	b = s.sealed[0]
	s.sealed = slices.Delete(s.sealed, 0, 1)
	if len(s.sealed)+len(s.open) > 0 {
		s.nudge()
	}
	return b, s.newToken(), 0, false
}

// newToken returns a name that no other block of any collector has. It says nothing about the content: it stays with the bytes.
func (s *Sink) newToken() string {
	s.tokens++
	return fmt.Sprintf("%s-%d", s.tokenPrefix, s.tokens)
}

// maxSpareBlocks bounds the memory that is kept for reuse after a burst.
const maxSpareBlocks = 3

// recycle keeps an encoded block's memory for the next one.
func (s *Sink) recycle(b *block) {
	b.reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.spare) < maxSpareBlocks {
		s.spare = append(s.spare, b)
	}
}

// finish gives the answer of one block to the batches that had rows in it.
func (s *Sink) finish(waiting []*ticket, rows int, err error) {
	size := int64(rows) * s.bytesPerRow
	s.mu.Lock()
	s.pending -= size
	s.metrics.pendingRows.Sub(float64(rows))
	s.metrics.pendingBytes.Sub(float64(size))
	if errors.Is(err, ErrClosed) {
		s.unsaved += rows
	}
	complete := waiting[:0]
	for _, t := range waiting {
		t.blocks--
		if err != nil {
			t.err = err
		}
		if t.blocks == 0 {
			complete = append(complete, t)
		}
	}
	s.room.Broadcast()
	s.mu.Unlock()
	for _, t := range complete {
		t.done(t.err)
	}
}

// Pending returns the bytes of the columns that wait for an answer.
func (s *Sink) Pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending
}

// Ready returns nil while inserts succeed, and else one sentence about what is wrong.
func (s *Sink) Ready() error { return s.health.get() }

// Close stops taking batches and flushes. When ctx ends first, what is left is reported as ErrClosed. It may be called at any time
// and more than once; it returns when no worker runs and every done has been called.
func (s *Sink) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.room.Broadcast()
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, s.abandon)
	defer stop()
	s.nudge()
	s.workers.Wait()
	s.abandon()
	s.dropRest()
	s.client.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsaved > 0 {
		return fmt.Errorf("%w: %d rows were not stored in time; their exporters send them again", ErrClosed, s.unsaved)
	}
	return nil
}

func (s *Sink) abandon() {
	s.mu.Lock()
	cancel := s.cancel
	s.mu.Unlock()
	cancel()
}

// dropRest answers for blocks that no worker has taken.
func (s *Sink) dropRest() {
	s.mu.Lock()
	s.sealAll()
	rest := s.sealed
	s.sealed = nil
	s.mu.Unlock()
	for _, b := range rest {
		s.metrics.dropped[droppedClosed].Add(float64(b.rows))
		s.finish(b.waiting, b.rows, ErrClosed)
	}
}
