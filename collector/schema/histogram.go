package schema

import (
	"math"
	"strconv"
	"strings"
)

// The times of edges are kept as histograms: how many samples there were of 5·log₂ microseconds, rounded. So a bucket is a fifth of an octave
// wide, and a quantile, which is the middle of the bucket that the nearest rank falls into, is at most 7.2 % off (2^0.1, and half a
// microsecond). Histograms add up exactly and in any order, so that all collectors compute the same. They are smaller than states of
// quantiles, and several times as quick to merge (docs/schema.md).
const (
	histogramType  = "SimpleAggregateFunction(sumMap, Map(UInt8, UInt64))"
	histogramCodec = "ZSTD(5)"
	rttDoc         = "round trip times, one sample a record: how many were 2^(key/5) microseconds"
	connectDoc     = "times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds"
	// What was kept before migration 16: samples rounded in the same way, or to an eighth of an octave.
	stateType = "AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt32)"
)

// histogramColumn is what stands behind its name in ADD COLUMN.
func histogramColumn(doc string) string {
	return histogramType + " COMMENT '" + doc + "' CODEC(" + histogramCodec + ")"
}

// MicrosOf is the middle of a bucket. No samples, like a microsecond, are 0.
func MicrosOf(bucket uint8) uint64 {
	if bucket == 0 {
		return 0
	}
	return uint64(math.Round(math.Exp2(float64(bucket) / 5)))
}

func bucketOf(micros string) string { return "toUInt8(round(log2(greatest(" + micros + ", 1)) * 5))" }

// showQuantiles returns the columns name_p50, name_p95 and name_p99, microseconds, of rows e of a group. No samples, like a microsecond, show as 0.
// The quantiles are named where they are first used: statements are analysed in a time that goes by what is written out.
func showQuantiles(name string) []string {
	buckets := "(" + bucketsOf(name) + " AS " + name + "_buckets)"
	var out []string
	for i, p := range []string{"p50", "p95", "p99"} {
		at := "[" + strconv.Itoa(i+1) + "]"
		out = append(out, "if("+buckets+at+" = 0, 0, toUInt32(round(exp2("+name+"_buckets"+at+" / 5)))) AS "+name+"_"+p)
		buckets = name + "_buckets"
	}
	return out
}

// bucketsOf returns the buckets of the three quantiles, of rows e of a group.
func bucketsOf(name string) string {
	return "quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e." + name + "_histogram), mapValues(e." + name + "_histogram))"
}

// histogramOf makes a histogram of a state of quantilesBFloat16. As text the state is a variable-length count of pairs of 10 bytes: the upper half of
// a Float32, and an UInt64, how many there were. As the bytes of the count are fewer than 10, they are what 10 does not divide.
func histogramOf(state string) string {
	const of = `CAST(arrayReduce('sumMap',
        [arrayMap(s -> $bucket, $pairs)],
        [arrayMap(s -> reinterpretAsUInt64(substring(s, 3)), $pairs)]), 'Map(UInt8, UInt64)')`
	const pairs = "arrayMap(i -> substring(toString($state), length(toString($state)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString($state)), 10)))"
	bucket := bucketOf(`reinterpretAsFloat32(concat('\0\0', substring(s, 1, 2)))`)
	return strings.ReplaceAll(strings.NewReplacer("$bucket", bucket, "$pairs", pairs).Replace(of), "$state", state)
}
