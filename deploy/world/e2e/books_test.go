package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tributary/deploy/world"
)

// sample is one program's metrics at one moment, by name with labels.
type sample world.Metrics

// sum adds up all samples of a metric, whatever their labels.
func (s sample) sum(name string) float64 { return world.Metrics(s).Sum(name) }

// account is one equation of the books: in = the sum of out.
type account struct {
	in  string
	out []string
}

var exporterBooks = []account{
	{"tributary_exporter_probe_ends_total", []string{
		"tributary_exporter_probe_submitted_total", `tributary_exporter_probe_lost_total{reason="ring_full"}`, "tributary_exporter_probe_ends_late_total",
	}},
	{"tributary_exporter_probe_submitted_total", []string{`tributary_exporter_ring_records_total{source="ring"}`, "tributary_exporter_ring_discarded_total"}},
	{"tributary_exporter_ring_records_total", []string{"tributary_exporter_event_decoded_total", "tributary_exporter_ring_invalid_total"}},
	{"tributary_exporter_event_decoded_total", []string{"tributary_exporter_filter_records_total"}},
	{`tributary_exporter_filter_records_total{verdict="kept"}`, []string{
		"tributary_exporter_batch_sealed_rows_total", "tributary_exporter_batch_open_rows", "tributary_exporter_batch_refused_rows_total",
	}},
	{"tributary_exporter_batch_sealed_rows_total", []string{
		`tributary_exporter_spool_taken_rows_total{source="sealed"}`, "tributary_exporter_transport_delivered_unconfirmed_rows_total",
	}},
	{"tributary_exporter_transport_delivered_unconfirmed_rows_total", []string{
		"tributary_exporter_transport_datagram_rows_total", "tributary_exporter_transport_unconfirmed_rows",
	}},
	{"tributary_exporter_spool_taken_rows_total", []string{
		"tributary_exporter_spool_acked_rows_total", "tributary_exporter_spool_rejected_rows_total",
		"tributary_exporter_spool_dropped_rows_total", "tributary_exporter_spool_pending_rows",
	}},
}

var collectorBooks = []account{
	{`tributary_collector_ingest_rows_total{result="accepted"}`, []string{"tributary_collector_ingest_acked_rows_total", "tributary_collector_ingest_pending_rows"}},
	{"tributary_collector_hold_taken_rows_total", []string{"tributary_collector_hold_left_rows_total", "tributary_collector_hold_rows"}},
	{"tributary_collector_hold_pending_taken_rows_total", []string{"tributary_collector_hold_pending_left_rows_total", "tributary_collector_hold_pending_rows"}},
	{"tributary_collector_clickhouse_received_rows_total", []string{
		"tributary_collector_clickhouse_written_rows_total", "tributary_collector_clickhouse_pending_rows", "tributary_collector_clickhouse_dropped_rows_total",
	}},
}

// noLoss are the drops that no test of this package may cause.
var noLoss = []string{
	"tributary_exporter_probe_lost_total", "tributary_exporter_ring_invalid_total", "tributary_exporter_batch_refused_rows_total",
	"tributary_exporter_spool_rejected_rows_total", "tributary_exporter_spool_dropped_rows_total", "tributary_exporter_spool_damaged_parts_total",
	"tributary_collector_clickhouse_dropped_rows_total", `tributary_collector_ingest_rows_total{result="rejected"}`,
	`tributary_collector_ingest_rows_total{result="unstorable"}`, `tributary_collector_ingest_rows_total{result="no_room"}`,
	"tributary_collector_ingest_datagram_rows_never_came_total",
}

// unbalanced lists the accounts that do not add up. A metric that is not there is an account that does not add up.
func (s sample) unbalanced(books []account) (wrong []string) {
	for _, a := range books {
		total := 0.0
		for _, name := range append([]string{a.in}, a.out...) {
			if !s.has(name) {
				wrong = append(wrong, "no metric "+name)
			}
		}
		for _, name := range a.out {
			total += s.sum(name)
		}
		if in := s.sum(a.in); in != total {
			wrong = append(wrong, fmt.Sprintf("%s is %v, %s together %v", a.in, in, strings.Join(a.out, " + "), total))
		}
	}
	return wrong
}

func (s sample) has(name string) bool {
	for key := range maps.Keys(s) {
		if key == name || strings.HasPrefix(key, name+"{") {
			return true
		}
	}
	return false
}

func (r *rig) sample(address string) sample {
	r.t.Helper()
	return metrics(r.t, address)
}

// checkBooks wants every account of both programs to add up, nothing lost, and as many rows of this exporter in the store as
// left the kernel. A host is never quite silent and a scrape is not one instant, so it looks until a quiet moment comes.
func (r *rig) checkBooks() {
	r.t.Helper()
	deadline := time.Now().Add(soon)
	var wrong []string
	for {
		if wrong = r.audit(); len(wrong) == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Errorf("the books do not balance:\n%s", strings.Join(wrong, "\n"))
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// losses are the drops of both programs, by reason, and the ends that were recorded late.
func (r *rig) losses() []string {
	r.t.Helper()
	all := r.sample(r.exporterMetrics)
	maps.Copy(all, r.sample(r.collectorMetrics))
	var lost []string
	for _, name := range append([]string{"tributary_exporter_probe_ends_late_total"}, noLoss...) {
		lost = append(lost, all.nonzero(name)...)
	}
	return lost
}

// nonzero lists the metric's series that are not 0.
func (s sample) nonzero(name string) (series []string) {
	for key, n := range s {
		if n != 0 && (key == name || strings.HasPrefix(key, name+"{")) {
			series = append(series, fmt.Sprintf("%s %v", key, n))
		}
	}
	return series
}

func (r *rig) audit() []string {
	r.t.Helper()
	before := r.sample(r.exporterMetrics)
	stored := r.number(`SELECT count() FROM flows`)
	after := r.sample(r.exporterMetrics)
	collector := r.sample(r.collectorMetrics)
	wrong := slices.Concat(after.unbalanced(exporterBooks), collector.unbalanced(collectorBooks))
	all := maps.Clone(after)
	maps.Copy(all, collector)
	for _, name := range noLoss {
		if n := all.sum(name); n != 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %v: %v", name, n, all.nonzero(name)))
		}
	}
	const decoded = `tributary_exporter_filter_records_total{verdict="kept"}`
	if before.sum(decoded) != float64(stored) || after.sum(decoded) != float64(stored) {
		wrong = append(wrong, fmt.Sprintf("%v to %v records out of the kernel, %d rows in flows", before.sum(decoded), after.sum(decoded), stored))
	}
	return wrong
}
