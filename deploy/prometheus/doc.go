// Package prometheus holds rules for Prometheus over Tributary's own metrics, and an example of its configuration. Its tests run promtool; that
// the programs export what the rules ask for is tested in deploy/world/e2e.
package prometheus
