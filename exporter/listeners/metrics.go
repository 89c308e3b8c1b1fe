package listeners

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	descOpen    = prometheus.NewDesc("tributary_exporter_listeners_open", "Addresses and ports that are listened on.", nil, nil)
	descChanges = prometheus.NewDesc("tributary_exporter_listeners_changes_total", "Listeners told: begun, changed, ended, or the same after a while.", nil, nil)
	descErrors  = prometheus.NewDesc("tributary_exporter_listeners_errors_total", "Readings of the kernel's tables that failed; the next one makes up for it.", nil, nil)
	descBehind  = prometheus.NewDesc("tributary_exporter_listeners_behind_total", "Subscribers that were cut off because they were too slow.", nil, nil)
)

// metrics implements prometheus.Collector.
type metrics struct {
	set                     *Set
	changes, errors, behind atomic.Uint64
}

func newMetrics(s *Set) *metrics { return &metrics{set: s} }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, out) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	m.set.mu.Lock()
	open := len(m.set.open)
	m.set.mu.Unlock()
	out <- prometheus.MustNewConstMetric(descOpen, prometheus.GaugeValue, float64(open))
	out <- prometheus.MustNewConstMetric(descChanges, prometheus.CounterValue, float64(m.changes.Load()))
	out <- prometheus.MustNewConstMetric(descErrors, prometheus.CounterValue, float64(m.errors.Load()))
	out <- prometheus.MustNewConstMetric(descBehind, prometheus.CounterValue, float64(m.behind.Load()))
}
