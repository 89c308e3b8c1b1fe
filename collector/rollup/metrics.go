package rollup

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	periods *prometheus.CounterVec
	seconds *prometheus.CounterVec
	errors  prometheus.Counter
	tooLate prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		periods: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tributary_collector_rollup_computed_total", Help: "Minutes and hours of edges computed here, the first time and again after late records.",
		}, []string{"step", "again"}),
		seconds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tributary_collector_rollup_computing_seconds_total", Help: "Time spent in the store's answers to that.",
		}, []string{"step"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tributary_collector_rollup_errors_total", Help: "Passes that ended with an error; they are tried again.",
		}),
		tooLate: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tributary_collector_rollup_too_late_rows", Help: "Records, while the store remembers, that came when their minute was frozen: they are in no edge.",
		}),
	}
	for _, step := range []string{"minute", "hour"} {
		m.seconds.WithLabelValues(step)
		m.periods.WithLabelValues(step, "yes")
		m.periods.WithLabelValues(step, "no")
	}
	reg.MustRegister(m.periods, m.seconds, m.errors, m.tooLate)
	return m
}

func (m *metrics) computed(step string, again bool, took time.Duration) {
	label := "no"
	if again {
		label = "yes"
	}
	m.periods.WithLabelValues(step, label).Inc()
	m.seconds.WithLabelValues(step).Add(took.Seconds())
}
