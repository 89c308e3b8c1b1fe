package history

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const (
	writeEvery = 5 * time.Second
	markEvery  = time.Minute
	// setEvery is how often an exporter's repeated set is written: a replay begins so long before the time asked for, and some.
	setEvery = time.Hour
	// maxWaiting bounds the events that wait for the store.
	maxWaiting = 500_000
	// blockEvents bound one INSERT.
	blockEvents = 50_000
)

// The events, as in the store.
const (
	eventHello         = "hello"
	eventClaim         = "claim"
	eventRelease       = "release"
	eventShared        = "shared" // a release: the address stands for others too
	eventWholeSet      = "whole_set"
	eventRepeatedClaim = "repeated_claim"
	eventRepeatedSet   = "repeated_set"
	eventWatermark     = "watermark"
)

// event is a row of ownership.
type event struct {
	Received  stamp      `json:"received_ns"`
	Seq       uint64     `json:"seq"`
	Collector string     `json:"collector"`
	Exporter  string     `json:"exporter_id"`
	Host      string     `json:"host"`
	Stream    int64      `json:"stream"`
	Event     string     `json:"event"`
	Network   string     `json:"network"`
	Addr      netip.Addr `json:"addr"`
	PortFrom  uint32     `json:"port_from"`
	PortTo    uint32     `json:"port_to"`
	Workload  string     `json:"workload"`
	Instance  string     `json:"instance"`
	Derived   bool       `json:"instance_derived"`
	Zone      string     `json:"zone"`
	Region    string     `json:"region"`
	Release   string     `json:"release"`
	Evidence  string     `json:"evidence"`
	At        stamp      `json:"at_ns"`
	Verified  stamp      `json:"verified_to_ns"`
	Clock     stamp      `json:"clock_ns"`
	Marked    stamp      `json:"marked_ns"`
}

// stamp is ns since 1970, in JSON as ClickHouse writes and reads a DateTime64(9).
type stamp int64

const stampLayout = `"2006-01-02 15:04:05.000000000"`

// MarshalJSON implements json.Marshaler.
func (t stamp) MarshalJSON() ([]byte, error) {
	return []byte(time.Unix(0, int64(max(t, 0))).UTC().Format(stampLayout)), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *stamp) UnmarshalJSON(b []byte) error {
	for _, layout := range []string{`"` + time.RFC3339Nano + `"`, stampLayout} {
		if at, err := time.Parse(layout, string(b)); err == nil {
			*t = stamp(at.UnixNano())
			return nil
		}
	}
	return fmt.Errorf("%s is no time", b)
}

// mark is the latest watermark of an exporter.
type mark struct {
	host            string
	stream          int64
	verified, clock int64
	received        int64
	written         bool
	claimed         bool      // it claims something that no watermark covers yet
	due             bool      // this one does, and is not to wait for its minute
	lastSet         int64     // when a repeated set was written last
	heard           time.Time // when its exporter last said anything
}

// Writer writes what this collector is told. It is safe for concurrent use.
type Writer struct {
	store     *schema.Client
	collector string
	log       *slog.Logger
	written   prometheus.Counter
	dropped   prometheus.Counter
	errors    prometheus.Counter

	mu      sync.Mutex
	seq     uint64
	waiting []event
	marks   map[string]*mark
	marked  time.Time
}

// NewWriter returns a writer that writes nothing until Run. collector is this run of it.
func NewWriter(collector string, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Writer {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_history_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	return &Writer{
		store: schema.NewClient(server, 1), collector: collector, log: log.With("component", "history"), marks: map[string]*mark{},
		written: counter("events_written_total", "Events written to the table ownership."),
		dropped: counter("events_dropped_total", "Events given up because too many waited for the store."),
		errors:  counter("errors_total", "Writes that failed; they are tried again."),
	}
}

// Publish implements session.Publisher.
func (w *Writer) Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.markOf(exporter, host, stream)
	if step.GetRepeatedSet() {
		if step.GetReceivedNs()-m.lastSet < int64(setEvery) {
			return
		}
		m.lastSet = step.GetReceivedNs()
	}
	base := event{
		Received: stamp(step.GetReceivedNs()), Collector: w.collector, Exporter: exporter, Host: host, Stream: stream, Addr: netip.IPv6Unspecified(),
		Evidence: flow.EvidenceNames[flow.EvidenceNone], Verified: stamp(m.verified), Clock: stamp(m.clock), Marked: stamp(m.received),
	}
	if step.GetHello() {
		e := base
		e.Event, e.Clock = eventHello, stamp(step.GetClockNs())
		w.add(e)
	}
	claim, end := eventClaim, eventWholeSet
	if step.GetRepeatedSet() {
		claim, end = eventRepeatedClaim, eventRepeatedSet
	}
	for _, c := range step.GetOwnership().GetClaims() {
		e := base
		e.Event, e.Network, e.Addr, e.PortFrom, e.PortTo, e.At = claim, c.GetNetwork(), addrOf(c.GetAddr()), c.GetPortFrom(), c.GetPortTo(), stamp(c.GetFromNs())
		e.Workload, e.Instance, e.Derived, e.Zone, e.Region, e.Release =
			c.GetWorkload(), c.GetInstance(), c.GetInstanceDerived(), c.GetZone(), c.GetRegion(), c.GetRelease()
		e.Evidence = flow.EvidenceNames[flow.EvidenceClaim]
		if c.GetEvidence() == flowv1.Evidence_EVIDENCE_ASSIGNMENT {
			e.Evidence = flow.EvidenceNames[flow.EvidenceAssignment]
		}
		m.claimed = m.claimed || !step.GetRepeatedSet()
		w.add(e)
	}
	for _, r := range step.GetOwnership().GetReleases() {
		if len(r.GetAddr()) != 16 || r.GetPortFrom() > 65535 || r.GetPortTo() > 65535 || len(r.GetNetwork()) > flow.MaxStringBytes {
			continue // it was refused
		}
		e := base
		e.Event, e.Network, e.Addr, e.PortFrom, e.PortTo, e.At = eventRelease, r.GetNetwork(), addrOf(r.GetAddr()), r.GetPortFrom(), r.GetPortTo(), stamp(r.GetAtNs())
		if r.GetReason() == flowv1.ReleaseReason_RELEASE_REASON_SHARED {
			e.Event = eventShared
		}
		w.add(e)
	}
	if step.GetOwnership().GetFull() {
		e := base
		e.Event = end
		w.add(e)
	}
}

