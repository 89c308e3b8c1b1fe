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

var (
	descWatched = prometheus.NewDesc("tributary_exporter_nat_watched_addresses",
		"Claimed addresses of which the kernel tells at once when they begin to stand for connections of others.", nil, nil)
	descUnheard = prometheus.NewDesc("tributary_exporter_nat_unheard_namespaces",
		"Network namespaces with claims whose rules can translate, but of whose connections the kernel does not tell: they are listed every few seconds.", nil, nil)
	descMissed = prometheus.NewDesc("tributary_exporter_nat_missed_events_total",
		"Times that the kernel's news of translated connections were lost, and all listed before anything more was verified.", nil, nil)
	descPassed = prometheus.NewDesc("tributary_exporter_nat_skipped_looks_total",
		"Times that there was no time to look whether a network namespace's rules translate, or too many namespaces to know them all.", nil, nil)
)

// Stats are the counters that travel with batches.
type Stats struct{ Translated, Skipped, Failed, Unavailable, MissedEvents, SkippedLooks uint64 }

// Add returns counters with those of s in them.
func (s *Sharing) Add(to Stats) Stats {
	to.MissedEvents, to.SkippedLooks = s.missed.Load(), s.skipped.Load()
	return to
}

// Describe implements prometheus.Collector.
func (s *Sharing) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descWatched, descUnheard, descMissed, descPassed} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Sharing) Collect(out chan<- prometheus.Metric) {
	s.mu.Lock()
	watched, unheard := len(s.watched), 0
	for _, sp := range s.spaces {
		if sp.translates && len(sp.whole) > 0 && !sp.complete {
			unheard++
		}
	}
	s.mu.Unlock()
	out <- prometheus.MustNewConstMetric(descWatched, prometheus.GaugeValue, float64(watched))
	out <- prometheus.MustNewConstMetric(descUnheard, prometheus.GaugeValue, float64(unheard))
	stats := s.Add(Stats{})
	out <- prometheus.MustNewConstMetric(descMissed, prometheus.CounterValue, float64(stats.MissedEvents))
	out <- prometheus.MustNewConstMetric(descPassed, prometheus.CounterValue, float64(stats.SkippedLooks))
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	return Stats{
		Translated: t.counts[translated].Load(), Skipped: t.counts[skipped].Load(), Failed: t.counts[failed].Load(), Unavailable: t.counts[unavailable].Load(),
	}
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
