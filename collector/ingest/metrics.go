package ingest

import (
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
)

// metrics: accepted rows = acked rows + unstorable rows + pending rows, always.
type metrics struct {
	batches, rows                *prometheus.CounterVec
	bytes, acked                 prometheus.Counter
	pendingRows, pendingBytes    prometheus.Gauge
	streams                      *prometheus.GaugeVec
	claims, releases, watermarks *prometheus.CounterVec
	posts                        *prometheus.CounterVec
	epochs                       prometheus.Counter
	drains                       *prometheus.CounterVec
	listeners                    *prometheus.CounterVec
	refused                      *prometheus.CounterVec
	connections                  *prometheus.GaugeVec
	refusedConnections           *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	counters := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tributary_collector_ingest_" + name, Help: help}, []string{label})
		for _, x := range values {
			v.WithLabelValues(x)
		}
		reg.MustRegister(v)
		return v
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_ingest_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tributary_collector_ingest_" + name, Help: help})
		reg.MustRegister(g)
		return g
	}
	results := []string{session.Accepted, session.NotAllowed, "internal"}
	for _, r := range ownership.Reasons() {
		results = append(results, r.String())
	}
	m := &metrics{
		batches:      counters("batches_total", "Batches that arrived, by what became of them.", "result", "accepted", "repeated", "rejected", "no_room", "unstorable"),
		rows:         counters("rows_total", "Rows that arrived, by what became of them. no_room: by datagram, which nobody waits for.", "result", "accepted", "repeated", "rejected", "no_room", "unstorable"),
		bytes:        counter("payload_bytes_total", "Payload bytes that arrived."),
		acked:        counter("acked_rows_total", "Rows that are in every required sink."),
		pendingRows:  gauge("pending_rows", "Rows taken in and not yet acknowledged."),
		pendingBytes: gauge("pending_bytes", "Memory of the batches taken in and not yet in every required sink."),
		claims:       counters("claims_total", "Claims, by what became of them.", "result", results...),
		releases:     counters("releases_total", "Releases, by what became of them.", "result", results...),
		watermarks:   counters("watermarks_total", "Watermarks, by what became of them.", "result", "accepted", "refused"),
		drains:       counters("drains_total", "Exporters that were asked to connect anew: to spread over the nodes, or because this one stops.", "reason", "spread", "stop"),
		epochs:       counter("store_epochs_total", "Times the store may have forgotten, so that exporters send the last minute again."),
		posts: counters("http_requests_total", "Requests of streams over HTTP, by what became of them.", "result",
			"taken", "repeated", "polled", "busy", "slow", "refused", "unknown_stream", "ended"),
		listeners: counters("listeners_total", "Listeners that exporters told of, by what became of them.", "result", "accepted", "refused"),
		refused:   counters("refused_identities_total", "Uses of an exporter_id that belongs to the owner of another certificate, by what it was used for; all were refused.", "use", "flows", "control", "batch", "datagram"),
		streams:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tributary_collector_ingest_streams", Help: "Open streams."}, []string{"stream"}),
	}
	m.refusedConnections = counters("refused_connections_total", "Connections that were closed as they came, because as many were open as max_connections allows.", "listener", "grpc", "https")
	m.connections = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tributary_collector_ingest_connections", Help: "Open connections."}, []string{"listener"})
	m.connections.WithLabelValues("grpc")
	m.connections.WithLabelValues("https")
	reg.MustRegister(m.connections)
	m.streams.WithLabelValues("flows")
	m.streams.WithLabelValues("control")
	reg.MustRegister(m.streams)
	return m
}
