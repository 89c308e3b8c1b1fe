package hold

import (
	"github.com/prometheus/client_golang/prometheus"

	"tributary/proto/flow"
)

// Why rows became late.
const (
	lateFull     = "full"     // over the bound in bytes
	lateExpired  = "expired"  // no evidence within PendingFor
	lateShutdown = "shutdown" // the collector stopped
)

// metrics balance twice: taken = left + rows, and pending taken = pending left + pending rows.
type metrics struct {
	taken       prometheus.Counter
	left        *prometheus.CounterVec
	rows, bytes prometheus.Gauge
	late        *prometheus.CounterVec
	wait        prometheus.Histogram

	pendingTaken              prometheus.Counter
	pendingLeft               *prometheus.CounterVec
	pendingRows, pendingBytes prometheus.Gauge

	whys []prometheus.Counter // left, by why's number
}

func newMetrics(reg prometheus.Registerer, maxBytes int) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_hold_" + name, Help: help})
	}
	vec := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tributary_collector_hold_" + name, Help: help}, []string{label})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "tributary_collector_hold_" + name, Help: help})
	}
	limit := gauge("max_bytes", "How large the memory of the batches that wait may be.")
	limit.Set(float64(maxBytes))
	m := &metrics{
		taken: counter("taken_rows_total", "Rows that came in. It equals left_rows_total plus rows."),
		left:  vec("left_rows_total", "Rows that went on, by why the remote end has no name (named: it has one).", "why"),
		rows:  gauge("rows", "Rows that wait for evidence or for the sinks to take them."),
		bytes: gauge("bytes", "Memory of the batches that wait for evidence."),
		late:  vec("late_rows_total", "Rows that nobody waits for any more, by what ended the waiting.", "reason"),
		wait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "tributary_collector_hold_wait_seconds", Help: "How long batches with open rows waited.",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5},
		}),
		pendingTaken: counter("pending_taken_rows_total", "Rows that went on as pending. It equals pending_left_rows_total plus pending_rows."),
		pendingLeft:  vec("pending_left_rows_total", "Pending rows that went out again, by result.", "result"),
		pendingRows:  gauge("pending_rows", "Pending rows that are kept to be named later."),
		pendingBytes: gauge("pending_bytes", "Memory of the rows that are kept."),
	}
	for _, name := range flow.WhyNames {
		m.whys = append(m.whys, m.left.WithLabelValues(name))
	}
	for _, reason := range []string{lateFull, lateExpired, lateShutdown} {
		m.late.WithLabelValues(reason)
	}
	for _, result := range []string{"named", "unnamed", "late"} {
		m.pendingLeft.WithLabelValues(result)
	}
	for _, c := range []prometheus.Collector{
		limit, m.taken, m.left, m.rows, m.bytes, m.late, m.wait, m.pendingTaken, m.pendingLeft, m.pendingRows,
		m.pendingBytes,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// count books a batch that leaves for the first time.
func (m *metrics) count(b *flow.Batch) {
	var n [16]int
	for _, why := range b.U32[flow.RemoteWhy] {
		n[why&15]++
	}
	for why, c := range m.whys {
		if n[why] > 0 {
			c.Add(float64(n[why]))
		}
	}
	m.rows.Sub(float64(b.Rows))
}
