package ingest

import (
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// maxRanges bounds the acknowledged ranges remembered of one exporter. Over it the lowest are forgotten: a repeat of those is stored
// again, under the same row keys.
const maxRanges = 1024

// seqRange is an inclusive range of batch_seq.
type seqRange struct{ first, last uint64 }

// exporter is what this node knows of one run of one exporter, across its streams.
type exporter struct {
	owner    session.Owner // of exporters.mu
	mu       sync.Mutex
	id       string
	acked    []seqRange          // sorted, disjoint, not adjacent: stored, whether told or not
	inFlight map[uint64]struct{} // taken in, not done
	life     uint64              // counts forgetAll
	fresh    []seqRange          // done or seen again, not told yet
	rejected []*flowv1.Rejected  // not told yet
	received uint64              // the last batch_seq that the present stream brought
	news     bool                // there is something to tell
	stream   chan struct{}       // wakes the present stream's sender; nil without one
}

// ticket belongs to a batch on its way to the sinks.
type ticket struct {
	exporter *exporter       // nil for one that came as a datagram
	book     *datagrams.Book // of one that came as a datagram
	seq      uint64
	bytes    int64
	rows     int
	life     uint64 // of the exporter when it was taken in
}

// exporters remembers exporters by id, the most recently active first.
type exporters struct {
	mu  sync.Mutex
	lru *lru.Cache[string, *exporter]
}

func newExporters(size int) (*exporters, error) {
	c, err := lru.New[string, *exporter](size)
	if err != nil {
		return nil, err
	}
	return &exporters{lru: c}, nil
}

// get finds an exporter, or begins to know it; false if it belongs to somebody else.
func (x *exporters) get(id string, who session.Identity) (*exporter, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, ok := x.lru.Get(id)
	if !ok {
		e = newExporter(id)
		x.lru.Add(id, e)
	}
	return e, e.owner.Take(who)
}

// all returns every exporter that is remembered.
func (x *exporters) all() []*exporter {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lru.Values()
}

func newExporter(id string) *exporter {
	return &exporter{id: id, inFlight: make(map[uint64]struct{})}
}

// forgetAll makes the exporter's batches unknown: those on their way too, because a part of them may be in a store that has forgotten it.
func (e *exporter) forgetAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.acked, e.fresh = nil, nil
	clear(e.inFlight)
	e.life++
}

// attach makes wake the present stream's; the one before gets no more news.
func (e *exporter) attach(wake chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.wakeLocked() // the stream before finds out that it is not the present one any more
	e.stream, e.received = wake, 0
	e.wakeLocked()
}

func (e *exporter) detach(wake chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream == wake {
		e.stream = nil
	}
}

// wakeLocked tells the present stream that there is news.
func (e *exporter) wakeLocked() {
	e.news = true
	if e.stream == nil {
		return
	}
	select {
	case e.stream <- struct{}{}:
	default:
	}
}

// verdict is what to do with a batch that arrived.
type verdict uint8

const (
	takeIn verdict = iota
	stored         // acknowledge at once
	underway
)

// arrived notes a batch_seq and says what to do with it. After takeIn the caller must see to finish, with the life, or forget.
func (e *exporter) arrived(seq uint64) (v verdict, life uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.received = seq
	defer e.wakeLocked()
	if contains(e.acked, seq) {
		e.fresh = insert(e.fresh, seq)
		return stored, e.life
	}
	if _, ok := e.inFlight[seq]; ok {
		return underway, e.life
	}
	e.inFlight[seq] = struct{}{}
	return takeIn, e.life
}

// finish notes that every required sink has the batch. One of an earlier life has to come again.
func (e *exporter) finish(seq, life uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if life != e.life {
		return
	}
	delete(e.inFlight, seq)
	e.acked = insert(e.acked, seq)
	if len(e.acked) > maxRanges {
		e.acked = slices.Delete(e.acked, 0, len(e.acked)-maxRanges)
	}
	e.fresh = insert(e.fresh, seq)
	e.wakeLocked()
}

// forget takes back takeIn for a batch that will not be done: its exporter sends it again. One of an earlier life is forgotten already.
func (e *exporter) forget(seq, life uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if life == e.life {
		delete(e.inFlight, seq)
	}
}

// maxRejected bounds the rejections that wait to be told; what is over is told when it is sent again.
const maxRejected = 256

func (e *exporter) reject(r *flowv1.Rejected) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.received = r.GetBatchSeq()
	if len(e.rejected) < maxRejected {
		e.rejected = append(e.rejected, r)
	}
	e.wakeLocked()
}

// tell takes what the present stream has to tell, nil if that is nothing. A false says that wake belongs to an older stream.
func (e *exporter) tell(wake chan struct{}) (*flowv1.FlowsResponse, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != wake || !e.news {
		return nil, e.stream == wake
	}
	m := &flowv1.FlowsResponse{ExporterId: e.id, ReceivedSeq: e.received, Rejected: e.rejected}
	for _, r := range e.fresh {
		m.Acked = append(m.Acked, &flowv1.SeqRange{First: r.first, Last: r.last})
	}
	e.fresh, e.rejected, e.news = e.fresh[:0], nil, false
	return m, true
}

// idle reports whether everything that was taken in is done and told.
func (e *exporter) idle() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.inFlight) == 0 && len(e.fresh) == 0 && len(e.rejected) == 0
}

func search(ranges []seqRange, seq uint64) (int, bool) {
	return slices.BinarySearchFunc(ranges, seq, func(r seqRange, seq uint64) int {
		switch {
		case r.last < seq:
			return -1
		case r.first > seq:
			return 1
		}
		return 0
	})
}

func contains(ranges []seqRange, seq uint64) bool {
	_, found := search(ranges, seq)
	return found
}

// insert adds seq to sorted disjoint ranges and merges neighbours.
func insert(ranges []seqRange, seq uint64) []seqRange {
	i, found := search(ranges, seq)
	if found {
		return ranges
	}
	left := i > 0 && ranges[i-1].last+1 == seq
	right := i < len(ranges) && seq+1 == ranges[i].first
	switch {
	case left && right:
		ranges[i-1].last = ranges[i].last
		return slices.Delete(ranges, i, i+1)
	case left:
		ranges[i-1].last = seq
		return ranges
	case right:
		ranges[i].first = seq
		return ranges
	}
	return slices.Insert(ranges, i, seqRange{seq, seq})
}

// tickets finds a batch's exporter when the batch is done. The key is the batch itself: it is nobody else's while it is on its way.
type tickets struct {
	mu   sync.Mutex
	open map[*flow.Batch]ticket
}

func (t *tickets) put(b *flow.Batch, k ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[b] = k
}

func (t *tickets) take(b *flow.Batch) (ticket, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.open[b]
	delete(t.open, b)
	return k, ok
}

func (t *tickets) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}
