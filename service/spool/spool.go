package spool

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/service/log"
)

const (
	// appendWait is how long Append waits for the disk: far above a write into the page cache, far below what the ring
	// buffer can bridge.
	appendWait = 100 * time.Millisecond
	// behind is how long the oldest batch has waited when we catch up rather than keep up.
	behind = 10 * time.Second
)

// Batch is a sealed batch that is handed out.
type Batch struct {
	Run   string // the run that sealed it
	Seq   uint64 // batch_seq in that run
	Rows  uint32
	Body  []byte // what Append was given; not to be changed
	Again bool   // it was handed out before
}

// Spool keeps batches. Its methods are safe for concurrent use.
type Spool struct {
	config     Config
	log        *slog.Logger
	quarantine *quarantine

	mu      sync.Mutex
	index   *index
	state   State
	err     error
	last    uint64        // highest seq appended
	number  uint64        // of the next file; 0 until the directory is read
	running bool          // Run is there to write
	closed  bool          // Run has returned
	slow    bool          // the disk is not waited for
	sealed  time.Duration // what Sealed said last; 0: nobody says it
	unsaid  bool          // and no word of it was left

	stopping bool          // nothing is kept any more
	written  chan struct{} // closed when memory holds nothing the disk could take

	work  chan struct{} // there may be something for Run
	ready chan struct{}
	idle  chan struct{} // nothing is pending
}

// New returns a spool that keeps batches in memory until Run.
func New(config Config, registerer prometheus.Registerer, logger *slog.Logger) (*Spool, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	s := &Spool{
		config: config, log: log.Limited(logger.With(log.Component, "spool"), 10*time.Second), index: newIndex(),
		quarantine: &quarantine{fs: config.FS, most: config.QuarantineBytes}, written: make(chan struct{}),
		work: make(chan struct{}, 1), ready: make(chan struct{}, 1), idle: make(chan struct{}, 1), err: errNotStarted,
	}
	s.index.memory.head.Run = config.Run
	return s, registerer.Register(&collector{s, newDescs(config.Metrics)})
}

var errNotStarted = errors.New("the spool was not started")

// Ready is signalled when there may be something for Next.
func (s *Spool) Ready() <-chan struct{} { return s.ready }

