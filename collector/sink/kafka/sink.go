package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"tributary/proto/flow"
)

// ErrStopped is what done gets for a batch that was pending, or came, when the sink stopped.
var ErrStopped = errors.New("the kafka sink has stopped")

// ErrDropped is wrapped by what done gets for a batch that Kafka will never take: to send it again is no use.
var ErrDropped = errors.New("dropped")

// job is one batch on its way. It is in Sink.jobs until done was called.
type job struct {
	batch *flow.Batch
	done  func(error)
	bytes int64
	rows  int
	since time.Time
}

// Sink writes batches to one topic. Its methods may be called from any goroutine.
type Sink struct {
	cfg         Config
	compression kafka.Compression
	log         *slog.Logger
	metrics     *metrics
	transport   *kafka.Transport
	client      *kafka.Client
	fault       fault
	restoring   sync.Mutex // held by the one that looks for a lost topic

	mu         sync.Mutex
	changed    *sync.Cond        // pending fell, or the sink stopped
	jobs       map[*job]struct{} // everything without a done
	ending     int               // jobs whose done is being called
	bytes      int64
	rows       int64
	backlog    []*job       // taken in before the topic is known
	partitions []*partition // nil until the topic is known
	ids        []int        // 0 … len(partitions)-1, for the balancer
	started    bool
	stopped    bool // takes nothing in any more

	limit  atomic.Int64 // what the topic takes in one request
	cancel context.CancelFunc
	ended  chan struct{} // closed when the goroutines are gone
}

// New checks the settings and registers the metrics; it opens nothing. tlsConfig nil means connections without TLS.
func New(cfg Config, tlsConfig *tls.Config, reg prometheus.Registerer, log *slog.Logger) (*Sink, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	compression, err := cfg.compression()
	if err != nil {
		return nil, err
	}
	transport, err := cfg.Transport(tlsConfig, cfg.Topic)
	if err != nil {
		return nil, err
	}
	s := &Sink{
		cfg: cfg, compression: compression, log: log.With("component", "sink/kafka"), transport: transport,
		client: &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Transport: transport, Timeout: cfg.WriteTimeout},
		jobs:   make(map[*job]struct{}), ended: make(chan struct{}),
	}
	s.changed = sync.NewCond(&s.mu)
	s.fault.log = s.log
	s.fault.set(errors.New("the topic has not been looked up yet"))
	if s.metrics, err = newMetrics(reg, s); err != nil {
		return nil, fmt.Errorf("register kafka metrics: %w", err)
	}
	return s, nil
}

// Start begins to look for the topic and to write, and returns at once: an absent Kafka is not an error but a state (Ready). The end of
// ctx has the effect of Close without patience.
func (s *Sink) Start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.stopped {
		return
	}
	s.started = true
	ctx, s.cancel = context.WithCancel(ctx)
	go s.run(ctx)
}

// Write takes a batch over. done is called exactly once, from another goroutine: with nil when Kafka has every row, with an error when
// the rows are dropped (ErrDropped) or the sink stopped (ErrStopped). The batch must not change until then, and done must not block: it
// holds up a partition. Write blocks while QueueBytes are pending; a batch larger than that is taken when nothing else is.
func (s *Sink) Write(batch *flow.Batch, done func(error)) {
	j := &job{batch: batch, done: done, bytes: int64(batch.MemoryBytes()), rows: batch.Rows, since: time.Now()}
	s.mu.Lock()
	for !s.stopped && s.bytes > 0 && s.bytes+j.bytes > int64(s.cfg.QueueBytes) {
		s.changed.Wait()
	}
	s.metrics.rowsIn.Add(float64(j.rows))
	if s.stopped {
		s.metrics.rowsDropped.WithLabelValues(dropStopped).Add(float64(j.rows))
		s.mu.Unlock()
		go done(ErrStopped)
		return
	}
	s.jobs[j] = struct{}{}
	s.bytes += j.bytes
	s.rows += int64(j.rows)
	if s.partitions == nil {
		s.backlog = append(s.backlog, j)
	} else {
		s.place(j)
	}
	s.mu.Unlock()
}

// place gives a job to the partition of its key. The caller holds mu.
func (s *Sink) place(j *job) {
	key := kafka.Message{Key: []byte(j.batch.ExporterID)}
	s.partitions[kafka.Murmur2Balancer{Consistent: true}.Balance(key, s.ids...)].add(j)
}

// finish ends a job: the books first, then done.
func (s *Sink) finish(j *job, err error, reason string) {
	s.mu.Lock()
	if _, mine := s.jobs[j]; !mine {
		s.mu.Unlock()
		return
	}
	delete(s.jobs, j)
	s.ending++
	s.bytes -= j.bytes
	s.rows -= int64(j.rows)
	if err == nil {
		s.metrics.rowsWritten.Add(float64(j.rows))
		s.metrics.duration.Observe(time.Since(j.since).Seconds())
	} else {
		s.metrics.rowsDropped.WithLabelValues(reason).Add(float64(j.rows))
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	j.done(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending--
	s.changed.Broadcast()
}

// run finds the topic, then writes until ctx ends, then ends what is still pending.
func (s *Sink) run(ctx context.Context) {
	defer close(s.ended)
	defer s.transport.CloseIdleConnections()
	defer s.abandon()
	count, ok := s.awaitTopic(ctx)
	if !ok {
		return
	}
	var workers sync.WaitGroup
	s.mu.Lock()
	for id := range count {
		p := newPartition(s, id)
		s.partitions, s.ids = append(s.partitions, p), append(s.ids, id)
		workers.Go(func() { p.run(ctx) })
	}
	for _, j := range s.backlog {
		s.place(j)
	}
	s.backlog = nil
	s.mu.Unlock()
	workers.Wait()
}

// abandon ends everything pending. No goroutine of the sink works on a job any more.
func (s *Sink) abandon() {
	s.mu.Lock()
	s.stopped = true
	left := make([]*job, 0, len(s.jobs))
	for j := range s.jobs {
		left = append(left, j)
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	for _, j := range left {
		s.finish(j, ErrStopped, dropStopped)
	}
}

// Flush waits until nothing is pending and whoever wrote it knows, or ctx ends.
func (s *Sink) Flush(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.jobs)+s.ending > 0 && ctx.Err() == nil {
		s.changed.Wait()
	}
	if n := len(s.jobs) + s.ending; n > 0 {
		return fmt.Errorf("kafka has not acknowledged %d batches: %w", n, ctx.Err())
	}
	return nil
}

// Close takes nothing in any more, waits for what is pending until ctx ends, and gives up the rest with ErrStopped. It may be called
// before Start and again.
func (s *Sink) Close(ctx context.Context) error {
	s.mu.Lock()
	s.stopped = true
	started := s.started
	s.changed.Broadcast()
	s.mu.Unlock()
	if !started {
		s.abandon()
		return nil
	}
	err := s.Flush(ctx)
	s.cancel()
	<-s.ended
	return err
}

// Pending is the memory of batches without a done, in bytes; the fan-out applies backpressure by it.
func (s *Sink) Pending() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Ready is nil while the topic is there and the last request succeeded, else one sentence that says why not.
func (s *Sink) Ready() error { return s.fault.get() }

func (s *Sink) rowsPending() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return float64(s.rows)
}

func (s *Sink) oldestSeconds() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var age float64
	for j := range s.jobs {
		age = math.Max(age, time.Since(j.since).Seconds())
	}
	return age
}

func (s *Sink) unready() float64 {
	if s.Ready() != nil {
		return 1
	}
	return 0
}
