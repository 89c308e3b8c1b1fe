package main

import (
	"math"
	"slices"
)

// t95 are the 0.95 quantiles of Student's t by degrees of freedom, from 1.
var t95 = [...]float64{6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725}

// estimate is a ratio with the two-sided 90 % interval of its mean.
type estimate struct {
	mean, low, high float64
	n               int
}

// estimateOf takes the pairs' ratios. Their logarithms are averaged: a ratio and its inverse are equally far from 1.
func estimateOf(ratios []float64) estimate {
	n := float64(len(ratios))
	if n < 2 {
		return estimate{mean: math.NaN(), low: math.NaN(), high: math.NaN(), n: len(ratios)}
	}
	sum, squares := 0.0, 0.0
	for _, r := range ratios {
		sum += math.Log(r)
	}
	mean := sum / n
	for _, r := range ratios {
		squares += (math.Log(r) - mean) * (math.Log(r) - mean)
	}
	t := t95[min(len(ratios)-1, len(t95))-1]
	half := t * math.Sqrt(squares/(n-1)/n)
	return estimate{math.Exp(mean), math.Exp(mean - half), math.Exp(mean + half), len(ratios)}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
