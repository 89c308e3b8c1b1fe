package event

// Tracker numbers connections and their records and turns running totals into deltas.
//
// It remembers a connection from its first active record until its end, so a
// connection that lives less than 5 s costs nothing. It must see records in the
// order that exporter/ring hands them over: an active record never follows the end
// of its connection (see report_open_sockets in bpf/capture.bpf.c).
//
// If the record of an end was lost in the kernel (counted there), the state stays
// until Sweep removes it. A Tracker is used by one goroutine at a time.
type Tracker struct {
	lastID uint64
	open   map[flowKey]*flowState
	free   []*flowState
	round  uint32
}

type flowKey struct{ sock, opened uint64 }

type flowState struct {
	id     uint64
	seq    uint32
	round  uint32
	stands uint32
	end    uint64
	tx, rx uint64
	retrB  uint64
	txSegs uint32
	rxSegs uint32
	retr   [3]uint32 // all, SYN, closing
	lost   uint32
	reord  uint32
	ce     uint32
	rto    uint32
	rst    uint32
	chrono [3]uint64 // busy, limited by the peer's window, by the send buffer
}

// NewTracker returns an empty tracker; its first FlowID is 1.
func NewTracker() *Tracker {
	return &Tracker{open: make(map[flowKey]*flowState)}
}

// Open returns how many connections are remembered.
func (t *Tracker) Open() int { return len(t.open) }

// Told returns for how many connections the earlier records of e's connection stand, 0 if none was applied; e is as Decode has filled it. It counts as a
// record in the eyes of Sweep, so that a connection whose records are left out is not forgotten.
func (t *Tracker) Told(e *Event) (stands uint32) {
	if !e.Reported {
		return 0
	}
	s := t.open[flowKey{e.Sock, e.Opened}]
	if s == nil {
		return 0
	}
	s.round = t.round
	return s.stands
}

// Apply completes an event that Decode has filled and a filter has judged: FlowID, RecordSeq and
// IntervalStart are set and counters become what was added since the connection's
// previous record.
func (t *Tracker) Apply(e *Event) {
	if !e.Reported || !e.StartObserved && !e.Found {
		t.lastID++
		e.FlowID, e.RecordSeq, e.IntervalStart = t.lastID, 0, e.Start
		return
	}
	key := flowKey{e.Sock, e.Opened}
	s := t.open[key]
	if s == nil {
		t.lastID++
		s = t.take()
		*s = flowState{id: t.lastID, stands: max(1, e.SampleRate), end: e.Start}
		if e.Kind == KindActive {
			t.open[key] = s
		}
	}
	e.FlowID, e.RecordSeq, e.IntervalStart = s.id, s.seq, s.end
	s.subtract(e)
	if e.Found && s.seq == 0 {
		e.moveBefore()
	}
	s.seq++
	s.round = t.round
	if e.Kind != KindActive {
		delete(t.open, key)
		t.free = append(t.free, s)
	}
}

// Sweep is called after each complete walk of the open sockets and forgets
// connections that had no record for keep walks: their end's record was lost. keep
// must cover the longest interval between two active records several times over,
// because a connection forgotten too early would be counted twice. It returns how
// many were forgotten.
func (t *Tracker) Sweep(keep uint32) int {
	t.round++
	n := 0
	for key, s := range t.open {
		if t.round-s.round > keep {
			delete(t.open, key)
			t.free = append(t.free, s)
			n++
		}
	}
	return n
}

func (t *Tracker) take() *flowState {
	if n := len(t.free); n > 0 {
		s := t.free[n-1]
		t.free = t.free[:n-1]
		return s
	}
	return new(flowState)
}

// subtract makes deltas of e's totals and keeps the totals. A total never falls;
// should one do so, the delta is 0 rather than a number near 2^64.
func (s *flowState) subtract(e *Event) {
	if e.End < s.end {
		e.End = s.end
	}
	s.end = e.End
	delta64(&e.TxBytes, &s.tx)
	delta64(&e.RxBytes, &s.rx)
	delta64(&e.RetransBytes, &s.retrB)
	delta32(&e.TxSegs, &s.txSegs)
	delta32(&e.RxSegs, &s.rxSegs)
	delta32(&e.RetransSegs, &s.retr[0])
	delta32(&e.RetransSyn, &s.retr[1])
	delta32(&e.RetransClosing, &s.retr[2])
	delta32(&e.LostSegs, &s.lost)
	delta32(&e.ReordSeen, &s.reord)
	delta32(&e.DeliveredCE, &s.ce)
	delta32(&e.RTO, &s.rto)
	delta32(&e.RstReceived, &s.rst)
	delta64(&e.BusyUs, &s.chrono[0])
	delta64(&e.RwndLimitedUs, &s.chrono[1])
	delta64(&e.SndbufLimitedUs, &s.chrono[2])
}

func delta64(total, seen *uint64) {
	now := *total
	if now < *seen {
		now = *seen
	}
	*total, *seen = now-*seen, now
}

// delta32 lets the kernel's 32-bit counters wrap.
func delta32(total, seen *uint32) {
	added := *total - *seen
	if added >= 1<<31 {
		added = 0
	}
	*total, *seen = added, *seen+added
}