// Flush waits until every batch is settled or ctx ends.
func (s *Spool) Flush(ctx context.Context) error {
	for s.Stats().Pending.Batches > 0 {
		select {
		case <-s.idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Append takes a batch of this run over; body must not be changed any more. seq ascends from call to call. When it returns
// the batch is in the page cache, or the disk is not well.
func (s *Spool) Append(seq uint64, rows uint32, body []byte) {
	written := s.enter(entry{seq: seq, rows: rows, body: body, size: uint32(len(body)), at: s.config.Clock.Boot()})
	signal(s.ready)
	if written == nil {
		return
	}
	signal(s.work)
	timer := time.NewTimer(appendWait)
	defer timer.Stop()
	select {
	case <-written:
	case <-timer.C:
		s.mu.Lock()
		s.slow = true
		s.index.stats.SlowWrites++
		s.mu.Unlock()
	}
}

// enter puts a batch into memory and returns what tells that it has left it, nil if that is not to be waited for.
func (s *Spool) enter(e entry) (written chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.index
	x.stats.Appended.add(e.rows)
	switch {
	case s.closed:
		x.stats.Dropped[Shutdown].add(e.rows)
		return nil
	case e.seq <= s.last || len(e.body) == 0 || int64(len(e.body)) > min(maxBody, s.config.MaxBytes-recordsAt-recordBytes):
		x.stats.Dropped[Invalid].add(e.rows)
		return nil
	}
	s.last = e.seq
	why := s.whyMemory()
	for why != MemoryDiskSlow && x.full(memorySize(&e), s.config.MemoryBytes, s.config.MaxBatches) && s.shrinkMemory() {
	}
	// While the disk is well even one batch above the bound may pass through.
	if !x.fits(memorySize(&e), s.config.MemoryBytes, s.config.MaxBatches, why) && why != MemoryDiskSlow {
		x.stats.Dropped[why].add(e.rows)
		return nil
	}
	x.memory.add(e)
	x.indexed++
	x.stats.Pending.add(e.rows)
	x.stats.InMemory.add(e.rows)
	x.stats.MemoryBytes += memorySize(&e)
	if !s.running || s.state != DiskOK || s.slow {
		signal(s.work)
		return nil
	}
	return s.written
}

func (s *Spool) whyMemory() Reason {
	switch s.state {
	case DiskOK:
		return MemoryDiskSlow
	case DiskFull:
		return MemoryDiskFull
	case DiskError:
		return MemoryDiskError
	default:
		return MemoryNoDisk
	}
}

// Next hands out the batch to send now: the oldest, and while we catch up, three of four times the newest. False: none
// waits, or its body is larger than most bytes. It is under way until it is acknowledged, rejected, or Restart is called. A
// batch whose bytes are damaged is dropped here.
func (s *Spool) Next(most int64) (Batch, bool) {
	for {
		b, g, r, ok := s.take(most)
		if !ok || b.Body != nil {
			return b, ok
		}
		body, err := s.read(g, r)
		if err == nil {
			b.Body = body
			return b, true
		}
		if errors.Is(err, fs.ErrClosed) {
			return Batch{}, false // Run has ended: the next run will find it
		}
		s.lost(g, r.seq, err)
	}
}

func (s *Spool) take(most int64) (b Batch, g *segment, r record, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	turn := s.index.turn
	g, e := s.index.pick(s.config.Clock.Boot(), behind)
	if e == nil || s.closed || int64(e.size) > most {
		s.index.turn = turn
		return b, nil, r, false
	}
	b = Batch{Run: g.head.Run, Seq: e.seq, Rows: e.rows, Body: e.body, Again: e.again}
	r = record{seq: e.seq, off: int64(e.off), size: e.size}
	e.state = taken
	g.waiting--
	g.taken++
	return b, g, r, true
}

// read fetches a body from disk. The head of a segment never changes; its name may, in this moment.
func (s *Spool) read(g *segment, r record) ([]byte, error) {
	f, err := s.config.FS.Open(g.name())
	if errors.Is(err, fs.ErrNotExist) {
		f, err = s.config.FS.Open(g.name())
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBody(f, r, g.head.Nonce)
}

// lost drops a batch that cannot be read.
func (s *Spool) lost(g *segment, seq uint64, err error) {
	why := Unreadable
	if errors.Is(err, errDamaged) {
		why = Corrupt
	}
	s.mu.Lock()
	for i, entries := 0, g.span(seq, seq); i < len(entries); i++ {
		e := &entries[i]
		if e.state == ghost { // its segment was dropped in this moment
			why = e.why
		}
		if e.state == taken || e.state == ghost {
			s.index.leave(g, e)
			s.index.stats.Dropped[why].add(e.rows)
		}
	}
	s.mu.Unlock()
	s.settled()
	s.log.Warn("a batch on disk is lost", "reason", why, "segment", g.name(), "exporter_id", g.head.Run, "batch_seq", seq, "error", err)
}

// Ack settles the batches first to last of a run, and returns those that were pending. Repeating it is harmless.
func (s *Spool) Ack(run string, first, last uint64) Count {
	s.mu.Lock()
	n := s.index.settle(s.config.Clock.Boot(), run, s.config.Run, first, last, &s.index.stats.Acked)
	s.mu.Unlock()
	s.settled()
	return n
}

// Unsent reports whether a batch of this run from first to last is pending and was never handed out.
func (s *Spool) Unsent(first, last uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index.unsent(s.config.Run, first, last)
}

// settled tells those who wait for it.
func (s *Spool) settled() {
	s.mu.Lock()
	s.index.trim()
	idle := s.index.stats.Pending.Batches == 0
	s.mu.Unlock()
	signal(s.work)
	if idle {
		signal(s.idle)
	}
}

// Recall lets everything wait again that was acknowledged in the last [Config.KeepAcked]: the store may have forgotten it. What was in
// memory only is gone.
func (s *Spool) Recall() Count {
	s.mu.Lock()
	n := s.index.recall(s.config.Clock.Boot() - s.config.KeepAcked)
	s.mu.Unlock()
	signal(s.work)
	signal(s.ready)
	return n
}

// Restart begins a new stream: all that is under way waits again.
func (s *Spool) Restart() {
	s.mu.Lock()
	s.index.restart()
	s.mu.Unlock()
	s.settled()
	signal(s.ready)
}

// Stats returns the books of this moment.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.index.snapshot(s.config.Clock.Boot())
	stats.State, stats.Err = s.state, s.err
	return stats
}
