package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// Config says where the topic is. Zero values mean the defaults.
type Config struct {
	Brokers    []string
	Transport  kafka.RoundTripper // how to reach them
	Topic      string             // ownership.v1
	Partitions int                // 16, of a topic that is created
	Replicas   int                // of a topic that is created; -1, the default: the brokers'
	Retention  time.Duration      // 24 h, of a topic that is created
	Node       string             // one run of this collector

	QueueBytes int           // 64 MiB: what waits for Kafka
	From       []int64       // offsets to read from, by partition; nil: Back
	Back       time.Duration // 3 min: how far back a node without offsets reads; more than twice RepeatEvery
}

// RepeatEvery is how often each exporter's whole set is to be said again, by session.Book.Repeat: nodes that start count on it.
const RepeatEvery = time.Minute

const (
	flushEvery = 200 * time.Millisecond
	// silence is how long a node is waited for. It is the time for which a young range is doubted: ownership.Config.Bridge.
	silence = 15 * time.Second
	// requestTimeout bounds one request to Kafka.
	requestTimeout = 10 * time.Second
)

func (c Config) withDefaults() Config {
	if c.Topic == "" {
		c.Topic = "ownership.v1"
	}
	if c.Partitions <= 0 {
		c.Partitions = 16
	}
	if c.Replicas == 0 {
		c.Replicas = -1
	}
	if c.Retention <= 0 {
		c.Retention = 24 * time.Hour
	}
	if c.QueueBytes <= 0 {
		c.QueueBytes = 64 << 20
	}
	if c.Back <= 0 {
		c.Back = 3 * time.Minute
	}
	return c
}

// Feed is the node's part in the topic. Make it with New, then give it the book with Start. It is the book's Publisher.
type Feed struct {
	cfg     Config
	log     *slog.Logger
	client  *kafka.Client
	metrics *metrics
	table   *ownership.Table
	book    *session.Book
	wake    func()
	now     func() time.Time

	out     outbox
	readers []*reader
	located atomic.Bool // the readers are there

	mu     sync.Mutex
	fault  error
	outage outage
	cancel context.CancelFunc
	ended  chan struct{}
}

// New makes a feed that does nothing yet. The table learns that it does not stand alone.
func New(cfg Config, table *ownership.Table, reg prometheus.Registerer, log *slog.Logger) (*Feed, error) {
	f := &Feed{
		cfg: cfg.withDefaults(), log: log, table: table, now: time.Now, ended: make(chan struct{}), fault: errors.New("the topic has not been looked up yet"),
	}
	f.client = &kafka.Client{Addr: kafka.TCP(f.cfg.Brokers...), Transport: f.cfg.Transport, Timeout: requestTimeout}
	f.out.init(f.cfg.QueueBytes)
	var err error
	if f.metrics, err = newMetrics(reg, f); err != nil {
		return nil, fmt.Errorf("metrics of ownership/feed: %w", err)
	}
	table.Complete(0)
	return f, nil
}

// ErrReplaying is what Ready returns while Kafka answers and its topic is being read.
var ErrReplaying = errors.New("what the other nodes have said is still being read")

// Start begins to read and write, and returns at once: an absent Kafka is a state, not an error. What is read goes to book, and then wake is called.
func (f *Feed) Start(book *session.Book, wake func()) {
	f.book, f.wake = book, wake
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	go func() {
		defer close(f.ended)
		f.run(ctx)
	}()
}

// Stop says goodbye to the other nodes, until ctx ends, and ends the feed. The exporters' streams should have ended before.
func (f *Feed) Stop(ctx context.Context) {
	f.cancel()
	<-f.ended
	if f.located.Load() {
		f.goodbye(ctx)
	}
}

func (f *Feed) run(ctx context.Context) {
	if !f.locate(ctx) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, r := range f.readers {
		wg.Go(func() { r.run(ctx) })
		wg.Go(func() { f.write(ctx, i) })
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.table.Complete(f.complete())
		}
	}
}

// locate finds the topic and the offsets to begin at; false if ctx ended first.
func (f *Feed) locate(ctx context.Context) bool {
	for n := 1; ; n++ {
		readers, err := f.begin(ctx)
		if err == nil {
			f.readers = readers
			f.out.place(len(readers))
			f.located.Store(true)
			f.clear()
			return true
		}
		f.report(err)
		if !pause(ctx, n) {
			return false
		}
	}
}

// complete is up to when the other nodes' news are known.
func (f *Feed) complete() int64 {
	now := f.now().UnixNano()
	upTo := now
	for _, r := range f.readers {
		upTo = min(upTo, r.complete(now))
	}
	return upTo
}

// Ready says what stands in the way of knowing what the other nodes know.
func (f *Feed) Ready() error {
	f.mu.Lock()
	fault := f.fault
	f.mu.Unlock()
	if fault != nil {
		return fault
	}
	for _, r := range f.readers {
		if !r.replayed.Load() {
			return ErrReplaying
		}
	}
	return nil
}

// Offsets are where a reader would go on, by partition; nil before the replay is done. Take them before a snapshot of the table.
func (f *Feed) Offsets() []int64 {
	if f.Ready() != nil {
		return nil
	}
	out := make([]int64, len(f.readers))
	for i, r := range f.readers {
		out[i] = r.next.Load()
	}
	return out
}

// Publish implements session.Publisher.
func (f *Feed) Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep) {
	if !f.out.step(exporter, host, stream, step) {
		f.metrics.given.Inc()
	}
}

// Mark implements session.Publisher.
func (f *Feed) Mark(w *flowv1.ExporterWatermark) { f.out.mark(w) }

// outage says when a fault that is tried again is to be logged.
type outage struct {
	said time.Time // when it was last
	loud bool      // the present one was
}

// lasts says whether to log the fault now: once in half a minute.
func (o *outage) lasts() bool {
	if time.Since(o.said) < 30*time.Second {
		return false
	}
	o.said, o.loud = time.Now(), true
	return true
}

// ended says whether to log the end of a fault: if the fault was.
func (o *outage) ended() bool {
	was := o.loud
	o.loud = false
	return was
}

// report notes a fault that will be tried again, and logs it every half minute.
func (f *Feed) report(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = err
	if f.outage.lasts() {
		f.log.Warn("ownership is not shared with the other nodes at present; trying again", "topic", f.cfg.Topic, "reason", err)
	}
}

func (f *Feed) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = nil
	if f.outage.ended() {
		f.log.Info("ownership is shared with the other nodes", "topic", f.cfg.Topic, "partitions", len(f.readers))
	}
}

// pause waits before attempt n+1, longer each time, up to two seconds; false if ctx ended.
func pause(ctx context.Context, n int) bool {
	timer := time.NewTimer(min(50*time.Millisecond<<min(n, 8), 2*time.Second))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
