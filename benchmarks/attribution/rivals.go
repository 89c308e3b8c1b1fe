package main

import "sort"

// rivals are two other designs on the same events.
//
// The event stream: "address A is W's since t", once for each assignment, as late as our claims and lost where our claim is (ours comes again with
// the next stream's whole set). The last to arrive wins, until told otherwise. A look-up asks at the arrival of the record; the patient variant
// asks when everything has arrived, for the last event with a time before the record's.
//
// Heartbeats: each record is evidence that its local address was its workload's from its start to its end. Exporters report once a minute; a
// record of the same workload extends the range before it; a record is looked up by its start a minute after it came, by address alone.
type rivals struct {
	sim     *sim
	current map[place]*service
	history map[place][]assignment
	ranges  map[[16]byte][]span

	atOnce, patient, heartbeats rival
	asked                       []question
}

type place struct {
	network string
	addr    [16]byte
}

type assignment struct {
	at    int64
	owner *service
}

type span struct {
	owner      *service
	start, end int64
}

// question is one look-up. at is the asking host's idea of the flow's start.
type question struct {
	place place
	at    int64
	flow  uint64
}

// rival counts how one did, by kind of address, and apart for routed addresses that had an owner before.
type rival struct {
	byKind [numKinds]tally
	reused tally
}

type tally struct{ rows, wrong, unnamed uint64 }

func newRivals(s *sim) *rivals {
	return &rivals{sim: s, current: map[place]*service{}, history: map[place][]assignment{}, ranges: map[[16]byte][]span{}}
}

func (t *tally) count(got *service, truth *truth) {
	t.rows++
	switch got {
	case nil:
		t.unnamed++
	case truth.remote.service:
	default:
		t.wrong++
	}
}

// note counts a row.
func (t *tally) note(named, wrong bool) {
	t.rows++
	if !named {
		t.unnamed++
	}
	if wrong {
		t.wrong++
	}
}

func (r *rival) count(got *service, truth *truth) {
	r.byKind[truth.kind()].count(got, truth)
	if truth.kind() == plain && truth.remote.before != nil {
		r.reused.count(got, truth)
	}
}

// begins tells the event stream of an assignment.
func (v *rivals) begins(i *instance) {
	s, owner := v.sim, i.service
	p := place{i.address.network, i.address.addr}
	at := i.host.clock(s.time.now)
	if i.host.severed || i.host.down {
		return
	}
	arrive := func() {
		v.history[p] = append(v.history[p], assignment{at, owner})
		v.current[p] = owner
	}
	if s.time.now == 0 {
		arrive()
		return
	}
	s.time.after(s.latency(), arrive)
}

// arrived: a batch's records came to the collector.
func (v *rivals) arrived(h *host, x *sealed) {
	for i := range x.rows {
		row := &x.rows[i]
		t := &v.sim.flows[row.flow]
		if t.remote == nil || t.silent {
			continue
		}
		q := question{place{row.remote.network, row.remote.addr}, h.clock(row.start), row.flow}
		if row.seq == 0 && !row.found {
			v.atOnce.count(v.current[q.place], t)
			v.asked = append(v.asked, q)
		}
	}
}

// beat is a heartbeat. It and the questions of its host wait for the end of the exporter's minute.
func (v *rivals) beat(i *instance, start, end int64) {
	h := i.host
	h.minute.beats = append(h.minute.beats, beat{i.address.addr, span{i.service, h.clock(start), h.clock(max(start, end))}})
}

type beat struct {
	addr [16]byte
	span span
}

// minute is what an exporter of the heartbeat design has to report.
type minute struct{ beats []beat }

// report is the end of an exporter's minute.
func (v *rivals) report(h *host) {
	s := v.sim
	beats := h.minute.beats
	h.minute.beats = nil
	s.time.after(s.latency(), func() {
		for i := range beats {
			v.extend(beats[i].addr, beats[i].span)
		}
	})
	s.time.after(60*sec, func() { v.report(h) })
}

// extend opens a range or extends one.
func (v *rivals) extend(addr [16]byte, x span) {
	list := v.ranges[addr]
	n := sort.Search(len(list), func(i int) bool { return list[i].start > x.start })
	if n > 0 && list[n-1].owner == x.owner {
		list[n-1].end = max(list[n-1].end, x.end)
		return
	}
	if n < len(list) && list[n].owner == x.owner {
		list[n].start = x.start
		return
	}
	if n > 0 {
		list[n-1].end = min(list[n-1].end, x.start) // ranges do not overlap
	}
	list = append(list, span{})
	copy(list[n+1:], list[n:])
	list[n] = x
	v.ranges[addr] = list
}

// finish asks what is asked late. By now everything has arrived; the heartbeat design's minute was long enough for all but the latest.
func (v *rivals) finish() {
	for _, list := range v.history {
		sort.SliceStable(list, func(i, j int) bool { return list[i].at < list[j].at })
	}
	for i := range v.asked {
		q := &v.asked[i]
		t := &v.sim.flows[q.flow]
		v.patient.count(v.ownerAt(q), t)
		v.heartbeats.count(v.rangeAt(q), t)
	}
}

func (v *rivals) ownerAt(q *question) *service {
	list := v.history[q.place]
	n := sort.Search(len(list), func(i int) bool { return list[i].at > q.at })
	if n == 0 {
		return nil
	}
	return list[n-1].owner
}

func (v *rivals) rangeAt(q *question) *service {
	list := v.ranges[q.place.addr]
	n := sort.Search(len(list), func(i int) bool { return list[i].start > q.at })
	if n == 0 || list[n-1].end < q.at {
		return nil
	}
	return list[n-1].owner
}
