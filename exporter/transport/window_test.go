package transport

import (
	"errors"
	"math"
	"testing"
	"time"

	"tributary/proto/flowv1"
	"tributary/service/spool"
)

func sent(w *window, exporterID string, seq uint64, bytes int) {
	w.took(spool.Batch{Run: exporterID, Seq: seq, Rows: 1, Body: make([]byte, bytes)})
}

// Batches go out in any order while the spool catches up: credit follows the order of sending, not of batch_seq.
func TestCreditFollowsTheOrderOfSending(t *testing.T) {
	w := newWindow("now")
	w.restart()
	if w.room() != math.MaxInt64 {
		t.Error("without a statement of the collector there is room for anything")
	}
	room := func(want int64) {
		t.Helper()
		if got := w.room(); got != want {
			t.Errorf("room for %d bytes, want %d", got, want)
		}
	}
	w.apply(&flowv1.FlowsResponse{CreditBytes: 1000}, "now")
	room(math.MaxInt64) // one may always be under way
	sent(w, "now", 9, 400)
	room(600)
	sent(w, "now", 8, 300)
	sent(w, "before", 8, 100)
	sent(w, "now", 1, 500)
	room(0)
	w.apply(&flowv1.FlowsResponse{ReceivedSeq: 9}, "now")
	room(100)
	w.apply(&flowv1.FlowsResponse{ReceivedSeq: 8}, "before") // and what was sent before it
	room(500)
	w.apply(&flowv1.FlowsResponse{ReceivedSeq: 7}, "now") // of the stream before
	room(500)
	sent(w, "now", 2, 100)
	w.apply(&flowv1.FlowsResponse{Acked: []*flowv1.SeqRange{{First: 2, Last: 5}}}, "now")
	w.apply(&flowv1.FlowsResponse{Rejected: []*flowv1.Rejected{{BatchSeq: 1}}}, "before")
	room(500)
	w.apply(&flowv1.FlowsResponse{Rejected: []*flowv1.Rejected{{BatchSeq: 1}}}, "now")
	room(math.MaxInt64)
	if w.restart(); w.bytes != 0 || w.credit != 0 {
		t.Error("a new stream begins with the window of the one before")
	}
}

// What an earlier run sent nobody knows any more; of this run everything is known.
func TestAnswersForEarlierRuns(t *testing.T) {
	w := newWindow("now")
	w.restart()
	sent(w, "before", 5, 10)
	answer := &flowv1.FlowsResponse{Acked: []*flowv1.SeqRange{{First: 7, Last: 9}}, ReceivedSeq: 9}
	if err := w.check(answer, "before"); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"now", "never"} {
		if err := w.check(answer, id); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func TestRetryGrowsAndForgets(t *testing.T) {
	var r retry
	for i, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000} {
		got := r.next(false)
		if low, high := want*time.Millisecond*8/10, want*time.Millisecond*12/10; got < low || got > high {
			t.Errorf("attempt %d waits %v, want %v to %v", i, got, low, high)
		}
	}
	if got := r.next(true); got > 120*time.Millisecond {
		t.Errorf("after a steady stream the wait is %v", got)
	}
}
