// Package backlog stands before a sink that nobody waits for (best_effort): it keeps each batch in a bounded log on disk (service/spool) and gives it to the
// sink when that takes it.
//
// What it promises. When done is called the batch is in the log: a sink that is away holds nobody up, and neither a kill of the collector nor the sink's
// absence costs anything while the log is within its bounds; what overflows goes the oldest first, counted by reason, as does what the sink will never take.
// A power cut may cost the last second. Every batch reaches the sink at least once; after a kill some come twice, known by their row keys. Order is not kept
// while it catches up: fresh batches go between old ones.
//
// What blocks. Write waits for the disk for a tenth of a second at most, once. What is given to the sink and not done is bounded in bytes, and does not age: it
// may be on its way. So a sink that has been silent for Patience gets one batch each Patience from then on, until it speaks; the rest ages in the log.
//
// It does not know what a sink does, nor read what other collectors left.
package backlog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/proto/flow"
	"tributary/service/spool"
)

// Sink is what stands behind: see sink.Sink.
type Sink interface {
	Write(b *flow.Batch, done func(error))
}

// Config says where the log is and what bounds it.
type Config struct {
	Name     string // of the sink, for logs and the label of the metrics
	Dir      string
	Run      string // of this collector; unique
	MaxBytes int64
	MaxAge   time.Duration
	UnderWay int64         // bytes, as they stand in the log, that the sink has and is not done with; 0: 8 MiB. They count as pending even if they overflow
	Patience time.Duration // with a sink that has something and is done with nothing; 0: 5 s
	// Refused reports whether an error of the sink says that it will never take the batch.
	Refused func(error) bool
}

const (
	underWayBytes = 8 << 20
	patience      = 5 * time.Second // an insert or a request of Kafka's takes less when all is well
	// host stands in the log for the host: a data directory may move to another one with its collector.
	host = "tributary-collector"
)

// Backlog is a sink. Its methods are safe for concurrent use.
type Backlog struct {
	cfg    Config
	sink   Sink
	log    *slog.Logger
	spool  *spool.Spool
	opener *flow.Opener

	mu          sync.Mutex // guards seq and the scratch
	seq         uint64
	attribution []byte

	underWay atomic.Int64
	began    time.Time
	spoke    atomic.Int64  // ns since began: the sink was done with a batch, or had none before
	given    time.Duration // since began: it was given its last one; Run's
	room     chan struct{} // underWay fell
	closed   atomic.Bool   // the sink takes nothing any more
}

// New returns a backlog that keeps in memory until Run.
func New(cfg Config, behind Sink, reg prometheus.Registerer, log *slog.Logger) (*Backlog, error) {
	if cfg.UnderWay == 0 {
		cfg.UnderWay = underWayBytes
	}
	if cfg.Patience == 0 {
		cfg.Patience = patience
	}
	log = log.With("component", "sink/backlog", "sink", cfg.Name)
	c := spool.Default()
	c.FS, c.MaxBytes, c.MaxAge, c.Run, c.Host = spool.Dir(cfg.Dir), cfg.MaxBytes, cfg.MaxAge, cfg.Run, host
	c.MaxBatches, c.Metrics = maxBatches, "tributary_collector_backlog"
	kept, err := spool.New(c, prometheus.WrapRegistererWith(prometheus.Labels{"sink": cfg.Name}, reg), log)
	if err != nil {
		return nil, fmt.Errorf("backlog of %s: %w", cfg.Name, err)
	}
	opener, err := flow.NewOpener()
	if err != nil {
		return nil, err
	}
	return &Backlog{cfg: cfg, sink: behind, log: log, spool: kept, opener: opener, began: time.Now(), room: make(chan struct{}, 1)}, nil
}

// maxBatches bounds the memory of the log's index to some 32 MiB: a busy node makes many small batches.
const maxBatches = 1 << 18

// Write implements sink.Sink: done is called before it returns, and its error is always nil.
func (l *Backlog) Write(b *flow.Batch, done func(error)) {
	l.keep(b)
	done(nil)
}

func (l *Backlog) keep(b *flow.Batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.attribution = b.AppendAttribution(l.attribution[:0])
	body, err := b.AppendAttributed(make([]byte, 0, len(b.Payload)+len(l.attribution)+headerBytes), l.attribution)
	if err != nil {
		l.log.Error("a batch cannot be kept", "exporter_id", b.ExporterID, "batch_seq", b.Seq, "reason", err)
		body = nil // the spool counts what it cannot keep
	}
	l.seq++
	l.spool.Append(l.seq, uint32(b.Rows), body)
}

// headerBytes is about what a batch's header with its counters takes.
const headerBytes = 2 << 10

// Run keeps the log and gives the sink what is in it, until ctx ends. What the sink is not done with then stays in the log.
func (l *Backlog) Run(ctx context.Context) {
	var rooms sync.WaitGroup
	rooms.Go(func() { l.spool.Run(ctx) })
	defer rooms.Wait()
	trial := time.NewTimer(0)
	defer trial.Stop()
	for ctx.Err() == nil {
		if !l.closed.Load() && l.underWay.Load() < l.cfg.UnderWay {
			wait := l.silence()
			if wait <= 0 && l.next() {
				continue
			}
			if wait > 0 {
				trial.Reset(wait)
			}
		}
		select {
		case <-l.spool.Ready():
		case <-l.room:
		case <-trial.C:
		case <-ctx.Done():
		}
	}
}

// silence is how long to wait before the sink is given another batch: it has some, and has not spoken for a while.
func (l *Backlog) silence() time.Duration {
	now := time.Since(l.began)
	if l.underWay.Load() == 0 || now-time.Duration(l.spoke.Load()) < l.cfg.Patience {
		return 0
	}
	return l.given + l.cfg.Patience - now
}

// next gives the sink one batch; false if there is none.
func (l *Backlog) next() bool {
	kept, ok := l.spool.Next(int64(^uint64(0) >> 1))
	if !ok {
		return false
	}
	b := new(flow.Batch)
	if err := l.opener.OpenAttributed(kept.Body, b); err != nil {
		l.reject(kept, err)
		return true
	}
	size := int64(len(kept.Body))
	l.given = time.Since(l.began)
	if l.underWay.Add(size) == size {
		l.spoke.Store(int64(l.given))
	}
	l.sink.Write(b, func(err error) {
		switch {
		case err == nil:
			l.spool.Ack(kept.Run, kept.Seq, kept.Seq)
		case l.cfg.Refused(err):
			l.reject(kept, err)
		default: // the process stops: the next start sends it again, and the rest
			l.closed.Store(true)
		}
		l.spoke.Store(int64(time.Since(l.began)))
		l.underWay.Add(-size)
		select {
		case l.room <- struct{}{}:
		default:
		}
	})
	return true
}

func (l *Backlog) reject(b spool.Batch, reason error) {
	n := l.spool.Reject(b.Run, b.Seq, reason.Error())
	l.log.Warn("the sink will never take a batch: it goes to the quarantine", "rows", n.Rows, "reason", reason)
}
