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

	Kubernetes = "kubernetes"
)

// tooMany is why an address of a feed without a size of its own is left out.
const tooMany = "too_many"

// Metrics are those of all sources.
type Metrics struct {
	entries *prometheus.GaugeVec
	loads   *prometheus.CounterVec
	refusal *prometheus.CounterVec

	apiErrors prometheus.Counter
	apiAlive  prometheus.Gauge
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

		apiErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "api_errors_total", Help: "Questions to the Kubernetes API that failed."}),
		apiAlive:  prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "api_watching", Help: "1 while the Kubernetes API tells of Services, EndpointSlices and pods."}),
	}
	reasons := []string{"conflict", tooMany, session.NotAllowed}
	for _, r := range ownership.Reasons() {
		reasons = append(reasons, r.String())
	}
	for _, kind := range []string{File, API, Kafka, Kubernetes} {
		m.entries.WithLabelValues(kind)
		m.loads.WithLabelValues(kind, "ok")
		m.loads.WithLabelValues(kind, "error")
		for _, r := range reasons {
			m.refusal.WithLabelValues(kind, r)
		}
	}
	for _, c := range []prometheus.Collector{m.entries, m.loads, m.refusal, m.apiErrors, m.apiAlive} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of assignment: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) refused(kind, reason string, n int) {
	m.refusal.WithLabelValues(kind, reason).Add(float64(n))
}
