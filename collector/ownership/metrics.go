package ownership

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// Register offers the table's counters and sizes as metrics, read when they are asked for.
func Register(reg prometheus.Registerer, t *Table) error {
	const prefix = "tributary_collector_ownership_"
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, labels, nil)
	}
	c := &collector{
		t:          t,
		claims:     desc("claims_total", "Claims taken: opened a range, or repeated what was known.", "result"),
		releases:   desc("releases_total", "Releases taken."),
		watermarks: desc("watermarks_total", "Watermarks taken."),
		refused:    desc("refused_total", "Claims, releases and watermarks refused.", "reason"),
		forgotten:  desc("forgotten_ranges_total", "Ranges forgotten. Claims opened equal these plus the ranges held.", "reason"),
		held:       desc("entries", "What the table holds.", "kind"),
		bytes:      desc("bytes", "Memory of entries, ranges and index; names come on top."),
	}
	if err := reg.Register(c); err != nil {
		return fmt.Errorf("metrics of ownership: %w", err)
	}
	return nil
}

type collector struct {
	t                                                             *Table
	claims, releases, watermarks, refused, forgotten, held, bytes *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.claims, c.releases, c.watermarks, c.refused, c.forgotten, c.held, c.bytes} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	s := c.t.Stats()
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count(c.claims, s.Claims, "opened")
	count(c.claims, s.Repeats, "repeated")
	count(c.releases, s.Releases)
	count(c.watermarks, s.Watermarks)
	for reason, n := range s.Refused {
		count(c.refused, n, reason.String())
	}
	for reason, n := range s.Forgotten {
		count(c.forgotten, n, reason.String())
	}
	gauge(c.held, s.Ranges, "ranges")
	gauge(c.held, s.Addresses, "addresses")
	gauge(c.held, s.Owners, "owners")
	gauge(c.held, s.Networks, "networks")
	gauge(c.held, s.Exporters, "exporters")
	gauge(c.bytes, s.Bytes)
}
