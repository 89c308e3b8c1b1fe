package hold

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// Table gives the state of ownership as of a moment.
type Table interface {
	View(now int64) ownership.View
}

// Attributor names rows; see package attribute.
type Attributor interface {
	Begin(b *flow.Batch, v ownership.View, open []uint32) []uint32
	Again(b *flow.Batch, v ownership.View, open []uint32, round uint32, patient bool) []uint32
	GiveUp(b *flow.Batch, open []uint32, round uint32)
}

// Config bounds the waiting. The zero value of a field means its default.
type Config struct {
	MaxWait      time.Duration // 4 s, from a batch's receipt
	MaxBytes     int           // 256 MiB of waiting batches
	PendingFor   time.Duration // 60 s
	PendingBytes int           // 64 MiB of kept rows

	Now func() time.Time // the clock; time.Now if nil. A simulation with a time of its own sets it and calls Step instead of Run.
}

func (c Config) withDefaults() Config {
	if c.MaxWait <= 0 {
		c.MaxWait = 4 * time.Second
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 256 << 20
	}
	if c.PendingFor <= 0 {
		c.PendingFor = time.Minute
	}
	if c.PendingBytes <= 0 {
		c.PendingBytes = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

const (
	passEvery = 50 * time.Millisecond  // at most this often, however many wake-ups there are
	lookAgain = 100 * time.Millisecond // for deadlines and mirrors, while something waits
	keptEvery = time.Second            // for kept rows
)

// The rounds of a row's version: what leaves first, and what is named later.
const (
	firstRound = 1
	laterRound = 2
)

// held is a batch with open rows, or (in kept) a copy of pending rows.
type held struct {
	b        *flow.Batch
	open     []uint32
	deadline int64
	bytes    int
}

// leaving is a batch on its way out.
type leaving struct {
	b     *flow.Batch
	later bool // pending rows that go out again
}

// Hold is the waiting room. Make it with New, start it with Run.
type Hold struct {
	cfg     Config
	table   Table
	attr    Attributor
	emit    func(*flow.Batch)
	metrics *metrics

	wake chan struct{}
	out  chan struct{} // there is something in queue

	mu       sync.Mutex
	waiting  []*held // in order of arrival
	queue    []leaving
	kept     []*held // in order of keeping
	bytes    int     // of waiting
	keptSize int
	busy     int // rows taken and not handed to emit's side yet, kept rows included
	draining bool

	lastKept int64    // when kept rows were asked for last; belongs to Run, as does rows
	rows     []uint32 // a copy to ask with
}

// New makes a waiting room. emit gets every batch that leaves, one at a time, from a goroutine of Run; it may block.
func New(cfg Config, table Table, attr Attributor, emit func(*flow.Batch), reg prometheus.Registerer) (*Hold, error) {
	cfg = cfg.withDefaults()
	m, err := newMetrics(reg, cfg.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("metrics of hold: %w", err)
	}
	return &Hold{
		cfg: cfg, table: table, attr: attr, emit: emit, metrics: m,
		wake: make(chan struct{}, 1), out: make(chan struct{}, 1),
	}, nil
}

// Add takes a batch over, names what can be named in the caller's goroutine, and never blocks.
func (h *Hold) Add(b *flow.Batch) {
	now := h.now()
	if b.ReceivedTimeNs == 0 {
		b.ReceivedTimeNs = now
	}
	open := h.attr.Begin(b, h.table.View(now), nil)
	h.metrics.taken.Add(float64(b.Rows))
	h.metrics.rows.Add(float64(b.Rows))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.busy += b.Rows
	if len(open) == 0 {
		h.leave(leaving{b: b})
		return
	}
	w := &held{b: b, open: open, deadline: b.ReceivedTimeNs + int64(h.cfg.MaxWait), bytes: b.MemoryBytes() + 4*cap(open)}
	h.waiting = append(h.waiting, w)
	h.bytes += w.bytes
	h.metrics.bytes.Set(float64(h.bytes))
	if len(h.waiting) == 1 || h.bytes > h.cfg.MaxBytes || h.draining {
		signal(h.wake)
	}
}

func (h *Hold) now() int64 { return h.cfg.Now().UnixNano() }

// Step is one round of what Run does, in the caller's goroutine: it asks again for everything that waits, emits all that leaves, and says
// whether anything is left to ask for. It is for callers whose time is not the clock's, instead of Run.
func (h *Hold) Step() (left bool) {
	left = h.pass(h.now())
	for h.emitNext() {
		left = left || h.holds()
	}
	return left
}

// holds says whether anything waits or is kept.
func (h *Hold) holds() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waiting)+len(h.kept) > 0
}

// Wake says that evidence has arrived: claims, releases or watermarks were applied. It never blocks; many wake-ups are one.
func (h *Hold) Wake() { signal(h.wake) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// leave queues a batch for emit. The caller holds the lock.
func (h *Hold) leave(l leaving) {
	h.queue = append(h.queue, l)
	signal(h.out)
}

// Run works until the context ends. What is held then is not emitted: call Drain before.
func (h *Hold) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { h.emitAll(ctx) })
	defer wg.Wait()
	timer := time.NewTimer(lookAgain)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-timer.C:
		}
		if h.pass(h.now()) {
			timer.Reset(lookAgain)
		}
		// The wake-ups of this pause are answered together.
		select {
		case <-ctx.Done():
			return
		case <-time.After(passEvery):
		}
	}
}

// Drain lets everything go, open rows as late, and returns when emit has returned for all of it or the context ends. Run must be
// running. Batches added afterwards leave at once.
func (h *Hold) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		h.mu.Lock()
		busy := h.busy
		h.mu.Unlock()
		if busy == 0 {
			return nil
		}
		h.Wake()
		select {
		case <-ctx.Done():
			return fmt.Errorf("drain %d held rows: %w", busy, ctx.Err())
		case <-tick.C:
		}
	}
}
