package world

import (
	"fmt"
	"strconv"
	"strings"
)

// Metrics are what a program says at /metrics: values by name with labels.
type Metrics map[string]float64

// ParseMetrics reads the text format of Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats), as our programs write it: without timestamps.
func ParseMetrics(text string) (Metrics, error) {
	m := Metrics{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics line %q: %w", line, err)
		}
		m[line[:i]] = value
	}
	return m, nil
}

// Sum adds up all series of a metric; a name with labels is one series.
func (m Metrics) Sum(name string) (total float64) {
	for key, value := range m {
		if key == name || strings.HasPrefix(key, name+"{") {
			total += value
		}
	}
	return total
}
