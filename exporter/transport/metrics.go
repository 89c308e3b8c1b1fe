package transport

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// books counts what is not in Stats.
type books struct {
	restarts       map[streamName]*atomic.Uint64
	protocolErrors atomic.Uint64
	drains         atomic.Uint64
	epochs         atomic.Uint64
	claims         atomic.Uint64
	releases       atomic.Uint64
	listeners      atomic.Uint64
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
	descSent      = describe("sent_batches_total", "Batches handed to the connection, repetitions included.")
	descResent    = describe("resent_batches_total", "Of these, what this run had sent before, on an earlier stream.")
	descSentBytes = describe("sent_bytes_total", "Bytes of batches handed to the connection, repetitions included.")
	descUp        = describe("stream_up", "1 while the stream stands.", "stream")
	descRestarts  = describe("stream_ends_total", "Streams and attempts to open one that ended, other than by our own stop or a drain.", "stream")
	descProtocol  = describe("protocol_errors_total", "Answers of a collector that cannot be true; the stream is opened again.")
	descDrains    = describe("drains_total", "Times the collector asked to connect again.")
	descEpochs    = describe("store_epochs_total", "Times a collector's store may have forgotten, so that the last minute was sent again.")
	descClaims    = describe("claims_total", "Claims sent, whole sets at the start of a stream included.")
	descReleases  = describe("releases_total", "Releases sent.")
	descListeners = describe("listeners_total", "Listeners sent, whole sets at the start of a stream included.")
	descWatermark = describe("watermarks_total", "Watermarks sent.")
	descWay       = describe("in_use", "1 for the way to the collector that is in use, whether the collector answers on it or not.", "transport")
	descSwitches  = describe("switches_total", "Changes of the way to the collector.", "reason")
	descRefusals  = describe("refusals_total", "Claims that the collector did not take.")

	descDatagrams   = describe("datagrams_total", "Datagrams sent.")
	descNeverCame   = describe("datagrams_never_came_total", "Of these, those of which the collector says that they never came.")
	descDelivered   = describe("delivered_unconfirmed_rows_total", "Rows sent by datagram, acknowledged to nobody. Sum of datagram_rows_total + unconfirmed_rows.")
	descOutcome     = describe("datagram_rows_total", "Rows sent by datagram, by what the collector says became of them.", "outcome")
	descUnconfirmed = describe("unconfirmed_rows", "Rows sent by datagram of which the collector has not said what became of them; where it was killed it never will.")
	descBeside      = describe("datagram_refused_batches_total", "Batches that went by a stream while UDP was in use.", "reason")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descSent, descResent, descSentBytes, descUp, descRestarts, descProtocol, descDrains, descEpochs, descClaims, descReleases, descListeners,
		descWatermark, descRefusals, descWay, descSwitches, descDatagrams, descNeverCame, descDelivered, descOutcome, descUnconfirmed, descBeside,
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
	s := c.t.Stats()
	counter(descSent, s.Sent.Batches)
	counter(descResent, s.Resent.Batches)
	counter(descSentBytes, s.SentBytes)
	for _, name := range []streamName{streamFlows, streamControl} {
		gauge(descUp, map[bool]float64{true: 1}[c.t.link.streamUp(name)], string(name))
		counter(descRestarts, c.t.books.restarts[name].Load(), string(name))
	}
	way := c.t.Way()
	for _, w := range Ways() {
		gauge(descWay, map[bool]float64{true: 1}[w == way], string(w))
	}
	for _, reason := range reasons() {
		counter(descSwitches, c.t.route.counted(reason), string(reason))
	}
	b := c.t.books
	counter(descProtocol, b.protocolErrors.Load())
	counter(descDrains, b.drains.Load())
	counter(descEpochs, b.epochs.Load())
	counter(descClaims, b.claims.Load())
	counter(descReleases, b.releases.Load())
	counter(descListeners, b.listeners.Load())
	counter(descWatermark, b.watermarks.Load())
	counter(descRefusals, b.refusals.Load())
	d := c.t.Datagrams()
	counter(descDatagrams, d.Sent)
	counter(descNeverCame, d.NeverCame)
	counter(descDelivered, d.SentRows)
	counter(descOutcome, d.StoredRows, "stored")
	counter(descOutcome, d.DroppedRows, "dropped")
	counter(descOutcome, d.NeverCameRows, "never_came")
	gauge(descUnconfirmed, float64(d.Unconfirmed()))
	counter(descBeside, d.TooLarge, "too_large")
	counter(descBeside, d.WriteErrors, "write_error")
}
