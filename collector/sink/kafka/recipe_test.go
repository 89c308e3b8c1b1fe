package kafka_test

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"tributary/proto/flow"
)

// The recipe of docs/delivery.md, word for word.

// recipe begins
type rowKey struct {
	exporter string
	flow     uint64
	record   uint32
}

// newest remembers the version of each row that was taken. Forget rows older than the late ones you still want.
type newest map[rowKey]uint32

// take says what row i is: fresh (count it), renamed (take back what was counted for it, count it again), or neither: a repetition.
func (n newest) take(b *flow.Batch, i int) (fresh, renamed bool) {
	key := rowKey{b.ExporterID, b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i)}
	version := b.Get32(flow.Version, i)
	before, known := n[key]
	if known && before >= version {
		return false, false
	}
	n[key] = version
	return !known, known
}

// recipe ends

// TestTheRecipe reads every batch up to four times and in any order, some with later names, and counts every row once under its last version.
func TestTheRecipe(t *testing.T) {
	const batches, rows = 40, 10
	var stream []*flow.Batch
	for seq := range uint64(batches) {
		for version := range uint32(1 + rand.N(3)) {
			b := &flow.Batch{Rows: rows}
			b.ExporterID = "e1"
			for i := range uint64(rows) {
				b.U64[flow.FlowID] = append(b.U64[flow.FlowID], seq*rows+i)
				b.U32[flow.RecordSeq] = append(b.U32[flow.RecordSeq], 0)
				b.U32[flow.Version] = append(b.U32[flow.Version], version)
			}
			for range 1 + rand.N(4) {
				stream = append(stream, b)
			}
		}
	}
	rand.Shuffle(len(stream), func(i, j int) { stream[i], stream[j] = stream[j], stream[i] })
	known, counted, last := newest{}, 0, map[uint64]uint32{}
	for _, b := range stream {
		for i := range b.Rows {
			fresh, renamed := known.take(b, i)
			if fresh {
				counted++
			}
			if fresh || renamed {
				if id := b.Get64(flow.FlowID, i); last[id] <= b.Get32(flow.Version, i) {
					last[id] = b.Get32(flow.Version, i)
				} else {
					t.Errorf("row %d went back to version %d", id, b.Get32(flow.Version, i))
				}
			}
		}
	}
	if counted != batches*rows || len(last) != counted {
		t.Errorf("%d rows counted, %d different, want %d", counted, len(last), batches*rows)
	}
}

// TestTheRecipeIsInTheDocs keeps both the same.
func TestTheRecipeIsInTheDocs(t *testing.T) {
	source, err := os.ReadFile("recipe_test.go")
	if err != nil {
		t.Fatal(err)
	}
	docs, err := os.ReadFile("../../../docs/delivery.md")
	if err != nil {
		t.Fatal(err)
	}
	_, recipe, _ := strings.Cut(string(source), "// recipe begins\n")
	recipe, _, found := strings.Cut(recipe, "\n// recipe ends")
	if lines := strings.Count(recipe, "\n"); !found || lines >= 30 {
		t.Errorf("%d lines", lines)
	}
	if !strings.Contains(string(docs), "```go\n"+recipe+"```\n") {
		t.Error("docs/delivery.md has another recipe")
	}
}
