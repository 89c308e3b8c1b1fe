package identity

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/proto/flow"
)

const (
	reloadOK = iota
	reloadInvalid
	reloads
)

const (
	eventAdded = iota
	eventRemoved
	eventLost
	events
)

var (
	reloadNames = [reloads]string{"ok", "invalid"}
	eventNames  = [events]string{"added", "removed", "lost"}
)

// bookMetrics counts what a Book does.
type bookMetrics struct {
	b        *Book
	lookups  [32]atomic.Uint64 // by flow.Evidence…
	claims   atomic.Uint64
	releases [reasons]atomic.Uint64
	reloads  [reloads]atomic.Uint64
	events   [events]atomic.Uint64
	holes    atomic.Uint64
	behind   atomic.Uint64
}

func newBookMetrics(b *Book) *bookMetrics { return &bookMetrics{b: b} }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tributary_exporter_identity_"+name, help, labels, nil)
}

var (
	descLookups    = describe("lookups_total", "Local ends looked up, by the evidence that named them; none: unnamed.", "evidence")
	descClaims     = describe("claims_total", "Claims opened.")
	descReleases   = describe("releases_total", "Claims released, by reason.", "reason")
	descOpen       = describe("open_claims", "Claims that are open: claims_total - releases_total.")
	descReloads    = describe("file_reloads_total", "Changed identity files read while running, by result; after invalid the old one stays in force.", "result")
	descEvents     = describe("address_events_total", "Addresses added to and removed from interfaces, and times that notifications were lost and all addresses listed anew.", "event")
	descNamespaces = describe("namespaces", "Network namespaces whose addresses are watched.")
	descSubs       = describe("subscriptions", "Readers of the claims.")
	descBehind     = describe("subscriptions_cut_total", "Readers cut off because they were too slow; they begin anew with the whole set.")
	descHoles      = describe("holes_total", "Times that nobody looked for more than three seconds, or that the clock was set: all claims ended and began anew.")
	descShared     = describe("shared_addresses", "Addresses that are claimed for nobody because they stand for connections of others too (address translation).")
	descForgotten  = describe("past_owners_forgotten_total", "Past owners of keys that were forgotten because of a bound; flows of their time are unnamed.")
)

// Describe implements prometheus.Collector.
func (m *bookMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descLookups, descClaims, descReleases, descOpen, descReloads, descEvents, descNamespaces, descSubs, descBehind, descHoles, descShared, descForgotten,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *bookMetrics) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	for _, e := range evidences {
		counter(descLookups, m.lookups[e].Load(), flow.EvidenceNames.Name(e))
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	counter(descClaims, m.claims.Load())
	for i := range m.releases {
		counter(descReleases, m.releases[i].Load(), reasonNames[i])
	}
	for i := range m.reloads {
		counter(descReloads, m.reloads[i].Load(), reloadNames[i])
	}
	for i := range m.events {
		counter(descEvents, m.events[i].Load(), eventNames[i])
	}
	gauge(descOpen, len(m.b.claims))
	gauge(descNamespaces, len(m.b.presence.spaces))
	gauge(descSubs, len(m.b.readers))
	gauge(descShared, len(m.b.sharing.seen))
	counter(descBehind, m.behind.Load())
	counter(descHoles, m.holes.Load())
	counter(descForgotten, m.b.history.forgot)
}
