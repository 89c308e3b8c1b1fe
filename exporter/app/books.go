package app

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/budget"
	"tributary/exporter/event"
	"tributary/exporter/filter"
	"tributary/exporter/nat"
	"tributary/exporter/probe"
	"tributary/exporter/ring"
	"tributary/exporter/transport"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// reading is the state of all books that have no metrics of their own.
type reading struct {
	probe   probe.Counters
	ring    ring.Stats
	refused uint64
	p       *pipeline
	spool   spool.Stats
	udp     transport.DatagramStats
	nat     nat.Stats
	budget  budget.Stats
	gap     gap
}

// books shows the counters of capture on /metrics, and tells the collector what was lost. A book whose reading fails shows its
// last one.
type books struct {
	source func() capturer
	p      *pipeline
	spool  func() spool.Stats

	datagrams func() transport.DatagramStats
	nat       func() nat.Stats
	budget    func() budget.Stats
	began     atomic.Int64 // capture, ns since 1970
	entries   []entry

	mu   sync.Mutex
	last probe.Counters
}

func (b *books) read() *reading {
	r := &reading{ring: b.source().Stats(), refused: b.p.batcher.Refused(), p: b.p, spool: b.spool(), udp: b.datagrams(), nat: b.nat(), budget: b.budget()}
	r.gap = gapAfter(r.spool.Before, b.began.Load())
	b.mu.Lock()
	defer b.mu.Unlock()
	if c, err := b.source().Counters(); err == nil {
		b.last = c
	}
	r.probe = b.last
	return r
}

// gap is the time before this run in which connections went unseen: from the end of the run before to the beginning of capture. If
// that run was killed, what it had seen and not sealed is lost too. All 0: there was none, or it left no word in the spool.
type gap struct{ from, to, killed uint64 }

// gapAfter returns the gap behind a run.
func gapAfter(before spool.Before, began int64) gap {
	if before.Run == "" || began == 0 {
		return gap{}
	}
	g := gap{to: uint64(began)}
	if !before.InOrder {
		g.killed = 1
	}
	g.from = uint64(min(max(0, before.Kept.UnixNano()), began)) // a clock may have been set back
	return g
}

// entry is one cumulative counter. wire is its name in batch headers, "" for one that does not travel.
type entry struct {
	wire  string
	desc  *prometheus.Desc
	label string // the value of the one label, if there is one
	value func(*reading) uint64
}

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tributary_exporter_"+name, help, labels, nil)
}

var (
	descEnds       = metric("probe_ends_total", "Ends of connections, closed or failed, in scope: submitted + late + lost to a full ring.")
	descSubmitted  = metric("probe_submitted_total", "Ends of connections written to the ring.")
	descLost       = metric("probe_lost_total", "What the kernel side lost: records by ring_full; ends never shown by ends_missed and recursion; starts by map_full and map_nomem; listeners' owners by listeners_full.", "reason")
	descUnobserved = metric("probe_ends_unobserved_total", "Ends of connections whose start was not seen.")
	descLate       = metric("probe_ends_late_total", "Of the ends, those that no program was shown and the walk of open sockets recorded.")
	descUnsent     = metric("probe_ends_unsent_total", "Of the ends, attempts that failed before their SYN.")
	descStillborn  = metric("probe_stillborn_total", "Sockets that the kernel made for a handshake and dropped before any program could see them. They are no connections and have no record.")
	descOpened     = metric("probe_opened_total", "Starts of connections seen and kept.")
	descFound      = metric("probe_found_total", "Of the starts kept, connections older than the exporter, found by the inventory.")
	descNamespaces = metric("probe_inventory_namespaces", "Network namespaces that the inventory met (found), and those of them it could not look into (unread): ends of older connections there have no start.", "state")
	descRemoved    = metric("probe_removed_total", "Kept starts that ended.")
	descActive     = metric("probe_active_total", "Active records made by walks of the open sockets.")
	descRaced      = metric("probe_active_raced_total", "Active records given up because the socket closed meanwhile; the next record has it all.")
	descRead       = metric("ring_records_total", "Records handed over, by source: read from the ring, or made by walks. Sum = decoded + invalid.", "source")
	descInvalid    = metric("ring_invalid_total", "Records that were not understood.")
	descDiscarded  = metric("ring_discarded_total", "Records that the kernel side reserved and gave up.")
	descWalks      = metric("ring_walks_total", "Walks of the open sockets, by result.", "result")
	descDecoded    = metric("event_decoded_total", "Records understood, by kind. What the filter keeps of them is rows sealed + refused + open.", "kind")
	descJudged     = metric("filter_records_total", "Records understood, by what the filter made of them: kept, filtered (by the rules), or sampled_out. Sum = decoded.", "verdict")
	descForgotten  = metric("event_forgotten_total", "Connections forgotten because the record of their end was lost.")
	descTracked    = metric("event_tracked_connections", "Connections with at least one active record that are open.")
)

