package budget

import "github.com/prometheus/client_golang/prometheus"

var (
	descStep   = prometheus.NewDesc("tributary_exporter_budget_step", "How far the exporter has stepped down to keep to its budget; 0: nothing is left out.", nil, nil)
	descSteps  = prometheus.NewDesc("tributary_exporter_budget_steps_total", "Steps taken: down because of cpu or memory, up again, or failed.", []string{"step"}, nil)
	descCores  = prometheus.NewDesc("tributary_exporter_budget_cpu_cores", "Processors that the exporter and its kernel programs used in the last minute (used), and may use (limit; 0: no limit).", []string{"value"}, nil)
	descMemory = prometheus.NewDesc("tributary_exporter_budget_memory_bytes", "Memory of the exporter beside batches that are not acknowledged, in the last minute (used), and what it may use (limit; 0: no limit).", []string{"value"}, nil)
)

// Describe implements prometheus.Collector.
func (g *Governor) Describe(out chan<- *prometheus.Desc) { prometheus.DescribeByCollect(g, out) }

// Collect implements prometheus.Collector.
func (g *Governor) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	count := func(n uint64, step string) {
		out <- prometheus.MustNewConstMetric(descSteps, prometheus.CounterValue, float64(n), step)
	}
	gauge(descStep, float64(g.step))
	count(g.downs[cpu], "down_cpu")
	count(g.downs[memory], "down_memory")
	count(g.ups, "up")
	count(g.failed, "failed")
	gauge(descCores, g.used.cores, "used")
	gauge(descCores, g.config.Limits.Cores, "limit")
	gauge(descMemory, float64(g.used.memoryBytes), "used")
	gauge(descMemory, float64(g.config.Limits.MemoryBytes), "limit")
}
