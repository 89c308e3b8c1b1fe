package transport

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// window is what is under way on the present stream of batches, and the collector's credit for it.
type window struct {
	exporterID string // of this run

	mu      sync.Mutex
	credit  uint64          // 0: no statement yet
	sent    []sending       // in order of sending, not yet said to be received
	bytes   uint64          // sum of sent
	runs    map[string]bool // whose batches were sent
	drain   bool
	highest uint64 // highest batch_seq of this run ever sent, on any stream
	stats   Stats

	wake chan struct{} // there may be something to send, or to stop waiting for
}

// sending is one batch on the stream.
type sending struct {
	exporterID string
	seq, bytes uint64
}

// Stats counts what was handed to the connection. What became of it is in the spool's books.
type Stats struct {
	Sent      spool.Count // every sending, repetitions included
	Resent    spool.Count // of these, what this run had sent before, on an earlier stream
	SentBytes uint64
}

func newWindow(exporterID string) *window {
	return &window{exporterID: exporterID, wake: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// restart begins a stream.
func (w *window) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.credit, w.sent, w.bytes, w.drain = 0, nil, 0, false
	w.runs = map[string]bool{w.exporterID: true}
}

// room returns how many bytes the next batch may have. One batch may always be under way, whatever the credit: otherwise a large
// one would wait for ever.
func (w *window) room() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credit == 0 || len(w.sent) == 0 {
		return math.MaxInt64
	}
	return int64(min(w.credit-min(w.credit, w.bytes), math.MaxInt64))
}

// took notes that a batch goes out on the stream.
func (w *window) took(b spool.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	bytes := uint64(len(b.Body))
	w.sent = append(w.sent, sending{b.Run, b.Seq, bytes})
	w.bytes += bytes
	w.runs[b.Run] = true
	if b.Run == w.exporterID {
		w.highest = max(w.highest, b.Seq)
	}
	w.stats.Sent.Batches++
	w.stats.Sent.Rows += uint64(b.Rows)
	w.stats.SentBytes += bytes
	if b.Again {
		w.stats.Resent.Batches++
		w.stats.Resent.Rows += uint64(b.Rows)
	}
}

// errProtocol is wrapped by every complaint about a collector's answer.
var errProtocol = errors.New("protocol error")

// check says why a response cannot be true. Of an earlier run nobody remembers what it sent, so a collector may know more of it.
func (w *window) check(r *flowv1.FlowsResponse, exporterID string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.runs[exporterID] {
		return fmt.Errorf("%w: the collector answers for exporter %.64q, of which nothing was sent", errProtocol, exporterID)
	}
	highest := w.highest
	if exporterID != w.exporterID {
		highest = math.MaxUint64
	}
	for _, a := range r.GetAcked() {
		if a.GetFirst() == 0 || a.GetLast() < a.GetFirst() || a.GetLast() > highest {
			return fmt.Errorf("%w: batches %d to %d acknowledged, %d is the last one sent", errProtocol, a.GetFirst(), a.GetLast(), highest)
		}
	}
	for _, rejected := range r.GetRejected() {
		if seq := rejected.GetBatchSeq(); seq == 0 || seq > highest {
			return fmt.Errorf("%w: batch %d rejected, %d is the last one sent", errProtocol, seq, highest)
		}
	}
	// A collector may still be reading the stream before, so the bound is what was ever sent.
	if r.GetReceivedSeq() > highest {
		return fmt.Errorf("%w: batch %d received, %d is the last one sent", errProtocol, r.GetReceivedSeq(), highest)
	}
	return nil
}

// apply gives credit back for what was received or settled, and notes what else the collector said.
func (w *window) apply(r *flowv1.FlowsResponse, exporterID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// A stream keeps its order: with the batch that was received last came all before it.
	through := slices.IndexFunc(w.sent, func(s sending) bool { return s.exporterID == exporterID && s.seq == r.GetReceivedSeq() })
	kept := w.sent[:0]
	for i, s := range w.sent {
		if i <= through || s.exporterID == exporterID && settles(r, s.seq) {
			w.bytes -= s.bytes
			continue
		}
		kept = append(kept, s)
	}
	w.sent = kept
	if r.GetCreditBytes() > 0 {
		w.credit = r.GetCreditBytes()
	}
	w.drain = w.drain || r.GetDrain()
	signal(w.wake)
}

// settles reports whether a response acknowledges or rejects a batch.
func settles(r *flowv1.FlowsResponse, seq uint64) bool {
	return slices.ContainsFunc(r.GetAcked(), func(a *flowv1.SeqRange) bool { return a.GetFirst() <= seq && seq <= a.GetLast() }) ||
		slices.ContainsFunc(r.GetRejected(), func(x *flowv1.Rejected) bool { return x.GetBatchSeq() == seq })
}

// turn ends the present stream as if the collector had asked to drain: another way is better.
func (w *window) turn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drain = true
	signal(w.wake)
}

// draining reports whether the stream is to end.
func (w *window) draining() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drain
}

func (w *window) snapshot() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stats
}