func entries() []entry {
	decoded := func(k event.Kind) func(*reading) uint64 {
		return func(r *reading) uint64 { return r.p.decoded[k].Load() }
	}
	judged := func(v filter.Verdict) func(*reading) uint64 {
		return func(r *reading) uint64 { return r.p.judged[v].Load() }
	}
	list := []entry{
		{"probe.ends", descEnds, "", func(r *reading) uint64 { return r.probe.Ends }},
		{"probe.submitted", descSubmitted, "", func(r *reading) uint64 { return r.probe.Submitted }},
		{"probe.ring_full", descLost, "ring_full", func(r *reading) uint64 { return r.probe.RingFull }},
		{"probe.ends_missed", descLost, "ends_missed", func(r *reading) uint64 { return r.probe.EndsMissed }},
		{"probe.recursion", descLost, "recursion", func(r *reading) uint64 { return r.probe.Recursion }},
		{"probe.map_full", descLost, "map_full", func(r *reading) uint64 { return r.probe.MapFull }},
		{"probe.map_nomem", descLost, "map_nomem", func(r *reading) uint64 { return r.probe.MapNoMemory }},
		{"probe.listeners_full", descLost, "listeners_full", func(r *reading) uint64 { return r.probe.ListenersFull }},
		{"probe.ends_unobserved", descUnobserved, "", func(r *reading) uint64 { return r.probe.EndsUnobserved }},
		{"", descLate, "", func(r *reading) uint64 { return r.probe.EndsLate }},
		{"", descUnsent, "", func(r *reading) uint64 { return r.probe.EndsUnsent }},
		{"", descStillborn, "", func(r *reading) uint64 { return r.probe.Stillborn }},
		{"", descOpened, "", func(r *reading) uint64 { return r.probe.Opened }},
		{"", descFound, "", func(r *reading) uint64 { return r.probe.Found }},
		{"", descRemoved, "", func(r *reading) uint64 { return r.probe.Removed }},
		{"", descActive, "", func(r *reading) uint64 { return r.probe.Active }},
		{"", descRaced, "", func(r *reading) uint64 { return r.probe.ActiveRaced }},
		{"ring.read", descRead, "ring", func(r *reading) uint64 { return r.ring.Read }},
		{"ring.walked", descRead, "walk", func(r *reading) uint64 { return r.ring.Walked }},
		{"ring.invalid", descInvalid, "", func(r *reading) uint64 { return r.ring.Invalid }},
		{"", descDiscarded, "", func(r *reading) uint64 { return r.ring.Discarded }},
		{"", descWalks, "complete", func(r *reading) uint64 { return r.ring.Walks }},
		{"ring.walk_errors", descWalks, "failed", func(r *reading) uint64 { return r.ring.WalkErrors }},
		{"", descDecoded, "active", decoded(event.KindActive)},
		{"", descDecoded, "closed", decoded(event.KindClosed)},
		{"", descDecoded, "failed", decoded(event.KindFailed)},
		{"filter.kept", descJudged, "kept", judged(filter.Kept)},
		{"filter.filtered", descJudged, "filtered", judged(filter.Filtered)},
		{"filter.sampled_out", descJudged, "sampled_out", judged(filter.SampledOut)},
		{"event.forgotten", descForgotten, "", func(r *reading) uint64 { return r.p.forgotten.Load() }},
		{"batch.refused_rows", nil, "", func(r *reading) uint64 { return r.refused }},
		{"nat.translated", nil, "", func(r *reading) uint64 { return r.nat.Translated }},
		{"nat.skipped", nil, "", func(r *reading) uint64 { return r.nat.Skipped }},
		{"nat.failed", nil, "", func(r *reading) uint64 { return r.nat.Failed }},
		{"nat.unavailable", nil, "", func(r *reading) uint64 { return r.nat.Unavailable }},
		{"nat.missed_events", nil, "", func(r *reading) uint64 { return r.nat.MissedEvents }},
		{"nat.skipped_looks", nil, "", func(r *reading) uint64 { return r.nat.SkippedLooks }},
		{"budget.step", nil, "", func(r *reading) uint64 { return uint64(r.budget.Step) }},
		{"budget.downs", nil, "", func(r *reading) uint64 { return r.budget.Downs }},
		{"budget.ups", nil, "", func(r *reading) uint64 { return r.budget.Ups }},
		{"gap.from_ns", nil, "", func(r *reading) uint64 { return r.gap.from }},
		{"gap.to_ns", nil, "", func(r *reading) uint64 { return r.gap.to }},
		{"gap.killed", nil, "", func(r *reading) uint64 { return r.gap.killed }},
		{"spool.appended_rows", nil, "", func(r *reading) uint64 { return r.spool.Appended.Rows }},
		{"spool.recovered_rows", nil, "", func(r *reading) uint64 { return r.spool.Recovered.Rows + r.spool.Recalled.Rows }},
		{"spool.acked_rows", nil, "", func(r *reading) uint64 { return r.spool.Acked.Rows }},
		{"spool.rejected_rows", nil, "", func(r *reading) uint64 { return r.spool.Rejected.Rows }},
		{"spool.rolled_up_rows", nil, "", func(r *reading) uint64 { return r.spool.RolledUp.Rows }},
		{"spool.rollup_rows", nil, "", func(r *reading) uint64 { return r.spool.Rollups.Rows }},
		{"udp.delivered_unconfirmed_rows", nil, "", func(r *reading) uint64 { return r.udp.SentRows }},
		{"udp.stored_rows", nil, "", func(r *reading) uint64 { return r.udp.StoredRows }},
		{"udp.lost_rows_never_came", nil, "", func(r *reading) uint64 { return r.udp.NeverCameRows }},
		{"udp.lost_rows_dropped", nil, "", func(r *reading) uint64 { return r.udp.DroppedRows }},
	}
	for _, reason := range spool.Reasons() {
		list = append(list, entry{"spool.dropped_rows_" + reason.String(), nil, "", func(r *reading) uint64 { return r.spool.Dropped[reason].Rows }})
	}
	return list
}

