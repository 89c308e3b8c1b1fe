package main

import (
	"math"
	"slices"
	"testing"
)

func TestEstimate(t *testing.T) {
	e := estimateOf([]float64{0.9, 0.9, 0.9, 0.9, 0.9, 0.9})
	if math.Abs(e.middle-0.9) > 1e-9 || math.Abs(e.low-0.9) > 1e-9 || math.Abs(e.high-0.9) > 1e-9 {
		t.Errorf("equal ratios: %+v", e)
	}
	// Of 12 the tables of Wilcoxon's test have 17 as the greatest sum of ranks that stands outside at either end, so the 18th mean of two is the bound.
	exponents := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	ratios := make([]float64, len(exponents))
	for i, x := range exponents {
		ratios[i] = math.Exp(x)
	}
	e = estimateOf(ratios)
	if math.Abs(math.Log(e.middle)-6.5) > 1e-9 || math.Abs(math.Log(e.low)-bound(exponents, 18)) > 1e-9 || math.Abs(math.Log(e.low)+math.Log(e.high)-13) > 1e-9 {
		t.Errorf("%v, %v to %v", math.Log(e.middle), math.Log(e.low), math.Log(e.high))
	}
	ratios[11] = math.Exp(1000) // one that was disturbed
	if d := estimateOf(ratios); d.low != e.low && math.Log(d.low)-math.Log(e.low) > 0.5 {
		t.Errorf("one disturbed pair moves the bound from %v to %v", e.low, d.low)
	}
	if e := estimateOf([]float64{1, 2, 3, 4}); !math.IsNaN(e.low) || e.n != 4 {
		t.Errorf("an interval of four ratios: %+v", e)
	}
	if m := median([]float64{3, 1, 2, 10}); m != 2.5 {
		t.Errorf("median %v", m)
	}
}

// bound is the k-th smallest of the means of any two of the values.
func bound(values []float64, k int) float64 {
	var means []float64
	for i := range values {
		for j := range i + 1 {
			means = append(means, (values[i]+values[j])/2)
		}
	}
	slices.Sort(means)
	return means[k-1]
}
