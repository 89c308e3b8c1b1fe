package containers

import "github.com/prometheus/client_golang/prometheus"

var (
	descRunning = prometheus.NewDesc("tributary_exporter_containers_running", "Containers of this host that a runtime's state describes.", nil, nil)
	descPods    = prometheus.NewDesc("tributary_exporter_containers_pods", "Pods that the PodList or the Kubernetes API names.", nil, nil)
	descErrors  = prometheus.NewDesc("tributary_exporter_containers_errors_total", "States of containers and lists of pods that could not be used.", nil, nil)

	descAPIErrors = prometheus.NewDesc("tributary_exporter_containers_api_errors_total", "Questions to the Kubernetes API that failed.", nil, nil)
	descAPIWatch  = prometheus.NewDesc("tributary_exporter_containers_api_watching", "1 while the Kubernetes API tells of this node's pods.", nil, nil)
)

// Describe implements prometheus.Collector.
func (w *Watcher) Describe(out chan<- *prometheus.Desc) {
	out <- descRunning
	out <- descPods
	out <- descErrors
	out <- descAPIErrors
	out <- descAPIWatch
}

// Collect implements prometheus.Collector.
func (w *Watcher) Collect(out chan<- prometheus.Metric) {
	w.mu.Lock()
	running, pods := len(w.byDir), w.pods
	w.mu.Unlock()
	out <- prometheus.MustNewConstMetric(descRunning, prometheus.GaugeValue, float64(running))
	out <- prometheus.MustNewConstMetric(descPods, prometheus.GaugeValue, float64(pods))
	out <- prometheus.MustNewConstMetric(descErrors, prometheus.CounterValue, float64(w.errors.Load()))
	var apiErrors uint64
	watching := 0.0
	if w.api != nil {
		apiErrors = w.api.Errors()
		if !w.api.Since().IsZero() {
			watching = 1
		}
	}
	out <- prometheus.MustNewConstMetric(descAPIErrors, prometheus.CounterValue, float64(apiErrors))
	out <- prometheus.MustNewConstMetric(descAPIWatch, prometheus.GaugeValue, watching)
}
