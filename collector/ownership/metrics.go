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
		refused:    desc("refused_total", "Claims, releases and watermarks refused; bad_clock: claims kept but not for naming.", "reason"),
		forgotten:  desc("forgotten_ranges_total", "Ranges forgotten. Claims opened equal these plus the ranges held.", "reason"),
		held:       desc("entries", "What the table holds.", "kind"),
		bytes:      desc("bytes", "Memory of entries, ranges and index; names come on top."),
		badClocks:  desc("bad_clock_exporters", "Exporters whose clock is off by more than allowed: their claims name nobody."),
		slack:      desc("clock_slack_seconds", "The widest error that an exporter's clock may have, as estimated from its watermarks; at most 30."),
	}
	if err := reg.Register(c); err != nil {
		return fmt.Errorf("metrics of ownership: %w", err)
	}
	return nil
}

type collector struct {
	t                                                             *Table
	claims, releases, watermarks, refused, forgotten, held, bytes *prometheus.Desc
	badClocks, slack                                              *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.claims, c.releases, c.watermarks, c.refused, c.forgotten, c.held, c.bytes, c.badClocks, c.slack} {
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
	gauge(c.badClocks, s.BadClocks)
	out <- prometheus.MustNewConstMetric(c.slack, prometheus.GaugeValue, s.Slack.Seconds())
}
