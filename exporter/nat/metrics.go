package nat

import "github.com/prometheus/client_golang/prometheus"

// outcome of looking for one end.
type outcome int

const (
	translated  outcome = iota
	plain               // conntrack says that it is not translated, or does not know it
	skipped             // there was no time to ask
	failed              // a namespace could not be asked
	unavailable         // nothing can be asked here
	outcomes
)

var outcomeNames = [outcomes]string{"translated", "plain", "skipped", "failed", "unavailable"}

var (
	descLookups = prometheus.NewDesc("tributary_exporter_nat_lookups_total",
		"Connection ends looked up in connection tracking, by what came of it; those of destinations that were not translated a moment ago are not looked up.", []string{"result"}, nil)
	descDegraded = prometheus.NewDesc("tributary_exporter_nat_degraded",
		"1 where connection tracking cannot be asked, so that virtual addresses stay what they are.", nil, nil)
	descSockets = prometheus.NewDesc("tributary_exporter_nat_namespaces", "Network namespaces whose connection tracking is being asked.", nil, nil)
)

// Stats are the counters that travel with batches.
type Stats struct{ Translated, Skipped, Failed, Unavailable uint64 }

// Stats returns the counters.
func (t *Table) Stats() Stats {
	return Stats{t.counts[translated].Load(), t.counts[skipped].Load(), t.counts[failed].Load(), t.counts[unavailable].Load()}
}

// Describe implements prometheus.Collector.
func (t *Table) Describe(out chan<- *prometheus.Desc) {
	out <- descLookups
	out <- descDegraded
	out <- descSockets
}

// Collect implements prometheus.Collector.
func (t *Table) Collect(out chan<- prometheus.Metric) {
	for i := range t.counts {
		out <- prometheus.MustNewConstMetric(descLookups, prometheus.CounterValue, float64(t.counts[i].Load()), outcomeNames[i])
	}
	t.mu.Lock()
	sockets, degraded := t.sockets.Len(), 0.0
	if t.degraded != nil {
		degraded = 1
	}
	t.mu.Unlock()
	out <- prometheus.MustNewConstMetric(descDegraded, prometheus.GaugeValue, degraded)
	out <- prometheus.MustNewConstMetric(descSockets, prometheus.GaugeValue, float64(sockets))
}
