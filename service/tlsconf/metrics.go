package tlsconf

import (
	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	resultLoaded = "loaded"
	resultFailed = "failed"
)

// Metrics counts what happens to the certificates of a program. One value serves all its listeners and clients.
type Metrics struct {
	reloads *prometheus.CounterVec
	expiry  *prometheus.GaugeVec
}

// NewMetrics registers <program>_tls_reloads_total{use,result} and <program>_tls_certificate_expiry_timestamp_seconds{use};
// program is tributary_exporter or tributary_collector. result is loaded (changed files are in force) or failed (an
// attempt that left the old ones in force); the expiry is the end of the leaf certificate in force, in Unix time.
func NewMetrics(registerer prometheus.Registerer, program string) *Metrics {
	m := &Metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: program + "_tls_reloads_total", Help: "Changed TLS files that were taken over (loaded) or could not be (failed, counted at each attempt).",
		}, []string{"use", "result"}),
		expiry: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: program + "_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate in force ends, in Unix time.",
		}, []string{"use"}),
	}
	registerer.MustRegister(m.reloads, m.expiry)
	return m
}

func (m *Metrics) prepare(use string) {
	if m == nil {
		return
	}
	m.reloads.WithLabelValues(use, resultLoaded)
	m.reloads.WithLabelValues(use, resultFailed)
}

func (m *Metrics) reloaded(use, result string) {
	if m == nil {
		return
	}
	m.reloads.WithLabelValues(use, result).Inc()
}

func (m *Metrics) expires(use string, config *tls.Config) {
	if m == nil || len(config.Certificates) == 0 || config.Certificates[0].Leaf == nil {
		return
	}
	m.expiry.WithLabelValues(use).Set(float64(config.Certificates[0].Leaf.NotAfter.Unix()))
}