// counters returns what travels with each batch.
func (b *books) counters() []*flowv1.Counter {
	r := b.read()
	counters := make([]flowv1.Counter, len(b.entries))
	out := make([]*flowv1.Counter, 0, len(b.entries))
	for i, e := range b.entries {
		if e.wire != "" {
			counters[i].Name, counters[i].Value = e.wire, e.value(r)
			out = append(out, &counters[i])
		}
	}
	return out
}

// Describe implements prometheus.Collector.
func (b *books) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(b, out) }

// Collect implements prometheus.Collector.
func (b *books) Collect(out chan<- prometheus.Metric) {
	r := b.read()
	for _, e := range b.entries {
		if e.desc == nil {
			continue // the room has a metric of its own
		}
		var labels []string
		if e.label != "" {
			labels = []string{e.label}
		}
		out <- prometheus.MustNewConstMetric(e.desc, prometheus.CounterValue, float64(e.value(r)), labels...)
	}
	found, unread := b.source().Inventory()
	out <- prometheus.MustNewConstMetric(descNamespaces, prometheus.GaugeValue, float64(found), "found")
	out <- prometheus.MustNewConstMetric(descNamespaces, prometheus.GaugeValue, float64(unread), "unread")
	out <- prometheus.MustNewConstMetric(descTracked, prometheus.GaugeValue, float64(b.p.tracked.Load()))
}

// sweepAfter returns after how many walks without a record a connection is forgotten.
func sweepAfter(activeEvery, walkEvery time.Duration) uint32 {
	return uint32(4 * activeEvery / walkEvery)
}
