package transport

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// books counts what is not in the queue's Stats.
type books struct {
	restarts       map[streamName]*atomic.Uint64
	protocolErrors atomic.Uint64
	drains         atomic.Uint64
	claims         atomic.Uint64
	releases       atomic.Uint64
	watermarks     atomic.Uint64
	refusals       atomic.Uint64
}

func newBooks() *books {
	return &books{restarts: map[streamName]*atomic.Uint64{streamFlows: {}, streamControl: {}}}
}

// collector shows the books of one moment, so that they balance in every scrape.
type collector struct {
	t *Transport
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tributary_exporter_transport_"+name, help, labels, nil)
}

var (
	descQueued    = describe("queued_rows_total", "Rows of sealed batches taken into the queue: acked + rejected + dropped + pending.")
	descAcked     = describe("acked_rows_total", "Rows that every required sink has.")
	descRejected  = describe("rejected_rows_total", "Rows of batches that the collector will never accept.")
	descDropped   = describe("dropped_rows_total", "Rows lost, by reason: queue_full (the oldest made room) or shutdown (not acknowledged in time).", "reason")
	descPending   = describe("pending_rows", "Rows that are not yet acknowledged.")
	descBatches   = describe("batches_total", "Batches by what became of them.", "outcome")
	descPendingB  = describe("pending_batches", "Batches that are not yet acknowledged.")
	descBytes     = describe("pending_bytes", "Memory of the batches that are not yet acknowledged.")
	descOldest    = describe("oldest_pending_seconds", "How long the oldest unacknowledged batch has waited.")
	descSent      = describe("sent_batches_total", "Batches handed to the connection, repetitions included.")
	descResent    = describe("resent_batches_total", "Batches sent again after a reconnect.")
	descSentBytes = describe("sent_payload_bytes_total", "Payload bytes handed to the connection, repetitions included.")
	descUp        = describe("stream_up", "1 while the stream stands.", "stream")
	descRestarts  = describe("stream_ends_total", "Streams and attempts to open one that ended, other than by our own stop or a drain.", "stream")
	descProtocol  = describe("protocol_errors_total", "Answers of a collector that cannot be true; the stream is opened again.")
	descDrains    = describe("drains_total", "Times the collector asked to connect again.")
	descClaims    = describe("claims_total", "Claims sent, whole sets at the start of a stream included.")
	descReleases  = describe("releases_total", "Releases sent.")
	descWatermark = describe("watermarks_total", "Watermarks sent.")
	descRefusals  = describe("refusals_total", "Claims that the collector did not take.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descQueued, descAcked, descRejected, descDropped, descPending, descBatches, descPendingB, descBytes, descOldest, descSent,
		descResent, descSentBytes, descUp, descRestarts, descProtocol, descDrains, descClaims, descReleases, descWatermark, descRefusals,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.t.queue.snapshot(time.Now())
	counter(descQueued, s.Queued.Rows)
	counter(descAcked, s.Acked.Rows)
	counter(descRejected, s.Rejected.Rows)
	counter(descDropped, s.DroppedFull.Rows, "queue_full")
	counter(descDropped, s.DroppedShutdown.Rows, "shutdown")
	gauge(descPending, float64(s.Pending.Rows))
	counter(descBatches, s.Queued.Batches, "queued")
	counter(descBatches, s.Acked.Batches, "acked")
	counter(descBatches, s.Rejected.Batches, "rejected")
	counter(descBatches, s.DroppedFull.Batches+s.DroppedShutdown.Batches, "dropped")
	gauge(descPendingB, float64(s.Pending.Batches))
	gauge(descBytes, float64(s.PendingBytes))
	gauge(descOldest, s.OldestPending.Seconds())
	counter(descSent, s.Sent.Batches)
	counter(descResent, s.Resent.Batches)
	counter(descSentBytes, s.SentBytes)
	for _, name := range []streamName{streamFlows, streamControl} {
		gauge(descUp, map[bool]float64{true: 1}[c.t.link.streamUp(name)], string(name))
		counter(descRestarts, c.t.books.restarts[name].Load(), string(name))
	}
	b := c.t.books
	counter(descProtocol, b.protocolErrors.Load())
	counter(descDrains, b.drains.Load())
	counter(descClaims, b.claims.Load())
	counter(descReleases, b.releases.Load())
	counter(descWatermark, b.watermarks.Load())
	counter(descRefusals, b.refusals.Load())
}
