package query

import (
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/rollup"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
)

// TestQuantiles: of the nearest rank, whatever parts the samples come in.
func TestQuantiles(t *testing.T) {
	for want, h := range map[[3]uint64]histogram{
		{}:              {},
		{512, 512, 512}: {{45, 1}},
		{2, 4, 8}:       {{5, 50}, {10, 45}, {15, 4}, {20, 1}},
		{4, 4, 8}:       {{5, 49}, {10, 46}, {15, 4}, {20, 1}},
		{2251799813685248, 2251799813685248, 2251799813685248}: {{255, 18446744073709551}},
	} {
		p50, p95, p99 := h.quantiles()
		if got := [3]uint64{p50, p95, p99}; got != want {
			t.Errorf("%v: %v, want %v", h, got, want)
		}
	}
	one, other := histogram{{20, 1}, {5, 25}}, histogram{{10, 45}, {5, 25}, {15, 4}}
	if p50, p95, p99 := append(one, other...).quantiles(); p50 != 2 || p95 != 4 || p99 != 8 {
		t.Error(p50, p95, p99)
	}
	if p50, _, _ := (histogram{{0, 5}}).quantiles(); p50 != 0 {
		t.Errorf("a microsecond shows as %d", p50)
	}
}

// TestPartsAgree: single records, minutes, hours for maps and hours as they were kept before those give the same edges.
func TestPartsAgree(t *testing.T) {
	s := migrated(t)
	hour := time.Now().UTC().Truncate(time.Hour).Add(-4 * time.Hour)
	records.Load(t, s, hour, world())
	c := client(t, s)
	ask := func(f edgeFilter) []Edge {
		t.Helper()
		edges, err := c.edges(t.Context(), window{hour, hour.Add(3 * time.Hour)}, time.Now(), f)
		if err != nil {
			t.Fatal(err)
		}
		return edges
	}
	want := ask(edgeFilter{})
	if len(want) != 4 {
		t.Fatalf("%d edges of single records", len(want))
	}
	r := rollup.New(rollup.Config{}, s, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		name string
		at   time.Time
		sql  string
	}{
		{name: "minutes", at: hour.Add(30 * time.Minute)},
		{name: "hours", at: time.Now()},
		{name: "hours of before", sql: "ALTER TABLE tributary.closed UPDATE mapped = false WHERE 1 SETTINGS mutations_sync = 2"},
		{name: "hours of before, without those for maps", sql: "TRUNCATE TABLE tributary.map_1h_gens"},
	} {
		if step.sql != "" {
			schematest.Query(t, s, step.sql)
		} else if err := r.Step(t.Context(), step.at); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, ask(edgeFilter{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
		if diff := cmp.Diff(want[:1], ask(edgeFilter{condition: "server_workload = 'shop/api' AND client_workload != '' AND client_release = ''", ofReleases: true})); diff != "" {
			t.Errorf("%s, of a release (-want +got):\n%s", step.name, diff)
		}
	}
}
