package feed

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership/session"
)

// What became of a message that was read: the closed set of the label result.
const (
	resultApplied   = "applied"
	resultStale     = "stale"     // of an older stream than the exporter's newest, at least in part
	resultRefused   = "refused"   // by the table, at least in part
	resultOwn       = "own"       // written by this node
	resultSchema    = "schema"    // of another version
	resultMalformed = "malformed" // not a message of this topic
	resultDeleted   = "deleted"   // deleted by its age before it was read: a gap, not a message
)

var resultNames = [...]string{session.Applied: resultApplied, session.Stale: resultStale, session.Refused: resultRefused}

type metrics struct {
	written, writtenBytes, retries, given prometheus.Counter
	read                                  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, f *Feed) (*metrics, error) {
	const prefix = "tributary_collector_ownership_feed_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	m := &metrics{
		written:      counter("written_messages_total", "Messages for the other nodes that Kafka has."),
		writtenBytes: counter("written_bytes_total", "Their bytes before compression."),
		retries:      counter("write_retries_total", "Requests to write that failed and were tried again."),
		given:        counter("given_up_steps_total", "Changes that found no room while Kafka was away; the exporter's whole set follows."),
		read:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "read_messages_total", Help: "Messages read, by what became of them."}, []string{"result"}),
	}
	for _, r := range []string{resultApplied, resultStale, resultRefused, resultOwn, resultSchema, resultMalformed, resultDeleted} {
		m.read.WithLabelValues(r)
	}
	gauge := func(name, help string, read func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, read)
	}
	for _, c := range []prometheus.Collector{
		m.written, m.writtenBytes, m.retries, m.given, m.read,
		gauge("lag_seconds", "How old the news of the other nodes are; look-ups later than that wait. 0 before the topic was found.", func() float64 {
			if !f.located.Load() {
				return 0
			}
			if upTo := f.complete(); upTo > 0 {
				return time.Since(time.Unix(0, upTo)).Seconds()
			}
			return 0
		}),
		gauge("unready", "1 until what the other nodes said before the start has been read, and while Kafka does not answer.", func() float64 {
			if f.Ready() != nil {
				return 1
			}
			return 0
		}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
