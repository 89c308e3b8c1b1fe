package main

import (
	"math"
	"testing"
)

func TestEstimate(t *testing.T) {
	e := estimateOf([]float64{0.9, 0.9, 0.9})
	if math.Abs(e.mean-0.9) > 1e-9 || math.Abs(e.low-0.9) > 1e-9 || math.Abs(e.high-0.9) > 1e-9 {
		t.Errorf("equal ratios: %+v", e)
	}
	// logarithms 0 and ln 4: mean ln 2, deviation of the mean ln 2, t(1) = 6.314
	e = estimateOf([]float64{1, 4})
	if math.Abs(e.mean-2) > 1e-9 || math.Abs(math.Log(e.low)-(1-6.314)*math.Ln2) > 1e-9 {
		t.Errorf("two ratios: %+v", e)
	}
	if e := estimateOf([]float64{1}); !math.IsNaN(e.low) {
		t.Errorf("an interval of one ratio: %+v", e)
	}
	if m := median([]float64{3, 1, 2, 10}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}
