package query

import (
	"cmp"
	"math"
	"slices"

	"tributary/collector/schema"
)

// histogram has the samples of some buckets of schema.MicrosOf; a bucket may be there several times.
type histogram []samples

type samples struct {
	bucket uint8
	n      uint64
}

// quantiles returns the 50, 95 and 99 % quantiles in microseconds, as the views do: of the bucket that the nearest rank falls into; 0 without samples.
func (h histogram) quantiles() (p50, p95, p99 uint64) {
	slices.SortFunc(h, func(a, b samples) int { return cmp.Compare(a.bucket, b.bucket) })
	all := uint64(0)
	for _, s := range h {
		all += s.n
	}
	of := func(share float64) uint64 {
		rank, seen := uint64(math.Ceil(share*float64(all))), uint64(0)
		for _, s := range h {
			if seen += s.n; seen >= rank {
				return schema.MicrosOf(s.bucket)
			}
		}
		return 0
	}
	return of(0.5), of(0.95), of(0.99)
}
