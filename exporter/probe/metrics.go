package probe

import "github.com/prometheus/client_golang/prometheus"

// metrics reads the books when it is scraped. Each family balances as Counters says.
type metrics struct {
	probe                                    *Probe
	ends, starts, open, active, missed, lost *prometheus.Desc
	runs, seconds                            *prometheus.Desc
}

// RegisterMetrics makes p's books visible as tributary_exporter_probe_….
func RegisterMetrics(reg prometheus.Registerer, p *Probe) error {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("tributary_exporter_probe_"+name, help, labels, nil)
	}
	return reg.Register(&metrics{
		probe:  p,
		ends:   desc("ends_total", "Connection ends (closed or failed) in scope.", "result"),
		starts: desc("starts_total", "Connection starts seen, by what became of them.", "result"),
		open:   desc("open_sockets", "Connection ends followed now."),
		active: desc("active_records_total", "Active records of open sockets.", "result"),
		missed: desc("missed_total", "What the kernel did not show: ends, and transitions nested in another on one CPU.", "reason"),
		lost:   desc("listener_owners_dropped_total", "Listeners whose owner was not kept because the table is full."),

		runs:    desc("runs_total", "Runs of a kernel program; 0 unless run-time statistics are enabled.", "program"),
		seconds: desc("run_seconds_total", "Time in a kernel program; 0 unless run-time statistics are enabled.", "program"),
	})
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.ends, m.starts, m.open, m.active, m.missed, m.lost, m.runs, m.seconds} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	c, err := m.probe.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.ends, err)
		return
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	counter(m.ends, float64(c.Submitted), "submitted")
	counter(m.ends, float64(c.RingFull), "ring_full")
	counter(m.starts, float64(c.Opened), "followed")
	counter(m.starts, float64(c.MapFull), "map_full")
	counter(m.starts, float64(c.MapNoMemory), "no_memory")
	counter(m.active, float64(c.Active), "submitted")
	counter(m.active, float64(c.ActiveRaced), "raced")
	counter(m.missed, float64(c.EndsMissed), "end")
	counter(m.missed, float64(c.Recursion), "recursion")
	counter(m.lost, float64(c.ListenersFull))
	ch <- prometheus.MustNewConstMetric(m.open, prometheus.GaugeValue, float64(c.Opened)-float64(c.Removed))
	costs, err := m.probe.Costs()
	if err != nil {
		return // not running: nothing costs anything
	}
	for _, p := range costs {
		counter(m.runs, float64(p.Runs), p.Name)
		counter(m.seconds, p.Time.Seconds(), p.Name)
	}
}
