package assignment

import (
	"maps"
	"math/rand/v2"
	"testing"
)

// TestOverlapping: what a comparison of each with each finds, and not in the square of their number.
func TestOverlapping(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		list := make([]span, random.IntN(8))
		for i := range list {
			list[i].workload, list[i].from = string(rune('a'+i)), random.Int64N(10)
			if random.IntN(4) > 0 {
				list[i].to = list[i].from + 1 + random.Int64N(5)
			}
		}
		meet := func(a, b span) bool { return a.from < b.end() && b.from < a.end() }
		want := map[string]bool{}
		for i := range list {
			for j := range list[:i] {
				if meet(list[i], list[j]) {
					want[list[i].workload], want[list[j].workload] = true, true
				}
			}
		}
		got := map[string]bool{}
		for _, c := range overlapping(list) {
			if c.workload == c.other.workload || !meet(c.span, c.other) || got[c.workload] {
				t.Fatalf("%+v does not contradict %+v, or comes twice", c.span, c.other)
			}
			got[c.workload] = true
		}
		if !maps.Equal(want, got) {
			t.Fatalf("%+v: %v, want %v", list, got, want)
		}
	}
	many := make([]span, maxAddresses)
	for i := range many {
		many[i].from = int64(i)
	}
	if n := len(overlapping(many)); n != len(many) {
		t.Errorf("%d of %d", n, len(many))
	}
}
