package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// checkWorkload returns nil for a workload that has ever been an end of a connection, and else an error that offers the nearest names.
func (c *Client) checkWorkload(ctx context.Context, name string) error {
	type row struct {
		Workload string `json:"workload"`
	}
	from := "SELECT workload FROM " + c.database() + ".workloads "
	if rows, err := collect[row](ctx, c, from+"WHERE workload = {workload:String} LIMIT 1", map[string]string{"workload": name}); err != nil || len(rows) > 0 {
		return err
	}
	rows, err := collect[row](ctx, c, fmt.Sprintf("%sLIMIT %d", from, compared), nil)
	if err != nil {
		return err
	}
	names := make([]string, len(rows))
	for i, r := range rows {
		names[i] = r.Workload
	}
	near := nearest(name, names)
	if len(near) == 0 {
		return fmt.Errorf("no workload is called %q; none has been seen yet", name)
	}
	of := ""
	if len(rows) == compared {
		of = fmt.Sprintf(" (only %d of the names were compared)", compared)
	}
	return fmt.Errorf("no workload is called %q; did you mean %s?%s", name, strings.Join(near, " or "), of)
}

// compared are the names of which the nearest are offered.
const compared = 100_000

// checkWorkloads returns the error of the first of several names of which none has ever been an end of a connection.
func (c *Client) checkWorkloads(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := c.checkWorkload(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

const offered = 3

// nearest returns the names most like the wanted one: those that contain it, then by the number of letters to change.
func nearest(wanted string, names []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	all := make([]candidate, len(names))
	for i, n := range names {
		all[i] = candidate{n, editDistance(wanted, n)}
		if wanted != "" && strings.Contains(n, wanted) {
			all[i].distance = 0
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Or(a.distance-b.distance, strings.Compare(a.name, b.name)) })
	var out []string
	for _, c := range all[:min(len(all), offered)] {
		out = append(out, printable(c.name))
	}
	return out
}

// editDistance counts the bytes to insert, delete or change (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j]+1, last+1)
		}
	}
	return row[len(b)]
}
