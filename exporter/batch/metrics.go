package batch

import "github.com/prometheus/client_golang/prometheus"

// metrics is the room's book: rows added = sealed + open; rows offered = added + refused.
type metrics struct {
	refused      prometheus.Counter
	open         prometheus.Gauge
	rows         prometheus.Counter
	batches      map[Reason]prometheus.Counter
	columnsBytes prometheus.Counter
	payloadBytes prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	const prefix = "tributary_exporter_batch_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	batches := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "sealed_batches_total", Help: "Batches sealed, by what sealed them.",
	}, []string{"reason"})
	m := &metrics{
		refused:      counter("refused_rows_total", "Rows left out because their times are not between 2020 and 2100: the host's clock is wrong."),
		open:         prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "open_rows", Help: "Rows that wait for their batch to be sealed."}),
		rows:         counter("sealed_rows_total", "Rows in sealed batches."),
		columnsBytes: counter("columns_bytes_total", "Bytes of sealed batches before compression."),
		payloadBytes: counter("payload_bytes_total", "Bytes of sealed batches as they travel."),
		batches:      make(map[Reason]prometheus.Counter),
	}
	for _, reason := range []Reason{Full, Age, Shutdown} {
		m.batches[reason] = batches.WithLabelValues(string(reason))
	}
	registerer.MustRegister(m.refused, m.open, m.rows, batches, m.columnsBytes, m.payloadBytes)
	return m
}

func (m *metrics) sealed(reason Reason, rows, columns, payload int) {
	m.batches[reason].Inc()
	m.rows.Add(float64(rows))
	m.open.Set(0)
	m.columnsBytes.Add(float64(columns))
	m.payloadBytes.Add(float64(payload))
}
