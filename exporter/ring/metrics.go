package ring

import "github.com/prometheus/client_golang/prometheus"

// RegisterMetrics makes r's books visible as tributary_exporter_ring_….
func RegisterMetrics(reg prometheus.Registerer, r *Reader) error {
	return reg.Register(&metrics{
		reader:  r,
		records: desc("records_total", "Records taken from the kernel, by what they came from.", "source"),
		events:  desc("events_total", "The same records by what the handler made of them.", "result"),
		walks:   desc("walks_total", "Passes over the open sockets.", "result"),
	})
}

type metrics struct {
	reader                 *Reader
	records, events, walks *prometheus.Desc
}

func desc(name, help, label string) *prometheus.Desc {
	return prometheus.NewDesc("tributary_exporter_ring_"+name, help, []string{label}, nil)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.records
	ch <- m.events
	ch <- m.walks
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, label string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label)
	}
	s := m.reader.Stats()
	counter(m.records, s.Read, "ring")
	counter(m.records, s.Walked, "walk")
	counter(m.events, s.Read+s.Walked-s.Invalid, "decoded")
	counter(m.events, s.Invalid, "invalid")
	counter(m.walks, s.Walks, "complete")
	counter(m.walks, s.WalkErrors, "broken")
}
