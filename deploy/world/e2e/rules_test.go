package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"tributary/deploy/dev/ports"
	"tributary/service/testenv"
)

// Every metric that the rules of deploy/prometheus ask for is exported, and a real Prometheus computes what they record.
func TestPrometheusRules(t *testing.T) {
	program := testenv.NeedCommand(t, "prometheus", "run make packages")
	r := bareRig(t, false)
	t.Setenv("TRIBUTARY_COLLECTOR_ALERTMANAGER", "http://127.0.0.1:1")
	r.startCollector()
	r.startExporter()
	rules, err := os.ReadFile("../../prometheus/tributary.rules.yaml")
	r.must(err)
	quick := strings.ReplaceAll(strings.ReplaceAll(string(rules), "interval: 30s", "interval: 1s"), "[5m]", "[10s]")
	r.must(os.WriteFile(filepath.Join(r.dir, "rules.yaml"), []byte(quick), 0o600))
	address := ports.Address(t)
	r.must(os.WriteFile(filepath.Join(r.dir, "prometheus.yaml"), fmt.Appendf(nil, `global: {scrape_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - {job_name: tributary-collector, static_configs: [{targets: [%q]}]}
  - {job_name: tributary-exporter, static_configs: [{targets: [%q]}]}
`, r.collectorMetrics, r.exporterMetrics), 0o600))
	cmd := exec.Command(program, "--config.file", filepath.Join(r.dir, "prometheus.yaml"), "--storage.tsdb.path", filepath.Join(r.dir, "tsdb"),
		"--web.listen-address", address, "--log.level", "error")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.must(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, as asked
	})
	elsewhere := func(name string) bool { // what this collector does not have: Kafka, a best_effort sink, other regions; and nothing inside is unnamed
		return strings.HasPrefix(name, "tributary_collector_kafka") || strings.HasPrefix(name, "tributary_collector_backlog") ||
			strings.HasPrefix(name, "tributary_collector_region") || name == "tributary:collector_unnamed:ratio5m"
	}
	var want []string
	for _, name := range regexp.MustCompile(`tributary[_:][a-z0-9_:]+`).FindAllString(string(rules), -1) {
		if !elsewhere(name) {
			want = append(want, name)
		}
	}
	var missing []string
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		have := r.metricNames(address)
		missing = slices.DeleteFunc(slices.Clone(want), func(name string) bool { return slices.Contains(have, name) })
		if len(missing) == 0 {
			return
		}
	}
	t.Errorf("Prometheus does not know %q", missing)
}

func (r *rig) metricNames(address string) []string {
	r.t.Helper()
	body, err := get("http://" + address + "/api/v1/label/__name__/values")
	if err != nil {
		return nil // not up yet
	}
	var answer struct{ Data []string }
	r.must(json.Unmarshal([]byte(body), &answer))
	return answer.Data
}