func addrOf(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// add queues an event. The caller holds the lock.
func (w *Writer) add(e event) {
	w.seq++
	e.Seq = w.seq
	if len(w.waiting) >= maxWaiting {
		n := maxWaiting / 10
		w.waiting = append(w.waiting[:0], w.waiting[n:]...)
		w.dropped.Add(float64(n))
	}
	w.waiting = append(w.waiting, e)
}

func (w *Writer) markOf(exporter, host string, stream int64) *mark {
	m := w.marks[exporter]
	if m == nil {
		m = &mark{lastSet: time.Now().UnixNano()}
		w.marks[exporter] = m
	}
	m.host, m.stream, m.heard = host, stream, time.Now()
	return m
}

// Mark implements session.Publisher.
func (w *Writer) Mark(x *flowv1.ExporterWatermark) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.markOf(x.GetExporterId(), x.GetHost(), x.GetStream())
	m.verified, m.clock, m.received, m.written = x.GetVerifiedToNs(), x.GetClockNs(), x.GetReceivedNs(), false
	m.due, m.claimed = m.due || m.claimed, false
}

// takeMarks queues the latest watermarks that were not written yet: all, or those that are the first after a claim, so that evidence that came late is whole
// within seconds. It forgets exporters that have been silent for long. The caller holds the lock.
func (w *Writer) takeMarks(now time.Time, all bool) {
	for id, m := range w.marks {
		switch {
		case now.Sub(m.heard) > 2*setEvery:
			delete(w.marks, id) // its last watermark was written an hour ago at least
		case !m.written && m.received != 0 && (all || m.due):
			m.written, m.due = true, false
			w.add(event{
				Received: stamp(m.received), Collector: w.collector, Exporter: id, Host: m.host, Stream: m.stream, Event: eventWatermark,
				Addr: netip.IPv6Unspecified(), Evidence: flow.EvidenceNames[flow.EvidenceNone], Verified: stamp(m.verified), Clock: stamp(m.clock), Marked: stamp(m.received),
			})
		}
	}
}

// Run writes until ctx ends, and then what still waits, if the store takes it within a second.
func (w *Writer) Run(ctx context.Context) {
	defer w.store.Close()
	schema.WriteEvery(ctx, writeEvery, func(ctx context.Context, last bool) { w.Write(ctx, time.Now(), last) })
}

// Write writes what waits; marks asks for the watermarks too, before their minute is over.
func (w *Writer) Write(ctx context.Context, now time.Time, marks bool) {
	w.mu.Lock()
	all := marks || now.Sub(w.marked) >= markEvery
	if all {
		w.marked = now
	}
	w.takeMarks(now, all)
	taken := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	for len(taken) > 0 {
		n := min(len(taken), blockEvents)
		if err := w.insert(ctx, taken[:n]); err != nil {
			w.errors.Inc()
			w.log.Error("what exporters claim is not written to the store; trying again", "reason", err)
			w.mu.Lock()
			w.waiting = append(taken, w.waiting...)
			if over := len(w.waiting) - maxWaiting; over > 0 {
				w.waiting = w.waiting[over:]
				w.dropped.Add(float64(over))
			}
			w.mu.Unlock()
			return
		}
		w.written.Add(float64(n))
		taken = taken[n:]
	}
}

// insert writes events. A repeat replaces itself.
func (w *Writer) insert(ctx context.Context, events []event) error {
	for i := range events {
		events[i].Addr = netip.AddrFrom16(events[i].Addr.As16())
	}
	return schema.Insert(ctx, w.store, "ownership", slices.Values(events))
}
