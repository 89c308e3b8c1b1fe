package config

import (
	"fmt"
	"sort"
)

// didYouMean returns ` (did you mean "x"?)` for the known name nearest to a mistyped one, or "" if none is near.
func didYouMean(name string, known []string) string {
	sort.Strings(known)
	best, bestDistance := "", 1+len(name)/3
	for _, candidate := range known {
		if d := distance(name, candidate); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance counts the insertions, deletions and replacements of bytes that turn a into b (Levenshtein).
func distance(a, b string) int {
	// A hostile key may be as long as the file: nothing that long is a typing mistake.
	if len(a) > 128 || len(b) > 128 {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
