package probe

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetricsBeforeStart(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	if err := RegisterMetrics(reg, New(Options{})); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP tributary_exporter_probe_active_records_total Active records of open sockets.
# TYPE tributary_exporter_probe_active_records_total counter
tributary_exporter_probe_active_records_total{result="raced"} 0
tributary_exporter_probe_active_records_total{result="submitted"} 0
# HELP tributary_exporter_probe_ends_total Connection ends (closed or failed) in scope.
# TYPE tributary_exporter_probe_ends_total counter
tributary_exporter_probe_ends_total{result="ring_full"} 0
tributary_exporter_probe_ends_total{result="submitted"} 0
# HELP tributary_exporter_probe_listener_owners_dropped_total Listeners whose owner was not kept because the table is full.
# TYPE tributary_exporter_probe_listener_owners_dropped_total counter
tributary_exporter_probe_listener_owners_dropped_total 0
# HELP tributary_exporter_probe_missed_total What the kernel did not show: ends, and transitions nested in another on one CPU.
# TYPE tributary_exporter_probe_missed_total counter
tributary_exporter_probe_missed_total{reason="end"} 0
tributary_exporter_probe_missed_total{reason="recursion"} 0
# HELP tributary_exporter_probe_open_sockets Connection ends followed now.
# TYPE tributary_exporter_probe_open_sockets gauge
tributary_exporter_probe_open_sockets 0
# HELP tributary_exporter_probe_starts_total Connection starts seen, by what became of them.
# TYPE tributary_exporter_probe_starts_total counter
tributary_exporter_probe_starts_total{result="followed"} 0
tributary_exporter_probe_starts_total{result="map_full"} 0
tributary_exporter_probe_starts_total{result="no_memory"} 0
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
