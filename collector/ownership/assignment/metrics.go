package assignment

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
)

// The kinds of sources.
const (
	File  = "file"
	API   = "api"
	Kafka = "kafka"
)

// Metrics are those of all sources.
type Metrics struct {
	entries *prometheus.GaugeVec
	loads   *prometheus.CounterVec
	refusal *prometheus.CounterVec
}

// NewMetrics registers them.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	const prefix = "tributary_collector_assignment_"
	m := &Metrics{
		entries: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "addresses", Help: "Addresses that are assigned, future and past ones included."}, []string{"source"}),
		loads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "loads_total", Help: "New versions of a feed, by what became of them; after an error the last good one stays.",
		}, []string{"source", "result"}),
		refusal: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "refused_total", Help: "Assigned addresses that were left out."}, []string{"source", "reason"}),
	}
	reasons := []string{"conflict", session.NotAllowed}
	for _, r := range ownership.Reasons() {
		reasons = append(reasons, r.String())
	}
	for _, kind := range []string{File, API, Kafka} {
		m.entries.WithLabelValues(kind)
		m.loads.WithLabelValues(kind, "ok")
		m.loads.WithLabelValues(kind, "error")
		for _, r := range reasons {
			m.refusal.WithLabelValues(kind, r)
		}
	}
	for _, c := range []prometheus.Collector{m.entries, m.loads, m.refusal} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of assignment: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) refused(kind, reason string, n int) {
	m.refusal.WithLabelValues(kind, reason).Add(float64(n))
}
