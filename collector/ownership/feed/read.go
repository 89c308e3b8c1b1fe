package feed

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

const (
	fetchBytes = 4 << 20
	fetchWait  = 250 * time.Millisecond
	// maxValue bounds a message that is decoded; we write none half as large.
	maxValue = 2 << 20
	// maxNodes bounds the nodes of a partition that are remembered.
	maxNodes = 1024
)

// reader reads one partition.
type reader struct {
	f        *Feed
	id       int
	next     atomic.Int64 // the offset to read
	target   int64        // the partition's end at the start
	replayed atomic.Bool

	mu       sync.Mutex
	caughtUp int64            // nothing was left to read then
	nodes    map[string]int64 // when each other node published last, by its clock
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	for n := 1; ctx.Err() == nil; {
		if err := r.fetch(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			r.f.report(err)
			if !pause(ctx, n) {
				return
			}
			n++
			continue
		}
		n = 1
	}
}

// fetch reads once and applies what came.
func (r *reader) fetch(ctx context.Context) error {
	asked := r.f.now().UnixNano()
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := r.f.client.Fetch(bounded, &kafka.FetchRequest{
		Topic: r.f.cfg.Topic, Partition: r.id, Offset: r.next.Load(), MinBytes: 1, MaxBytes: fetchBytes, MaxWait: fetchWait,
	})
	if err == nil {
		err = answer.Error
	}
	if errors.Is(err, kafka.OffsetOutOfRange) {
		return r.reposition(bounded)
	}
	if err != nil {
		return err
	}
	if err := r.apply(answer.Records); err != nil {
		return err
	}
	r.arrived(asked, answer.HighWatermark)
	return nil
}

// arrived notes how far the reader has come; end is where the partition ended at some time after asked.
func (r *reader) arrived(asked, end int64) {
	if r.next.Load() >= end {
		r.mu.Lock()
		r.caughtUp = asked
		r.mu.Unlock()
	}
	if !r.replayed.Load() && r.next.Load() >= r.target {
		r.replayed.Store(true)
	}
	r.f.wake()
}

// reposition goes on where the topic begins: what stood before was deleted by its age, or the topic was made anew.
func (r *reader) reposition(ctx context.Context) error {
	starts, err := r.f.offsets(ctx, len(r.f.readers), kafka.FirstOffsetOf)
	if err != nil {
		return err
	}
	r.f.log.Warn("ownership of other nodes was deleted before it was read", "partition", r.id, "offset", r.next.Load(), "first", starts[r.id])
	r.f.metrics.read.WithLabelValues(resultDeleted).Inc()
	r.target = min(r.target, starts[r.id])
	r.next.Store(starts[r.id])
	return nil
}

func (r *reader) apply(records kafka.RecordReader) error {
	for {
		rec, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if rec.Offset < r.next.Load() { // of a compressed block that begins earlier
			continue
		}
		r.f.metrics.read.WithLabelValues(r.message(rec.Value)).Inc()
		r.next.Store(rec.Offset + 1)
	}
}

// message applies one message and says what became of it.
func (r *reader) message(value kafka.Bytes) string {
	if value == nil || value.Len() > maxValue {
		return resultMalformed
	}
	b, err := kafka.ReadAll(value)
	if err != nil {
		return resultMalformed
	}
	return r.decode(b)
}

func (r *reader) decode(b []byte) string {
	var m flowv1.OwnershipMessage
	if err := proto.Unmarshal(b, &m); err != nil || m.GetNode() == "" || len(m.GetNode()) > 512 {
		return resultMalformed
	}
	if m.GetSchema() != schema {
		return resultSchema
	}
	if m.GetNode() == r.f.cfg.Node {
		return resultOwn
	}
	result := session.Applied
	switch body := m.GetBody().(type) {
	case *flowv1.OwnershipMessage_Changes:
		result = r.f.book.Apply(body.Changes)
	case *flowv1.OwnershipMessage_Watermarks:
		for _, w := range body.Watermarks.GetExporters() {
			result = max(result, r.f.book.Mark(w))
		}
		r.heard(m.GetNode(), m.GetPublishedNs(), body.Watermarks.GetLeaving())
	default:
		return resultMalformed
	}
	return resultNames[result]
}

// heard notes that all that a node took in before published stands before this message.
func (r *reader) heard(node string, published int64, leaving bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if leaving {
		delete(r.nodes, node)
		return
	}
	if _, known := r.nodes[node]; known || len(r.nodes) < maxNodes {
		r.nodes[node] = published
	}
}

// complete is up to when everything that the other nodes said in this partition is known. Nodes that have been silent are forgotten.
func (r *reader) complete(now int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.replayed.Load() {
		return 0
	}
	upTo := r.caughtUp
	for node, published := range r.nodes {
		if published < r.caughtUp-int64(silence) {
			delete(r.nodes, node)
			continue
		}
		upTo = min(upTo, published)
	}
	return min(upTo, now)
}
