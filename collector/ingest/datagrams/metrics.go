package datagrams

import "github.com/prometheus/client_golang/prometheus"

// Result says what became of a datagram.
type Result uint8

// The results.
const (
	Accepted   Result = iota // handed on
	Empty                    // opened, without rows: the exporter asks whether datagrams arrive
	Truncated                // shorter than a datagram can be
	Oversized                // longer than datagram.MaxBytes
	BadVersion               // no datagram of ours, or of another version
	UnknownKey               // of no key that this collector has handed out, or of one that is out of use
	Forged                   // not sealed with its key
	Replayed                 // came before
	TooOld                   // windowSize datagrams of its exporter or more have overtaken it
	Late                     // its epoch is settled: it counts as never come
	Ahead                    // of an epoch far in the future: the exporter made a mistake
	results
)

var resultNames = [results]string{
	"accepted", "empty", "truncated", "oversized", "bad_version", "unknown_key", "forged", "replayed", "too_old", "late", "ahead",
}

// String returns the result's label.
func (r Result) String() string { return resultNames[r] }

type metrics struct {
	datagrams      [results]prometheus.Counter
	neverDatagrams prometheus.Counter
	neverRows      prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_ingest_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	by := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tributary_collector_ingest_datagrams_total", Help: "Datagrams that came, by what became of them.",
	}, []string{"result"})
	reg.MustRegister(by)
	m := &metrics{
		neverDatagrams: counter("datagrams_never_came_total", "Datagrams that exporters say they sent and that did not come, or too late."),
		neverRows:      counter("datagram_rows_never_came_total", "Rows of these."),
	}
	for r := range results {
		m.datagrams[r] = by.WithLabelValues(r.String())
	}
	return m
}
