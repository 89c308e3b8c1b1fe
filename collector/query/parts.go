package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tributary/collector/schema"
)

// Every table that has a part of the edges of a window is asked in a statement of its own, all of them at the same time: ClickHouse analyses
// one table in a third of the time of three in one statement, and does so with one thread (docs/schema.md). Sums and histograms add up here.

// partRow is an edge as one table knows it.
type partRow struct {
	Edge
	rtt, connect histogram
}

// add adds the same edge as another table knows it.
func (r *partRow) add(other *partRow) {
	r.Edge.add(&other.Edge)
	r.rtt, r.connect = append(r.rtt, other.rtt...), append(r.connect, other.connect...)
}

func (r *partRow) edge() Edge {
	e := r.Edge
	e.RttUsP50, e.RttUsP95, e.RttUsP99 = r.rtt.quantiles()
	e.ConnectUsP50, e.ConnectUsP95, e.ConnectUsP99 = r.connect.quantiles()
	return e
}

// askParts asks all statements at once and returns the edges, in order.
func (c *Client) askParts(ctx context.Context, statements []string, f edgeFilter) ([]Edge, error) {
	rows := make([][]partRow, len(statements))
	errs := make([]error, len(statements))
	var all sync.WaitGroup
	for i, statement := range statements {
		all.Go(func() { rows[i], errs[i] = c.part(ctx, statement, f.params) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	sums := map[edgeOf]*partRow{}
	for _, part := range rows {
		for i := range part {
			if sum := sums[part[i].key()]; sum != nil {
				sum.add(&part[i])
			} else {
				sums[part[i].key()] = &part[i]
			}
		}
	}
	out := make([]Edge, 0, len(sums))
	for _, sum := range sums {
		out = append(out, sum.edge())
	}
	slices.SortFunc(out, inOrder)
	return out, nil
}

// inOrder sorts by name, ends without one last.
func inOrder(a, b Edge) int {
	last := func(name string) int {
		if name == "" {
			return 1
		}
		return 0
	}
	return cmp.Or(last(a.ClientWorkload)-last(b.ClientWorkload), strings.Compare(a.ClientWorkload, b.ClientWorkload),
		last(a.ServerWorkload)-last(b.ServerWorkload), strings.Compare(a.ServerWorkload, b.ServerWorkload),
		cmp.Compare(a.ServerPort, b.ServerPort), strings.Compare(a.ClientWhy, b.ClientWhy), strings.Compare(a.ServerWhy, b.ServerWhy))
}

// parts returns the statements whose rows add up to the edges of the tiers that pass a filter. open and unanswered are those of the single records since
// lively, if any.
func (c *Client) parts(covered coverage, tiers []tier, lively time.Time, f edgeFilter) []string {
	var out []string
	var minutes, hours []window
	for _, t := range covered.fromWritten(tiers) {
		switch t.from {
		case fromFlows:
			out = append(out, schema.MapOf(c.database(), sqlTime(t.window.since, beginning), sqlTime(t.window.until, never), sqlTime(lively, never), f.condition))
		case fromMinutes:
			minutes = append(minutes, t.window)
		case fromHours:
			hours = append(hours, t.window)
		}
	}
	if len(minutes) > 0 {
		out = append(out, c.computed("minute", "edges_1m_gens", minutes, covered.minutesIn(c.database(), minutes), f))
	}
	if len(hours) > 0 {
		mapped, others := covered.hoursIn(c.database(), hours, !f.ofReleases)
		out = append(out, c.computed("hour", "map_1h_gens", hours, mapped, f), c.computed("hour", "edges_1h_gens", hours, others, f))
	}
	return slices.DeleteFunc(out, func(text string) bool { return text == "" })
}

// computed returns a SELECT of the computed edges of one table in some windows, of generations that count; "" if there are none.
func (c *Client) computed(step, table string, windows []window, gens string, f edgeFilter) string {
	if gens == "" {
		return ""
	}
	var in []string
	for _, w := range windows {
		in = append(in, w.condition("e."+step))
	}
	text := strings.NewReplacer("$group", edgeGroup, "$sums", schema.ReadEdges(table == "map_1h_gens"), "$step", step, "$table", table, "$in", strings.Join(in, " OR "),
		"$gens", gens, "$database", c.database()).Replace(
		"SELECT $group,\n    $sums\nFROM $database.$table AS e\nWHERE ($in) AND (e.$step, e.gen) IN $gens")
	if f.condition != "" {
		text += " AND (" + f.condition + ")"
	}
	return text + "\nGROUP BY " + edgeGroup
}

// minutesIn returns the generations that count of the minutes in some windows, in SQL.
func (c *coverage) minutesIn(database string, windows []window) string {
	for _, w := range windows {
		if c.gensBefore.Before(w.until) && w.since.Before(c.gensSince) {
			return lookedUp(database, "minute", windows)
		}
	}
	if len(c.minuteGens) > maxGens {
		return lookedUp(database, "minute", windows)
	}
	return literal(c.minuteGens, windows)
}

// hoursIn returns the same of hours: of those that are in map_1h_gens, if that will do, and of the others.
func (c *coverage) hoursIn(database string, windows []window, mapped bool) (string, string) {
	if len(c.hourGens) > maxGens {
		return "", lookedUp(database, "hour", windows)
	}
	if !mapped {
		return "", literal(c.hourGens, windows)
	}
	isMapped := func(g generation) bool { return g[2] > 0 }
	not := func(g generation) bool { return g[2] == 0 }
	return literal(slices.DeleteFunc(slices.Clone(c.hourGens), not), windows), literal(slices.DeleteFunc(slices.Clone(c.hourGens), isMapped), windows)
}

func lookedUp(database, step string, windows []window) string {
	var in []string
	for _, w := range windows {
		in = append(in, w.condition("start"))
	}
	return "(SELECT start, gen FROM " + database + ".closed_latest WHERE step = '" + step + "' AND (" + strings.Join(in, " OR ") + "))"
}

func literal(gens []generation, windows []window) string {
	var list []string
	for _, g := range gens {
		start := time.Unix(int64(g[0]), 0)
		if slices.ContainsFunc(windows, func(w window) bool { return !start.Before(w.since) && start.Before(w.until) }) {
			list = append(list, fmt.Sprintf("(%d, %d)", g[0], g[1]))
		}
	}
	if len(list) == 0 {
		return ""
	}
	return "(" + strings.Join(list, ", ") + ")"
}
