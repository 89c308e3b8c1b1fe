package transport

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"tributary/proto/flowv1"
)

// maxBatches bounds the queue's bookkeeping where batches are tiny.
const maxBatches = 32768

// overhead is what a kept batch costs beside its payload, and counterBytes what one counter of its header does; both rounded up.
const (
	overhead     = 512
	counterBytes = 128
)

// item is a batch in the queue. batch is nil once it has left.
type item struct {
	seq   uint64
	batch *flowv1.Batch
	size  int64
	added time.Time
	again bool // it was sent before, on an earlier stream
}

// queue holds the batches that are not acknowledged: under way on the present stream, or waiting for it.
type queue struct {
	maxBytes int64

	mu       sync.Mutex
	sent     []item // in order of seq; gone ones stay until they are in front
	sentGone int
	waiting  []item // in order of seq, all above sent's
	highest  uint64 // highest seq ever sent
	stream   streamState
	stats    Stats
	lastAdd  time.Time
	closed   bool // Run has ended: nothing is kept any more

	wake  chan struct{} // there may be something to send
	empty chan struct{} // nothing is left
}

// streamState is what the collector told on the present stream.
type streamState struct {
	credit   uint64 // 0: no statement yet
	underway []size // sent and not yet said to be received
	bytes    uint64 // sum of underway
	drain    bool
}

type size struct{ seq, bytes uint64 }

func newQueue(maxBytes int64) *queue {
	return &queue{maxBytes: maxBytes, wake: make(chan struct{}, 1), empty: make(chan struct{}, 1)}
}

