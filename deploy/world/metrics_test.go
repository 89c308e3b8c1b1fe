package world

import "testing"

func TestMetrics(t *testing.T) {
	m, err := ParseMetrics("# HELP a_total What a b is.\n# TYPE a_total counter\na_total{x=\"1 2\"} 3\na_total{x=\"4\"} 1e+06\n\na_total_more 7\nb 0.5\n")
	if err != nil || len(m) != 4 {
		t.Fatalf("%v, %v", m, err)
	}
	for name, want := range map[string]float64{"a_total": 1_000_003, `a_total{x="1 2"}`: 3, "a_total_more": 7, "b": 0.5, "c": 0} {
		if got := m.Sum(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if _, err := ParseMetrics("a_total many\n"); err == nil {
		t.Error("what is no number was read")
	}
}
