package transport

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/proto/flowv1"
)

func drainSeqs(q *queue) []uint64 {
	var seqs []uint64
	for b := q.next(); b != nil; b = q.next() {
		seqs = append(seqs, b.BatchSeq)
	}
	return seqs
}

func TestOverTheBoundTheOldestUnsentGoesFirst(t *testing.T) {
	q := newQueue(4 * (100 + overhead))
	for seq := range uint64(3) {
		q.add(batch(seq+1, 100), time.Now())
	}
	q.next() // 1 and 2 are under way
	q.next()
	for seq := range uint64(3) {
		q.add(batch(seq+4, 100), time.Now())
	}
	if diff := cmp.Diff([]uint64{5, 6}, drainSeqs(q)); diff != "" {
		t.Error("3 and 4 were to go", diff)
	}
	q.add(batch(7, 100), time.Now()) // all are under way: 1 goes
	if diff := cmp.Diff([]uint64{7}, drainSeqs(q)); diff != "" {
		t.Error(diff)
	}
	if err := q.apply(ack(1, 2), "exp-1"); err != nil { // 1 is not counted a second time
		t.Error(err)
	}
	q.restart()
	if diff := cmp.Diff([]uint64{5, 6, 7}, drainSeqs(q)); diff != "" {
		t.Error(diff)
	}
	s := q.snapshot(time.Now())
	want := Stats{
		Queued: Count{7, 70}, Acked: Count{1, 10}, DroppedFull: Count{3, 30}, Pending: Count{3, 30},
		PendingBytes: 3 * (100 + overhead), OldestPending: s.OldestPending, Sent: Count{8, 80}, Resent: Count{3, 30}, SentBytes: 800,
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Error(diff)
	}
}

func TestOneBatchLargerThanTheBoundOrTheCredit(t *testing.T) {
	q := newQueue(1000)
	q.add(batch(1, 100), time.Now())
	q.add(batch(2, 5000), time.Now())
	q.stream.credit = 10
	if diff := cmp.Diff([]uint64{2}, drainSeqs(q)); diff != "" {
		t.Error(diff)
	}
	if s := q.snapshot(time.Now()); s.DroppedFull.Batches != 1 || s.Pending.Batches != 1 {
		t.Errorf("%+v", s)
	}
}

// TestBooksBalanceWhateverHappens plays random operations against a plain model.
func TestBooksBalanceWhateverHappens(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		q := newQueue(int64(overhead+100) * int64(1+r.IntN(40)))
		next, sent, last := uint64(1), uint64(0), uint64(0)
		for range 400 {
			switch r.IntN(6) {
			case 0, 1:
				q.add(batch(next, r.IntN(200)), time.Now())
				next++
			case 2, 3:
				if b := q.next(); b != nil {
					if b.BatchSeq <= last {
						t.Fatalf("seed %d: batch %d after %d on one stream", seed, b.BatchSeq, last)
					}
					last = b.BatchSeq
					sent = max(sent, b.BatchSeq)
				}
			case 4:
				first := 1 + r.Uint64N(next)
				through := first + r.Uint64N(5)
				answer := &flowv1.FlowsResponse{Acked: []*flowv1.SeqRange{{First: first, Last: through}}, CreditBytes: r.Uint64N(2000)}
				if r.IntN(4) == 0 {
					answer.Rejected = []*flowv1.Rejected{{BatchSeq: first}}
				}
				if err := q.apply(answer, "exp-1"); errors.Is(err, errProtocol) != (through > sent) {
					t.Fatalf("seed %d: %d to %d acknowledged, sent %d: %v", seed, first, through, sent, err)
				}
			case 5:
				if r.IntN(5) == 0 {
					q.restart()
					last = 0
				}
			}
			checkBooks(t, q, seed)
		}
		q.abandon()
		q.add(batch(next, 10), time.Now())
		checkBooks(t, q, seed)
		if s := q.snapshot(time.Now()); s.Pending != (Count{}) || s.PendingBytes != 0 {
			t.Fatalf("seed %d: %+v", seed, s)
		}
	}
}

func checkBooks(t *testing.T, q *queue, seed uint64) {
	t.Helper()
	s := q.snapshot(time.Now())
	var live Count
	var bytes int64
	gone := 0
	for _, list := range [][]item{q.sent, q.waiting} {
		for _, it := range list {
			if it.batch != nil {
				live.add(it.batch)
				bytes += it.size
			}
		}
	}
	for _, it := range q.sent {
		if it.batch == nil {
			gone++
		}
	}
	out := s.Acked.Rows + s.Rejected.Rows + s.DroppedFull.Rows + s.DroppedShutdown.Rows + s.Pending.Rows
	if s.Queued.Rows != out || live != s.Pending || bytes != s.PendingBytes || gone != q.sentGone {
		t.Fatalf("seed %d: books %+v; there are %+v in %d bytes, %d gone of %d noted", seed, s, live, bytes, gone, q.sentGone)
	}
	if s.Pending.Batches > 1 && bytes > q.maxBytes {
		t.Fatalf("seed %d: %d bytes, bound %d", seed, bytes, q.maxBytes)
	}
	var underway uint64
	for _, u := range q.stream.underway {
		underway += u.bytes
	}
	if underway != q.stream.bytes {
		t.Fatalf("seed %d: %d bytes under way, %d noted", seed, underway, q.stream.bytes)
	}
}

func TestRetryGrowsAndForgets(t *testing.T) {
	var r retry
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		got := r.next(0)
		if low, high := want*time.Millisecond*8/10, want*time.Millisecond*12/10; got < low || got > high {
			t.Errorf("attempt %d waits %v, want %v to %v", i, got, low, high)
		}
	}
	if got := r.next(steady); got > 120*time.Millisecond {
		t.Errorf("after a steady stream the wait is %v", got)
	}
}
