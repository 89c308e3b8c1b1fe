package query

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"tributary/collector/schema"
)

// histogram has the samples of some buckets of schema.MicrosOf; a bucket may be there several times. In JSON it is an object, {"45": 3}.
type histogram []samples

type samples struct {
	bucket uint8
	n      uint64
}

var errHistogram = errors.New("an answer's histogram is not of buckets and numbers")

// UnmarshalJSON reads what ClickHouse writes for a map of numbers. A map of a thousand edges has 30,000 pairs: a Go map for each edge takes longer than the
// question.
func (h *histogram) UnmarshalJSON(text []byte) error {
	if *h = (*h)[:0]; len(text) == 0 || text[0] != '{' {
		return errHistogram
	}
	var numbers [2]uint64 // bucket and samples
	at, digits := 0, 0
	for _, b := range text {
		switch {
		case b >= '0' && b <= '9' && numbers[at] < math.MaxUint64/10:
			numbers[at], digits = numbers[at]*10+uint64(b-'0'), digits+1
		case b == ':' && at == 0 && digits > 0 && numbers[0] <= math.MaxUint8:
			at, digits = 1, 0
		case (b == ',' || b == '}') && at == 1 && digits > 0:
			*h = append(*h, samples{uint8(numbers[0]), numbers[1]})
			numbers, at, digits = [2]uint64{}, 0, 0
		case b == '"' || b == '{' || b == '}' && at == 0 && digits == 0:
		default:
			return errHistogram
		}
	}
	return nil
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
