package clickhouse

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ClickHouse/ch-go/proto"
)

// worker encodes one block at a time and sends it until it is stored. Its buffers are used again for the next block.
type worker struct {
	sink       *Sink
	raw        proto.Buffer
	compressor compressor
}

func newWorker(s *Sink) (*worker, error) {
	c, err := newCompressor(s.cfg.Compression)
	if err != nil {
		return nil, err
	}
	return &worker{sink: s, compressor: c}, nil
}

func (w *worker) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		b, token, wait, last := w.sink.next(time.Now())
		switch {
		case b != nil:
			w.store(ctx, b, token)
			if ctx.Err() != nil {
				return
			}
			continue
		case last:
			w.sink.nudge() // the next worker sees it too
			return
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-w.sink.wake:
		}
	}
}

func (w *worker) store(ctx context.Context, b *block, token string) {
	s, rows, waiting := w.sink, b.rows, b.waiting
	body, err := w.encode(b)
	s.recycle(b)
	if err != nil {
		s.log.Error("a block cannot be encoded", "error", err)
		s.metrics.dropped[droppedEncode].Add(float64(rows))
		s.finish(waiting, rows, err)
		return
	}
	if err := w.insert(ctx, token, body, rows); err != nil {
		s.metrics.dropped[droppedClosed].Add(float64(rows))
		s.finish(waiting, rows, err)
		return
	}
	s.metrics.written.Add(float64(rows))
	s.metrics.inserts.Inc()
	s.metrics.blockRows.Observe(float64(rows))
	s.metrics.bytes.Add(float64(len(body)))
	s.finish(waiting, rows, nil)
}

func (w *worker) encode(b *block) ([]byte, error) {
	w.raw.Reset()
	if err := b.encode(&w.raw); err != nil {
		return nil, err
	}
	return w.compressor.compress(w.raw.Buf)
}

// insert returns nil when the server has the block, and an error only when ctx has ended.
func (w *worker) insert(ctx context.Context, token string, body []byte, rows int) error {
	s := w.sink
	for try := 0; ; try++ {
		start := time.Now()
		err := s.client.insert(ctx, token, body, rows)
		if err == nil {
			s.metrics.duration.Observe(time.Since(start).Seconds())
			s.health.good(w)
			return nil
		}
		if ctx.Err() != nil {
			return ErrClosed
		}
		s.health.bad(w, err)
		reason := retryTransient
		var refused *refusal
		switch {
		case errors.Is(err, errShort):
			// The token would make the server skip the whole block; the row's key makes a second copy harmless.
			reason, token = retryShort, w.freshToken()
		case errors.As(err, &refused) && refused.repair():
			reason = retryRepair
		}
		s.metrics.retries[reason].Inc()
		select {
		case <-ctx.Done():
			return ErrClosed
		case <-time.After(pause(reason, try)):
		}
	}
}

func (w *worker) freshToken() string {
	w.sink.mu.Lock()
	defer w.sink.mu.Unlock()
	return w.sink.newToken()
}

// Pauses between tries: doubling up to the longest, with half of it left to chance so that collectors do not knock together.
const (
	firstPause  = 100 * time.Millisecond
	longPause   = 5 * time.Second
	repairPause = 15 * time.Second
)

func pause(reason string, try int) time.Duration {
	p := repairPause
	if reason != retryRepair {
		p = min(firstPause<<min(try, 10), longPause)
	}
	return p/2 + rand.N(p/2)
}
