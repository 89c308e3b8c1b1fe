package datagrams

import (
	"sync"
	"sync/atomic"

	"tributary/collector/ownership/session"
	"tributary/proto/datagram"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// maxEpochs is how many epochs may be open: an exporter ends one every second, and says so on a stream that may lag.
const maxEpochs = 16

// Sender is who was given a key: what it sends is under these names.
type Sender struct {
	ExporterID, Host, BootID string
	Identity                 session.Identity
	Grant                    flow.Grant // for whose local ends it may speak; nil: for all
}

// Book counts what one run of one exporter sends by datagram. It outlives a Control stream. Its methods are safe for concurrent use.
type Book struct {
	id      string // new for each book: an exporter learns that counts begin at 0
	metrics *metrics
	sender  atomic.Pointer[Sender]

	stored, dropped atomic.Uint64 // rows

	keys []uint64 // at most maxKeys, the newest last; the server's

	mu      sync.Mutex
	window  window
	settled uint32 // through this epoch all is told
	marked  uint32 // the last epoch of which the exporter has said what it sent
	came    [maxEpochs]count
	sent    [maxEpochs]count
	all     uint64 // datagrams that came
	never   count
}

type count struct{ datagrams, rows uint64 }

// Sender returns who sends.
func (b *Book) Sender() *Sender { return b.sender.Load() }

// Stored notes rows that every required sink has.
func (b *Book) Stored(rows int) { b.stored.Add(uint64(rows)) }

// Dropped notes rows that came and were not taken.
func (b *Book) Dropped(rows int) { b.dropped.Add(uint64(rows)) }

// admit notes a datagram that could be opened, or says why it must not be taken.
func (b *Book) admit(h datagram.Header) Result {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case h.Epoch <= b.settled:
		return Late
	case h.Epoch > b.settled+maxEpochs:
		return Ahead
	}
	if result := b.window.admit(h.Seq); result != Accepted {
		return result
	}
	c := &b.came[h.Epoch%maxEpochs]
	c.datagrams++
	c.rows += uint64(h.Rows)
	b.all++
	return Accepted
}

// Mark takes what was sent in an epoch that is over, and settles those before it: what has not come of them never came. A mark that was taken before
// changes nothing. It returns the books.
func (b *Book) Mark(m *flowv1.DatagramMark) *flowv1.DatagramReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	epoch := m.GetEpoch()
	if epoch > b.marked && epoch <= b.settled+maxEpochs {
		b.sent[epoch%maxEpochs] = count{m.GetDatagrams(), m.GetRows()}
		b.marked = epoch
		for b.settled+1 < epoch {
			b.settleLocked()
		}
	}
	return &flowv1.DatagramReport{
		Book: b.id, SettledEpoch: b.settled, Datagrams: b.all, StoredRows: b.stored.Load(), DroppedRows: b.dropped.Load(),
		NeverCameDatagrams: b.never.datagrams, NeverCameRows: b.never.rows,
	}
}

func (b *Book) settleLocked() {
	b.settled++
	at := b.settled % maxEpochs
	datagrams := b.sent[at].datagrams - min(b.sent[at].datagrams, b.came[at].datagrams)
	rows := b.sent[at].rows - min(b.sent[at].rows, b.came[at].rows)
	b.sent[at], b.came[at] = count{}, count{}
	b.never.datagrams += datagrams
	b.never.rows += rows
	b.metrics.neverDatagrams.Add(float64(datagrams))
	b.metrics.neverRows.Add(float64(rows))
}
