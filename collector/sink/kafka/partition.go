package kafka

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
)

// requestOverhead is more than a record batch adds to its records: 61 bytes of header, and the room that broker and we may count
// differently.
const requestOverhead = 1 << 10

// partition writes one partition's jobs in the order they came, one request at a time: a retry can never overtake.
type partition struct {
	sink *Sink
	id   int
	enc  encoder

	mu    sync.Mutex
	queue []*job
	wake  chan struct{}
}

func newPartition(s *Sink, id int) *partition {
	p := &partition{sink: s, id: id, wake: make(chan struct{}, 1)}
	if s.cfg.Format == FormatJSON {
		p.enc.json = newJSONEncoder()
	}
	return p
}

func (p *partition) add(j *job) {
	p.mu.Lock()
	p.queue = append(p.queue, j)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *partition) run(ctx context.Context) {
	for ctx.Err() == nil {
		jobs := p.take()
		if len(jobs) > 0 {
			p.write(ctx, jobs)
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
			p.linger(ctx)
		}
	}
}

// linger gives others the time to join a first job. While a request is under way they gather by themselves.
func (p *partition) linger(ctx context.Context) {
	if p.sink.cfg.BatchTimeout == 0 {
		return
	}
	timer := time.NewTimer(p.sink.cfg.BatchTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// take removes about one request's worth of jobs from the queue.
func (p *partition) take() []*job {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, bytes := 0, 0
	for n < len(p.queue) && (n == 0 || bytes+len(p.queue[n].batch.Payload) <= p.sink.cfg.BatchBytes) {
		bytes += len(p.queue[n].batch.Payload)
		n++
	}
	jobs := append([]*job(nil), p.queue[:n]...)
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	return jobs
}

// write writes jobs that came together. If Kafka refuses the request for good, each is tried alone, so that one bad batch takes no
// other with it.
func (p *partition) write(ctx context.Context, jobs []*job) {
	err := p.attempt(ctx, jobs)
	reason := ""
	switch {
	case err == nil:
		p.sink.fault.clear()
	case ctx.Err() != nil:
		return // Sink.abandon ends them
	case len(jobs) > 1:
		for _, j := range jobs {
			p.write(ctx, []*job{j})
		}
		return
	default:
		if reason = dropReason(err); reason == "" {
			reason = dropEncode
		}
		p.sink.fault.clear() // the batch is at fault, not Kafka
		p.sink.log.Error("batch dropped", "reason", reason, "rows", jobs[0].rows, "error", err)
		err = fmt.Errorf("%w: %w", ErrDropped, err)
	}
	for _, j := range jobs {
		p.sink.finish(j, err, reason)
	}
}

// attempt makes the jobs' messages once and sends them, in as many requests as the limits ask for, until all are written.
func (p *partition) attempt(ctx context.Context, jobs []*job) error {
	limit := int(p.sink.limit.Load())
	p.enc.reset()
	for _, j := range jobs {
		if err := p.enc.encode(j.batch, j.since, limit); err != nil {
			return err
		}
	}
	for rest := p.enc.messages; len(rest) > 0; {
		n, bytes := 0, 0
		for n < len(rest) && (n == 0 || bytes+rest[n].size() <= min(limit, p.sink.cfg.BatchBytes)) {
			bytes += rest[n].size()
			n++
		}
		if err := p.send(ctx, rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// send tries one request until Kafka has it, refuses it for good, or ctx ends.
func (p *partition) send(ctx context.Context, messages []message) error {
	s := p.sink
	for n := 1; ; n++ {
		err := p.produce(ctx, messages)
		if err == nil {
			s.metrics.messages.Add(float64(len(messages)))
			for i := range messages {
				s.metrics.bytes.Add(float64(len(messages[i].value)))
			}
			return nil
		}
		p.enc.lent = true
		if ctx.Err() != nil || dropReason(err) != "" {
			return err
		}
		s.metrics.retries.WithLabelValues(retryReason(err)).Inc()
		s.fault.report(fmt.Errorf("write to topic %s: %w", s.cfg.Topic, s.explain(err)))
		if !backoff(ctx, n) {
			return ctx.Err()
		}
		if topicIsGone(err) {
			s.restoreTopic(ctx)
		}
	}
}

func (p *partition) produce(ctx context.Context, messages []message) error {
	ctx, cancel := context.WithTimeout(ctx, p.sink.cfg.WriteTimeout)
	defer cancel()
	// A reader of its own for each try: the connection may still be reading the one before.
	answer, err := p.sink.client.Produce(ctx, &kafka.ProduceRequest{
		Topic: p.sink.cfg.Topic, Partition: p.id, RequiredAcks: kafka.RequireAll, Compression: p.sink.compression,
		Records: &records{messages: messages},
	})
	if err != nil {
		return err
	}
	return answer.Error
}

// records gives messages to kafka-go one by one, without a record object each.
type records struct {
	messages   []message
	next       int
	record     kafka.Record
	key, value bytesOf
}

// ReadRecord implements kafka.RecordReader. The record is valid until the next call.
func (r *records) ReadRecord() (*kafka.Record, error) {
	if r.next == len(r.messages) {
		return nil, io.EOF
	}
	m := &r.messages[r.next]
	r.next++
	r.key.Reset(m.key)
	r.value.Reset(m.value)
	r.record = kafka.Record{Time: m.time, Key: &r.key, Value: &r.value, Headers: m.headers}
	return &r.record, nil
}

// bytesOf is kafka.Bytes over a slice, reusable.
type bytesOf struct{ bytes.Reader }

// Close has nothing to release.
func (*bytesOf) Close() error { return nil }
