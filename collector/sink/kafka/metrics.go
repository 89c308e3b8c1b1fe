package kafka

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
)

// Why rows were not written, and why a request was tried again: the closed sets of the reason labels.
const (
	dropTooLarge = "too_large" // larger than max.message.bytes, even alone
	dropRefused  = "refused"   // the topic will never take it (invalid record or timestamp)
	dropEncode   = "encode"    // could not be made a message
	dropStopped  = "stopped"   // pending when the collector stopped: not acknowledged, the exporter still has it

	retryNetwork = "network" // no connection, a broken one, or no answer in time
	retryBroker  = "broker"  // an answer with a Kafka error
)

type metrics struct {
	rowsIn, rowsWritten         prometheus.Counter
	rowsDropped, retries        *prometheus.CounterVec
	messages, bytes             prometheus.Counter
	duration                    prometheus.Histogram
	rowsPending, bytesPending   prometheus.GaugeFunc
	oldestPending, topicProblem prometheus.GaugeFunc
}

func newMetrics(reg prometheus.Registerer, s *Sink) (*metrics, error) {
	const prefix = "tributary_collector_kafka_"
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	reasons := func(name, help string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{"reason"})
		for _, r := range values {
			v.WithLabelValues(r)
		}
		return v
	}
	gauge := func(name, help string, read func(*Sink) float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 { return read(s) })
	}
	m := &metrics{
		rowsIn:      counter("rows_in_total", "Rows handed to the Kafka sink; equals written + dropped + pending."),
		rowsWritten: counter("rows_written_total", "Rows that all in-sync replicas have."),
		rowsDropped: reasons("rows_dropped_total", "Rows that were not written, by reason.", dropTooLarge, dropRefused, dropEncode, dropStopped),
		retries:     reasons("retries_total", "Produce requests that failed and were tried again, by reason.", retryNetwork, retryBroker),
		messages:    counter("messages_written_total", "Kafka messages written."),
		bytes:       counter("bytes_written_total", "Bytes of the values of written messages, before Kafka compression."),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "write_duration_seconds", Help: "Time from the hand-over of a batch to its acknowledgement by Kafka.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}),
		rowsPending:   gauge("rows_pending", "Rows handed over and not finished.", (*Sink).rowsPending),
		bytesPending:  gauge("pending_bytes", "Memory of batches handed over and not finished.", func(s *Sink) float64 { return float64(s.Pending()) }),
		oldestPending: gauge("oldest_pending_seconds", "Age of the oldest batch handed over and not finished; 0 if there is none.", (*Sink).oldestSeconds),
		topicProblem:  gauge("unready", "1 while the topic is not there or the last write failed.", (*Sink).unready),
	}
	for _, c := range []prometheus.Collector{
		m.rowsIn, m.rowsWritten, m.rowsDropped, m.retries, m.messages, m.bytes, m.duration, m.rowsPending, m.bytesPending,
		m.oldestPending, m.topicProblem,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// retryReason sorts an error of a request that will be tried again.
func retryReason(err error) string {
	if code := kafka.Error(0); errors.As(err, &code) {
		return retryBroker
	}
	return retryNetwork
}

// dropReason says why a request will never succeed, or "" if it may.
func dropReason(err error) string {
	switch {
	case errors.Is(err, errTooLarge), errors.Is(err, kafka.MessageSizeTooLarge), errors.Is(err, kafka.RecordListTooLarge):
		return dropTooLarge
	case errors.Is(err, kafka.InvalidTimestamp), errors.Is(err, kafka.InvalidRecord):
		return dropRefused
	}
	return ""
}
