package query

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
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

// coverage is what has been computed, the first and the last minute to which a record was written, before and after which nothing is to be found in
// single records, and which generations of the computed minutes and hours of a window count.
type coverage struct {
	minutes, hours        span
	firstWritten, written time.Time
	minuteGens, hourGens  []generation
	gensBefore, gensSince time.Time // minuteGens has the minutes of the window before the one and since the other
}

// generation is a computation of the minute or hour that starts at [0], unix seconds, its gen, and 1 for an hour that map_1h_gens has.
type generation [3]uint64

// maxGens are taken over from one statement into the next: it saves a twentieth of a second to look them up twice in every answer.
const maxGens = 2000

// writtenSince tells whether there may be records that ended at or after a moment.
func (c *coverage) writtenSince(at time.Time) bool { return at.Before(c.written.Add(time.Minute)) }

type coverageRow struct {
	Step         string        `json:"step"`
	First        int64         `json:"first"`
	Last         int64         `json:"last"`
	Computations []computation `json:"computations"`
}

// computation is a row of closed: a generation, and how many records and which sum of their versions it covers.
type computation [5]uint64

// Which computation of a minute counts is chosen here: ClickHouse would group all minutes of a month to tell it of those of a window.
const coverageSQL = `SELECT toString(step) AS step, toUnixTimestamp(min(start)) AS first, toUnixTimestamp(max(start)) AS last,
    groupArrayIf($most)((toUnixTimestamp(start), gen, toUInt8(mapped), rows, versions), $window AND (step = 'hour' OR start < $before OR start >= $since)) AS computations
FROM $database.closed
GROUP BY step
UNION ALL
SELECT 'written' AS step, toUnixTimestamp(min(minute)) AS first, toUnixTimestamp(max(minute)) AS last, [] AS computations FROM $database.touched`

// latest returns the generations that count, in order: of several computations the one that covers more records, then better names, then the later one, as in
// the view closed_latest. Of more than maxGens computations it returns all, as some may be missing: they are looked up then.
func latest(all []computation) []generation {
	slices.SortFunc(all, func(a, b computation) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[3], b[3]), cmp.Compare(a[4], b[4]), cmp.Compare(a[1], b[1]))
	})
	var out []generation
	for i, c := range all {
		if len(all) > maxGens || i+1 == len(all) || all[i+1][0] != c[0] {
			out = append(out, generation(c[:3]))
		}
	}
	return out
}

// coverage asks for what is known about a window. Of its minutes those are of interest that are not in whole hours: at its beginning, and in the two hours before
// its end, the last of which has not been computed.
func (c *Client) coverage(ctx context.Context, w window, now time.Time) (coverage, error) {
	out := coverage{gensBefore: ceil(w.since, time.Hour), gensSince: endOf(w, now).Truncate(time.Hour).Add(-time.Hour)}
	aligned := window{w.since.Truncate(time.Hour), w.until}
	statement := strings.NewReplacer("$most", strconv.Itoa(maxGens+1), "$window", aligned.condition("start"), "$before", sqlTime(out.gensBefore, beginning),
		"$since", sqlTime(out.gensSince, ""), "$database", c.database()).Replace(coverageSQL)
	rows, err := collect[coverageRow](ctx, c, statement, nil)
	for _, r := range rows {
		s := span{time.Unix(r.First, 0), time.Unix(r.Last, 0)}
		switch r.Step {
		case "minute":
			out.minutes, out.minuteGens = span{s.first, s.end.Add(time.Minute)}, latest(r.Computations)
		case "hour":
			out.hours, out.hourGens = span{s.first, s.end.Add(time.Hour)}, latest(r.Computations)
		case "written":
			out.firstWritten, out.written = s.first, s.end
		}
	}
	return out, err
}

// wholeMinutes is how long a window must reach back to begin with a whole minute: single records of a part of one are not worth their reading.
const wholeMinutes = time.Hour

// recent is how old single records are that are still kept, whatever their time to live, with room to spare.
const recent = 30 * time.Minute

// plan cuts a window into parts: whole hours and whole minutes that have been computed, and the rest from single records. Those at the end of a
// window that ended lately reach back far enough to show which connections live.
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
	if alive := endOf(w, now).Add(-aliveWithin).Truncate(time.Minute); alive.Before(b) && now.Sub(alive) < recent {
		b = alive
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
	return from, last.from == fromFlows && (until.IsZero() || until.Equal(at)) && !last.window.since.After(from)
}

// fromWritten leaves out single records where none were written.
func (c *coverage) fromWritten(tiers []tier) []tier {
	if first := tiers[0]; len(tiers) > 1 && first.from == fromFlows && !c.firstWritten.Before(first.window.until) {
		tiers = tiers[1:]
	}
	if last := tiers[len(tiers)-1]; len(tiers) > 1 && last.from == fromFlows && !c.writtenSince(last.window.since) {
		return tiers[:len(tiers)-1]
	}
	return tiers
}