// add takes a batch over and makes room for it.
func (q *queue) add(b *flowv1.Batch, now time.Time) {
	it := item{seq: b.GetBatchSeq(), batch: b, added: now, size: int64(len(b.GetPayload()) + overhead + counterBytes*len(b.GetCounters()))}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastAdd = now
	q.stats.Queued.add(b)
	if q.closed {
		q.stats.DroppedShutdown.add(b)
		return
	}
	for q.stats.Pending.Batches > 0 && (q.stats.PendingBytes+it.size > q.maxBytes || q.stats.Pending.Batches >= maxBatches) {
		q.dropOldest()
	}
	q.waiting = append(q.waiting, it)
	q.stats.Pending.add(b)
	q.stats.PendingBytes += it.size
	signal(q.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// dropOldest gives up the oldest batch that is not under way, else the oldest of all.
func (q *queue) dropOldest() {
	q.trim() // so that both lists begin with a batch
	list := q.waiting
	if len(list) == 0 {
		list = q.sent
		q.sentGone++
	}
	q.stats.DroppedFull.add(list[0].batch)
	q.leave(&list[0])
}

// leave takes one batch out of the books of what is pending.
func (q *queue) leave(it *item) {
	q.stats.Pending.sub(it.batch)
	q.stats.PendingBytes -= it.size
	it.batch = nil
	if q.stats.Pending.Batches == 0 {
		signal(q.empty)
	}
}

// trim forgets the batches that left: at the front at once, in the middle when they are the greater part.
func (q *queue) trim() {
	for len(q.waiting) > 0 && q.waiting[0].batch == nil {
		q.waiting = q.waiting[1:]
	}
	for len(q.sent) > 0 && q.sent[0].batch == nil {
		q.sent = q.sent[1:]
		q.sentGone--
	}
	if q.sentGone > 64 && q.sentGone > len(q.sent)/2 {
		q.sent = slices.DeleteFunc(q.sent, func(it item) bool { return it.batch == nil })
		q.sentGone = 0
	}
}

// restart begins a stream: what was under way waits again.
func (q *queue) restart() {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := make([]item, 0, len(q.sent)+len(q.waiting))
	for _, it := range q.sent {
		if it.batch != nil {
			it.again = true
			again = append(again, it)
		}
	}
	q.waiting = append(again, q.waiting...)
	q.sent, q.sentGone, q.stream = nil, 0, streamState{}
}

// next returns the batch to send now, nil if there is none or no credit for it. It is under way from here on. One batch may
// always be under way, whatever the credit: otherwise a large one would wait for ever.
func (q *queue) next() *flowv1.Batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trim()
	if len(q.waiting) == 0 || q.stream.drain {
		return nil
	}
	it := q.waiting[0]
	bytes := uint64(len(it.batch.GetPayload()))
	if s := &q.stream; s.credit > 0 && len(s.underway) > 0 && s.bytes+bytes > s.credit {
		return nil
	}
	q.waiting[0] = item{}
	q.waiting = q.waiting[1:]
	q.sent = append(q.sent, it)
	q.highest = max(q.highest, it.seq)
	q.stream.underway = append(q.stream.underway, size{it.seq, bytes})
	q.stream.bytes += bytes
	q.stats.Sent.add(it.batch)
	q.stats.SentBytes += bytes
	if it.again {
		q.stats.Resent.add(it.batch)
	}
	return it.batch
}

// errProtocol is wrapped by every complaint about a collector's answer.
var errProtocol = errors.New("protocol error")

// apply believes a response, or says why it cannot be true; then nothing of it has been applied.
func (q *queue) apply(r *flowv1.FlowsResponse, exporterID string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.check(r, exporterID); err != nil {
		return err
	}
	for _, a := range r.GetAcked() {
		q.settle(a.GetFirst(), a.GetLast(), &q.stats.Acked)
	}
	for _, rejected := range r.GetRejected() {
		q.settle(rejected.GetBatchSeq(), rejected.GetBatchSeq(), &q.stats.Rejected)
	}
	q.trim()
	q.arrived(0, r.GetReceivedSeq())
	if r.GetCreditBytes() > 0 {
		q.stream.credit = r.GetCreditBytes()
	}
	q.stream.drain = q.stream.drain || r.GetDrain()
	signal(q.wake)
	return nil
}

func (q *queue) check(r *flowv1.FlowsResponse, exporterID string) error {
	if id := r.GetExporterId(); id != "" && id != exporterID {
		return fmt.Errorf("%w: the collector answers for exporter %.64q, this is %s", errProtocol, id, exporterID)
	}
	for _, a := range r.GetAcked() {
		if a.GetFirst() == 0 || a.GetLast() < a.GetFirst() || a.GetLast() > q.highest {
			return fmt.Errorf("%w: batches %d to %d acknowledged, %d is the last one sent", errProtocol, a.GetFirst(), a.GetLast(), q.highest)
		}
	}
	for _, rejected := range r.GetRejected() {
		if seq := rejected.GetBatchSeq(); seq == 0 || seq > q.highest {
			return fmt.Errorf("%w: batch %d rejected, %d is the last one sent", errProtocol, seq, q.highest)
		}
	}
	// A collector may still be reading the stream before, so the bound is what was ever sent.
	if r.GetReceivedSeq() > q.highest {
		return fmt.Errorf("%w: batch %d received, %d is the last one sent", errProtocol, r.GetReceivedSeq(), q.highest)
	}
	return nil
}

// settle takes the batches of a range out of the queue. One that is not there any more was settled before.
func (q *queue) settle(first, last uint64, into *Count) {
	take := func(list []item) (n int) {
		i := sort.Search(len(list), func(i int) bool { return list[i].seq >= first })
		for ; i < len(list) && list[i].seq <= last; i++ {
			if list[i].batch != nil {
				into.add(list[i].batch)
				q.leave(&list[i])
				n++
			}
		}
		return n
	}
	q.sentGone += take(q.sent)
	take(q.waiting)
	q.arrived(first, last) // what is settled has been received
}

// arrived gives credit back for the batches of a range.
func (q *queue) arrived(first, last uint64) {
	s := &q.stream
	from := sort.Search(len(s.underway), func(i int) bool { return s.underway[i].seq >= first })
	to := from
	for ; to < len(s.underway) && s.underway[to].seq <= last; to++ {
		s.bytes -= s.underway[to].bytes
	}
	s.underway = slices.Delete(s.underway, from, to)
}

// drained reports whether the collector asked to drain, and whether all that was sent on this stream is settled.
func (q *queue) drained() (asked, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.trim()
	return q.stream.drain, len(q.sent) == 0
}

// abandon drops everything at shutdown, and what may still come, and returns how much was there.
func (q *queue) abandon() Count {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	before := q.stats.DroppedShutdown
	for _, list := range [][]item{q.sent, q.waiting} {
		for i := range list {
			if list[i].batch != nil {
				q.stats.DroppedShutdown.add(list[i].batch)
				q.leave(&list[i])
			}
		}
	}
	q.sent, q.waiting, q.sentGone = nil, nil, 0
	return Count{Batches: q.stats.DroppedShutdown.Batches - before.Batches, Rows: q.stats.DroppedShutdown.Rows - before.Rows}
}

// snapshot returns the books of this moment.
func (q *queue) snapshot(now time.Time) Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	for _, list := range [][]item{q.sent, q.waiting} {
		i := slices.IndexFunc(list, func(it item) bool { return it.batch != nil })
		if i >= 0 {
			s.OldestPending = now.Sub(list[i].added)
			break
		}
	}
	return s
}

// idleSince returns when the last batch came.
func (q *queue) idleSince() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lastAdd
}
