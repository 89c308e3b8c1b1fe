package region

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
)

// metrics balance: asked = answered + failed + what is under way.
type metrics struct {
	asked, failed, failures, full, cached prometheus.Counter
	answered                              *prometheus.CounterVec
	loads                                 *prometheus.CounterVec
	down                                  *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_region_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tributary_collector_region_" + name, Help: help}, []string{label})
	}
	m := &metrics{
		asked:    counter("asked_questions_total", "Questions for other regions. It equals answered_questions_total plus failed_questions_total plus those under way."),
		answered: vec("answered_questions_total", "Questions that were answered, by what the answer was; what is pending is asked again.", "result"),
		failed:   counter("failed_questions_total", "Questions of requests without an answer; they are asked again."),
		failures: counter("failed_requests_total", "Requests without an answer, trials of a region that is down included."),
		full:     counter("full_questions_total", "Questions that found no room among those under way; they come with the next look."),
		cached:   counter("cached_questions_total", "Questions that an answer given before covers."),
		loads:    vec("loads_total", "New versions of the table of regions, by what became of them; after an error the last good one stays.", "result"),
		down: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tributary_collector_region_down", Help: "1 while a region does not answer: rows towards its addresses say peer_region_down.",
		}, []string{"region"}),
	}
	for _, result := range []string{"named", "unnamed", "pending"} {
		m.answered.WithLabelValues(result)
	}
	m.loads.WithLabelValues("ok")
	m.loads.WithLabelValues("error")
	for _, c := range []prometheus.Collector{m.asked, m.answered, m.failed, m.failures, m.full, m.cached, m.loads, m.down} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of region: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) took(a *ownership.Answer) {
	result := "unnamed"
	switch a.Why {
	case ownership.Named:
		result = "named"
	case ownership.Pending:
		result = "pending"
	}
	m.answered.WithLabelValues(result).Inc()
}

func (m *metrics) loaded(err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.loads.WithLabelValues(result).Inc()
}
