package query

import (
	"context"
	"fmt"
	"strings"
	"time"

	"tributary/collector/schema"
)

// tier answers for a part of a window from one table. The zero time is no bound.
type tier struct {
	from   tierSource
	window window
}

type tierSource uint8

const (
	fromFlows tierSource = iota
	fromMinutes
	fromHours
)

// span is the time that the computed edges of one resolution cover: [first, end). Where it holds nothing, nothing was recorded.
type span struct{ first, end time.Time }

func (s span) empty() bool { return !s.first.Before(s.end) }

// minutesKept is for how long edges_1m surely has its rows.
const minutesKept = 29 * 24 * time.Hour

type coverageRow struct {
	Step  string `json:"step"`
	First int64  `json:"first"`
	Last  int64  `json:"last"`
}

// coverage asks what has been computed.
func (c *Client) coverage(ctx context.Context) (minutes, hours span, err error) {
	rows, err := collect[coverageRow](ctx, c, "SELECT step, toUnixTimestamp(min(start)) AS first, toUnixTimestamp(max(start)) AS last FROM "+c.database()+".closed GROUP BY step", nil)
	for _, r := range rows {
		s := span{time.Unix(r.First, 0), time.Unix(r.Last, 0)}
		if r.Step == "minute" {
			minutes = span{s.first, s.end.Add(time.Minute)}
		} else {
			hours = span{s.first, s.end.Add(time.Hour)}
		}
	}
	return minutes, hours, err
}

// wholeMinutes is how long a window must reach back to begin with a whole minute: single records of a part of one are not worth their reading.
const wholeMinutes = time.Hour

// plan cuts a window into parts: whole hours and whole minutes that have been computed, and the rest from single records.
func plan(w window, minutes, hours span, now time.Time) []tier {
	if !w.since.IsZero() && now.Sub(w.since) > wholeMinutes {
		w.since = w.since.Truncate(time.Minute)
	}
	a, b := ceil(w.since, time.Minute), minutes.end
	if a.Before(minutes.first) {
		a = minutes.first
	}
	if a.Before(now.Add(-minutesKept)) {
		a = ceil(a, time.Hour)
	}
	if u := w.until; !u.IsZero() && u.Before(b) {
		b = u.Truncate(time.Minute)
	}
	if minutes.empty() || !a.Before(b) {
		return []tier{{fromFlows, w}}
	}
	var out []tier
	if w.since.Before(a) {
		out = append(out, tier{fromFlows, window{w.since, a}})
	}
	out = append(out, wholeHours(window{a, b}, hours)...)
	if w.until.IsZero() || b.Before(w.until) {
		out = append(out, tier{fromFlows, window{b, w.until}})
	}
	return out
}

func wholeHours(w window, hours span) []tier {
	a, b := ceil(w.since, time.Hour), w.until.Truncate(time.Hour)
	if a.Before(hours.first) {
		a = hours.first
	}
	if hours.end.Before(b) {
		b = hours.end
	}
	if hours.empty() || !a.Before(b) {
		return []tier{{fromMinutes, w}}
	}
	var out []tier
	if w.since.Before(a) {
		out = append(out, tier{fromMinutes, window{w.since, a}})
	}
	out = append(out, tier{fromHours, window{a, b}})
	if b.Before(w.until) {
		out = append(out, tier{fromMinutes, window{b, w.until}})
	}
	return out
}

func ceil(t time.Time, step time.Duration) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(step - 1).Truncate(step)
}

// sqlTime writes a time, or the given one where there is none.
func sqlTime(t time.Time, none string) string {
	if t.IsZero() {
		return none
	}
	return fmt.Sprintf("fromUnixTimestamp64Nano(%d, 'UTC')", t.UnixNano())
}

// Bounds where a window has none.
const (
	beginning = "toDateTime64('1970-01-02 00:00:00', 9, 'UTC')"
	never     = "toDateTime64('2200-01-01 00:00:00', 9, 'UTC')"
)

// livesFrom returns from when on the last of the tiers shows which connections live at a moment, if it does: it reads single records up to it
// and from long enough before.
func livesFrom(tiers []tier, at time.Time) (time.Time, bool) {
	last := tiers[len(tiers)-1]
	from := at.Add(-aliveWithin)
	until := last.window.until
	return from, last.from == fromFlows && (until.IsZero() || until.Equal(at)) && last.window.since.Before(from)
}

// edgesIn returns a SELECT of the rows of edges in a window, in the columns of schema.EdgeColumns, and of which of them are of the single records
// since a moment.
func (c *Client) edgesIn(tiers []tier, lively time.Time) string {
	columns := strings.Join(schema.EdgeColumns(), ", ")
	parts := make([]string, len(tiers))
	for i, t := range tiers {
		from, to := sqlTime(t.window.since, beginning), sqlTime(t.window.until, never)
		switch t.from {
		case fromFlows:
			at := "toDateTime(end_time_ns >= " + sqlTime(lively, never) + ", 'UTC')"
			parts[i] = "SELECT " + columns + ", minute = toDateTime(1, 'UTC') AS lively FROM (" + schema.EdgesOf(c.database(), at, from, to, schema.Part{}) + ")"
		case fromMinutes:
			parts[i] = c.computed(columns, "minute", "edges_1m_gens", from, to)
		case fromHours:
			parts[i] = c.computed(columns, "hour", "edges_1h_gens", from, to)
		}
	}
	return strings.Join(parts, "\nUNION ALL\n")
}

func (c *Client) computed(columns, step, table, from, to string) string {
	return strings.NewReplacer("$columns", columns, "$step", step, "$table", table, "$from", from, "$to", to, "$database", c.database()).Replace(
		`SELECT $columns, 0 AS lively FROM $database.$table WHERE $step >= $from AND $step < $to
    AND ($step, gen) IN (SELECT start, gen FROM $database.closed_latest WHERE step = '$step' AND start >= $from AND start < $to)`)
}
