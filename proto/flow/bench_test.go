package flow_test

import (
	"testing"

	"tributary/proto/flow"
)

func BenchmarkDecode(b *testing.B) {
	w := flow.NewBuilder(1000)
	fill(w, 1000)
	columns, rows := w.Seal(nil)
	var batch flow.Batch
	b.ReportAllocs()
	for b.Loop() {
		batch.Reset()
		if err := batch.DecodeColumns(columns, rows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
	b.ReportMetric(float64(len(columns))/float64(rows), "B/row")
}

func BenchmarkBuildAndSeal(b *testing.B) {
	w := flow.NewBuilder(1000)
	var dst []byte
	for b.Loop() {
		fill(w, 1000)
		dst, _ = w.Seal(dst[:0])
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/row")
}
