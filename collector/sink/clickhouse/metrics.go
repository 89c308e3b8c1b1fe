package clickhouse

import "github.com/prometheus/client_golang/prometheus"

// metrics is the room's book: received = written + dropped + pending. A retry is no outcome and stays out of it.
type metrics struct {
	received, written prometheus.Counter
	dropped           map[string]prometheus.Counter
	pendingRows       prometheus.Gauge
	pendingBytes      prometheus.Gauge
	inserts           prometheus.Counter
	retries           map[string]prometheus.Counter
	bytes             prometheus.Counter
	duration          prometheus.Histogram
	blockRows         prometheus.Histogram
	failing           prometheus.Gauge
}

// reasons of dropped rows and of retries
const (
	droppedClosed = "closed" // the sink was closed before an answer: exporters send the rows again
	droppedEncode = "encode" // a block that could not be encoded: a fault of this program

	retryTransient = "transient" // no answer, or an error that passes
	retryRepair    = "repair"    // an error that somebody must repair
	retryShort     = "short"     // the server stored fewer rows than it was sent
)

func newMetrics(registerer prometheus.Registerer) *metrics {
	const prefix = "tributary_collector_clickhouse_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
	}
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "dropped_rows_total", Help: "Rows given back unwritten, by reason.",
	}, []string{"reason"})
	retries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "retries_total", Help: "Inserts sent again, by what was wrong with the try before.",
	}, []string{"reason"})
	m := &metrics{
		received:     counter("received_rows_total", "Rows taken over from the sink's caller."),
		written:      counter("written_rows_total", "Rows in successful inserts."),
		pendingRows:  gauge("pending_rows", "Rows in open blocks and in inserts without an answer."),
		pendingBytes: gauge("pending_bytes", "Bytes of the columns of those rows."),
		inserts:      counter("inserts_total", "Successful inserts: one block each."),
		bytes:        counter("inserted_bytes_total", "Bytes of the bodies of successful inserts, as sent."),
		failing:      gauge("failing", "1 while inserts fail, else 0."),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "insert_duration_seconds", Help: "Time from sending an insert to its answer, of tries with an answer.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 16),
		}),
		blockRows: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "insert_rows", Help: "Rows of successful inserts.", Buckets: prometheus.ExponentialBuckets(10, 4, 9),
		}),
		dropped: map[string]prometheus.Counter{},
		retries: map[string]prometheus.Counter{},
	}
	for _, reason := range []string{droppedClosed, droppedEncode} {
		m.dropped[reason] = dropped.WithLabelValues(reason)
	}
	for _, reason := range []string{retryTransient, retryRepair, retryShort} {
		m.retries[reason] = retries.WithLabelValues(reason)
	}
	registerer.MustRegister(m.received, m.written, dropped, m.pendingRows, m.pendingBytes, m.inserts, retries, m.bytes, m.duration,
		m.blockRows, m.failing)
	return m
}
