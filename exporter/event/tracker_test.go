package event

import "testing"

// reading is the record of one connection at a moment with these totals.
func reading(sock uint64, kind Kind, end, tx uint64) Event {
	return Event{
		Kind: kind, StartObserved: true, Reported: true, Sock: sock, Opened: 5, Start: 4, IntervalStart: 4, End: end,
		TxBytes: tx, RxBytes: 2 * tx, RetransBytes: 3 * tx, TxSegs: uint32(4 * tx), RetransSegs: uint32(5 * tx), RTO: uint32(6 * tx),
	}
}

func TestTrackerMakesDeltas(t *testing.T) {
	tracker := NewTracker()
	for i, c := range []struct {
		e         Event
		id        uint64
		seq       uint32
		interval  uint64
		tx        uint64
		remembers int
	}{
		{reading(1, KindActive, 10, 100), 1, 0, 4, 100, 1},
		{reading(2, KindActive, 11, 7), 2, 0, 4, 7, 2},
		{reading(1, KindActive, 20, 100), 1, 1, 10, 0, 2},
		{reading(1, KindClosed, 30, 150), 1, 2, 20, 50, 1},
		{reading(1, KindClosed, 40, 9), 3, 0, 4, 9, 1}, // the walk prepared a record but did not write it
		{reading(2, KindFailed, 41, 8), 2, 1, 11, 1, 0},
		{reading(3, KindActive, 50, 20), 4, 0, 4, 20, 1},
		{reading(3, KindClosed, 49, 19), 4, 1, 50, 0, 0}, // a total and a time that fall
	} {
		e := c.e
		tracker.Apply(&e)
		if e.FlowID != c.id || e.RecordSeq != c.seq || e.IntervalStart != c.interval || e.TxBytes != c.tx || tracker.Open() != c.remembers {
			t.Errorf("%d: flow %d.%d from %d, tx %d, %d open; want %+v", i, e.FlowID, e.RecordSeq, e.IntervalStart, e.TxBytes, tracker.Open(), c)
		}
		if e.RxBytes != 2*c.tx || e.RetransBytes != 3*c.tx || e.TxSegs != uint32(4*c.tx) || e.RetransSegs != uint32(5*c.tx) || e.RTO != uint32(6*c.tx) {
			t.Errorf("%d: not all counters are deltas: %+v", i, e)
		}
		if e.End < e.IntervalStart {
			t.Errorf("%d: ends at %d before it begins at %d", i, e.End, e.IntervalStart)
		}
	}
}

func TestTrackerSeparatesConnectionsOfOneSocket(t *testing.T) {
	tracker := NewTracker()
	first, second := reading(1, KindActive, 10, 100), reading(1, KindActive, 30, 5)
	second.Opened, second.Start = 25, 25
	tracker.Apply(&first)
	tracker.Apply(&second)
	if second.FlowID == first.FlowID || second.TxBytes != 5 || second.IntervalStart != 25 {
		t.Errorf("%+v", second)
	}
}

func TestShortConnectionsAreNotRemembered(t *testing.T) {
	tracker := NewTracker()
	for i := range 1000 {
		e := reading(uint64(i), KindClosed, 10, 3)
		e.Reported = i%2 == 0
		tracker.Apply(&e)
		if e.FlowID != uint64(i+1) || e.TxBytes != 3 {
			t.Fatalf("%+v", e)
		}
	}
	if tracker.Open() != 0 {
		t.Errorf("%d remembered", tracker.Open())
	}
}

func TestSweepForgetsConnectionsWhoseEndWasLost(t *testing.T) {
	tracker := NewTracker()
	lost, alive := reading(1, KindActive, 10, 1), reading(2, KindActive, 10, 1)
	tracker.Apply(&lost)
	tracker.Apply(&alive)
	swept := 0
	for i := range uint64(6) {
		swept += tracker.Sweep(3)
		again := reading(2, KindActive, 11+i, 2+i)
		tracker.Apply(&again)
		if again.FlowID != alive.FlowID {
			t.Fatal("a living connection was forgotten")
		}
	}
	if swept != 1 || tracker.Open() != 1 {
		t.Errorf("swept %d, %d open", swept, tracker.Open())
	}
}
