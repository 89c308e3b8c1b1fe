// Package sink fans a named batch out to every sink and says when all of them have it.
//
// It promises that done is called once for each batch, with nil only when every sink has every row durably. Sinks keep trying by themselves;
// an error reaches done only when a sink gives up because the process stops, and then the batch must not be acknowledged: its exporter
// sends it again. The fan-out holds nothing and blocks as long as the slowest sink's Write blocks; what bounds the batches under way is the
// front door.
package sink

import (
	"errors"
	"sync"

	"tributary/proto/flow"
)

// Sink stores batches. Write takes the batch over for reading until it calls done, exactly once, from any goroutine.
type Sink interface {
	Write(b *flow.Batch, done func(error))
}

// Fanout gives each batch to all of its sinks.
type Fanout struct {
	sinks []Sink
}

// NewFanout returns a fan-out to sinks; at least one.
func NewFanout(sinks ...Sink) *Fanout { return &Fanout{sinks: sinks} }

// Write hands the batch to every sink. done gets all errors, joined, or nil when all sinks have the batch.
func (f *Fanout) Write(b *flow.Batch, done func(error)) {
	if len(f.sinks) == 1 {
		f.sinks[0].Write(b, done)
		return
	}
	w := &waiting{left: len(f.sinks), done: done}
	for _, s := range f.sinks {
		s.Write(b, w.one)
	}
}

// waiting collects the sinks' answers for one batch.
type waiting struct {
	mu   sync.Mutex
	left int
	err  error
	done func(error)
}

func (w *waiting) one(err error) {
	w.mu.Lock()
	w.left--
	w.err = errors.Join(w.err, err)
	last, result := w.left == 0, w.err
	w.mu.Unlock()
	if last {
		w.done(result)
	}
}
