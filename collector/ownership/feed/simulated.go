package feed

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// FlushEvery is how often a node writes to each partition.
const FlushEvery = flushEvery

// Simulated is a Feed whose broker, clock and goroutines are the caller's, where time is not the clock's. What is coalesced, keyed, cut, encoded, decoded and
// applied, and what is thought complete, is as in life. It is the book's Publisher.
type Simulated struct{ f *Feed }

// NewSimulated makes a feed that does nothing by itself. The table learns that it does not stand alone.
func NewSimulated(cfg Config, now func() time.Time, table *ownership.Table, reg prometheus.Registerer) (*Simulated, error) {
	f, err := New(cfg, table, reg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	f.now = now
	return &Simulated{f}, nil
}

// Begin takes the partitions up: reading begins at the offsets next, and is a replay up to the offsets ends.
func (s *Simulated) Begin(book *session.Book, wake func(), next, ends []int64) {
	f := s.f
	f.book, f.wake, f.fault = book, wake, nil
	for p := range next {
		r := &reader{f: f, id: p, target: ends[p], nodes: map[string]int64{}}
		r.next.Store(next[p])
		r.replayed.Store(next[p] >= ends[p])
		f.readers = append(f.readers, r)
	}
	f.out.place(len(next))
	f.located.Store(true)
}

// Publish implements session.Publisher.
func (s *Simulated) Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep) {
	s.f.Publish(exporter, host, stream, step)
}

// Mark implements session.Publisher.
func (s *Simulated) Mark(w *flowv1.ExporterWatermark) { s.f.Mark(w) }

// Take returns the messages that are due for a partition, in order. A node takes the next ones when the broker has these.
func (s *Simulated) Take(partition int) [][]byte {
	messages, missed := s.f.due(partition, false)
	values := make([][]byte, len(messages))
	for i := range messages {
		values[i] = messages[i].value
	}
	for _, id := range missed {
		s.f.book.RepeatOne(id, s.f.now().UnixNano())
	}
	return values
}

// Next is the offset from which a partition is to be read.
func (s *Simulated) Next(partition int) int64 { return s.f.readers[partition].next.Load() }

// Give applies the messages of a partition from Next on. They were asked for at a time in ns, and the partition ended at end then or later. An
// error says that a message cannot be read, which only a mistake in the program makes.
func (s *Simulated) Give(partition int, values [][]byte, asked, end int64) error {
	r := s.f.readers[partition]
	for _, value := range values {
		switch result := r.decode(value); result {
		case resultMalformed, resultSchema:
			return fmt.Errorf("a message of partition %d is %s", partition, result)
		default:
			s.f.metrics.read.WithLabelValues(result).Inc()
		}
		r.next.Add(1)
	}
	r.arrived(asked, end)
	return nil
}

// Look tells the table up to when the other nodes' news are complete, as a node does twenty times a second.
func (s *Simulated) Look() { s.f.table.Complete(s.f.complete()) }

// Offsets are where a reader would go on, by partition; nil before the replay is done.
func (s *Simulated) Offsets() []int64 { return s.f.Offsets() }
