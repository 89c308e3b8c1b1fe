package query

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"tributary/collector/schema"
)

// What is said about an answer goes to stderr, in sentences: never between its rows.

// Silence is told of hosts that were heard so long before or in a window, and then not for so long.
const (
	heardBefore = 10 * time.Minute
	silentAfter = 90 * time.Second
)

// readBefore is how long before a window the readings are looked at: an exporter that was cut off for longer has all that it lost meanwhile
// counted in the minute in which it comes back.
const readBefore = 2 * time.Hour

type lossRow struct {
	Captured uint64            `json:"captured"`
	LostRows uint64            `json:"lost_rows"`
	Lost     map[string]uint64 `json:"lost"`
	Readings uint64            `json:"readings"`
}

type silentRow struct {
	Host string `json:"host"`
	Last int64  `json:"last"`
}

// Telling begins to ask how complete an answer about the window is, while the answer itself is asked. What it returns waits for that, and writes it if the
// answer is not complete. The window is as the verbs take it.
func Telling(ctx context.Context, c *Client, since, until string, now Clock) (tell func(io.Writer)) {
	span, err := parseWindow(since, until, now())
	if err != nil {
		return func(io.Writer) {} // the verb says so
	}
	said := make(chan string, 1)
	go func() {
		var text strings.Builder
		c.tell(ctx, span, now(), &text)
		said <- text.String()
	}()
	return func(out io.Writer) { fmt.Fprint(out, <-said) }
}

// tell writes how complete an answer about a window is, if it is not complete. It never spoils the answer: what it cannot find out it says.
func (c *Client) tell(ctx context.Context, w window, now time.Time, out io.Writer) {
	lines, err := c.completeness(ctx, w, now)
	if err != nil {
		lines = []string{"how complete this answer is could not be found out: " + err.Error()}
	}
	for _, line := range lines {
		fmt.Fprintln(out, printable(line))
	}
}

func (c *Client) completeness(ctx context.Context, w window, now time.Time) ([]string, error) {
	until := now
	if !w.until.IsZero() && w.until.Before(now) {
		until = w.until
	}
	var before, heard, inside window
	before.until, heard.until, inside.until = until, until, until
	if !w.since.IsZero() {
		before.since, heard.since, inside.since = w.since.Add(-readBefore), w.since.Add(-heardBefore), w.since.Truncate(time.Minute)
	}
	// Counters run on, so an exporter's last reading before the window and its last in it are enough: all others make a day of 100 exporters last 10 s.
	ends := strings.NewReplacer("$database", c.database(), "$before", before.condition("minute"), "$inside", inside.condition("minute")).Replace(
		"$before AND (exporter_id, minute) IN (SELECT exporter_id, max(minute) FROM $database.exporter_health WHERE $before GROUP BY exporter_id, $inside)")
	var silent []string
	var silentErr error
	var both sync.WaitGroup
	both.Go(func() { silent, silentErr = c.silent(ctx, heard) })
	losses, err := collect[lossRow](ctx, c, "SELECT sum(c.captured) AS captured, sum(c.lost_rows) AS lost_rows, sumMap(c.lost) AS lost, count() AS readings FROM ("+
		schema.CompletenessOf(c.database(), ends)+") AS c WHERE "+inside.condition("c.minute"), nil)
	both.Wait()
	if err != nil {
		return nil, err
	}
	return append(lossLines(losses), silent...), silentErr
}

func lossLines(losses []lossRow) []string {
	if len(losses) != 1 || losses[0].Readings == 0 {
		return []string{"how complete this answer is cannot be said: no exporter has reported its counters in this time"}
	}
	l := losses[0]
	if l.LostRows == 0 {
		return nil
	}
	share := 100 * (1 - float64(min(l.LostRows, l.Captured))/float64(max(1, l.Captured)))
	return []string{fmt.Sprintf("this answer is incomplete: %s %% of the records of this time are there; %d of %d were lost (%s)", shareText(share), l.LostRows, l.Captured, counts(l.Lost))}
}

// shareText never rounds up to 100.
func shareText(percent float64) string {
	text := fmt.Sprintf("%.2f", percent)
	if text == "100.00" {
		return "over 99.99"
	}
	return text
}

// counts writes the largest first.
func counts(by map[string]uint64) string {
	names := make([]string, 0, len(by))
	for name := range by {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(by[b], by[a]), strings.Compare(a, b)) })
	for i, name := range names {
		names[i] = fmt.Sprintf("%s %d", name, by[name])
	}
	return strings.Join(names, ", ")
}

// maxSilent hosts are named.
const maxSilent = 3

// silent names the hosts whose exporters stopped to speak in the window or shortly before it.
func (c *Client) silent(ctx context.Context, w window) ([]string, error) {
	w.since = later(w.since, w.until.Add(-24*time.Hour))
	rows, err := collect[silentRow](ctx, c, fmt.Sprintf("SELECT host, toUnixTimestamp(max(read_time_ns)) AS last FROM %s.exporter_health WHERE %s GROUP BY host HAVING last < %d ORDER BY last DESC, host",
		c.database(), window{w.since, time.Time{}}.condition("minute")+" AND "+window{time.Time{}, w.until.Add(time.Minute)}.condition("minute"), w.until.Add(-silentAfter).Unix()), nil)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, r := range rows[:min(len(rows), maxSilent)] {
		lines = append(lines, fmt.Sprintf("nothing is known of host %s after %s: its exporter has not been heard since", r.Host, time.Unix(r.Last, 0).UTC().Format(time.RFC3339)))
	}
	if more := len(rows) - maxSilent; more > 0 {
		lines = append(lines, fmt.Sprintf("nor of %d more hosts", more))
	}
	return lines, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
