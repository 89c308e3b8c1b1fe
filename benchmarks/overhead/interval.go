package main

import (
	"math"
	"slices"
)

// estimate is a ratio with the two-sided 90 % interval of its middle.
type estimate struct {
	middle, low, high float64
	n                 int
}

// estimateOf takes the pairs' ratios. Their logarithms count, because a ratio and its inverse are equally far from 1. The middle is that of Hodges and
// Lehmann, the median of the means of any two of them, and the interval that of Wilcoxon's signed ranks: where other guests of a host disturb a pair now and
// then, one such pair moves a mean and Student's interval by more than all that is to be measured.
func estimateOf(ratios []float64) estimate {
	n := len(ratios)
	none := estimate{middle: math.NaN(), low: math.NaN(), high: math.NaN(), n: n}
	if n < fewestPairs {
		return none
	}
	means := make([]float64, 0, n*(n+1)/2)
	for i, r := range ratios {
		for _, other := range ratios[:i+1] {
			means = append(means, (math.Log(r)+math.Log(other))/2)
		}
	}
	slices.Sort(means)
	ranks := float64(n * (n + 1))
	outside := int(ranks/4 - 0.5 - z95*math.Sqrt(ranks*float64(2*n+1)/24)) // of the means, at either end
	return estimate{math.Exp(median(means)), math.Exp(means[outside]), math.Exp(means[len(means)-1-outside]), n}
}

const (
	z95         = 1.645 // the 0.95 quantile of the normal distribution, which the sum of the signed ranks nears
	fewestPairs = 5     // fewer have no 90 % interval, however wide
)

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
