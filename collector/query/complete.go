package query

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
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

// reading is the last that an exporter said of its counters in the window, or before it.
type reading struct {
	Exporter string            `json:"exporter_id"`
	Host     string            `json:"host"`
	Minute   int64             `json:"minute_s"`
	Last     int64             `json:"last"` // unix nanoseconds
	Inside   uint8             `json:"inside"`
	Read     uint64            `json:"read_rows"`
	Lost     map[string]uint64 `json:"lost_rows"`
	GapFrom  int64             `json:"gap_from_s"` // what the run before this one did not see; 0: nothing is known of one
	GapTo    int64             `json:"gap_to_s"`
	Killed   uint8             `json:"killed"`
}

// readingsSQL keeps of an exporter its last reading before the window and its last in it: counters run on, so these are enough, and all others make a day of 100
// exporters last 10 s. Beside these it keeps the first reading of each run that knows what the one before did not see, of the newest so many. Of a minute there may
// be several readings, of which the newest counts.
const readingsSQL = `SELECT exporter_id, host, toUnixTimestamp(minute) AS minute_s, toUnixTimestamp64Nano(read_time_ns) AS last, toUInt8($inside) AS inside, read_rows, lost_rows,
    intDiv(gap_from_ns, 1000000000) AS gap_from_s, intDiv(gap_to_ns, 1000000000) AS gap_to_s, gap_killed = 1 AS killed
FROM $database.exporter_health
WHERE $known AND (exporter_id, minute) IN (
    SELECT exporter_id, max(minute) FROM $database.exporter_health WHERE $known GROUP BY exporter_id, $inside
    UNION ALL
    SELECT exporter_id, min(minute) AS told FROM $database.exporter_health WHERE $known AND gap_from_ns > 0 GROUP BY exporter_id, gap_from_ns, gap_to_ns ORDER BY told DESC LIMIT 10000)
ORDER BY last`

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
	until := endOf(w, now)
	known, inside := window{until: until}, window{until: until}
	heard := until.Add(-24 * time.Hour)
	if !w.since.IsZero() {
		known.since, inside.since = w.since.Add(-readBefore), w.since.Truncate(time.Minute)
		heard = later(heard, w.since.Add(-heardBefore))
	}
	readings, err := collect[reading](ctx, c, strings.NewReplacer("$database", c.database(), "$known", known.condition("minute"), "$inside", inside.condition("minute")).Replace(readingsSQL), nil)
	if err != nil {
		return nil, err
	}
	lines := append(lossLines(readings), gapLines(readings, w.since, until)...)
	return append(lines, silentLines(readings, heard, until.Add(-silentAfter))...), nil
}

// losses adds up what was captured and lost between the readings before a window and in it, as the view exporter_completeness does. Of several readings of an
// exporter the last one counts.
func losses(readings []reading) (captured uint64, lost map[string]uint64, counted int) {
	before, inside := map[string]*reading{}, map[string]*reading{}
	for i := range readings {
		r := &readings[i]
		if r.Inside == 0 {
			before[r.Exporter] = r
		} else {
			inside[r.Exporter] = r
		}
	}
	lost = map[string]uint64{}
	for exporter, r := range inside {
		from := before[exporter]
		if from == nil || from.progress() > r.progress() { // its clock was set: what had counted more came later
			from = &reading{}
		}
		captured += r.Read - min(r.Read, from.Read)
		for name, n := range r.Lost {
			if n <= from.Lost[name] {
				continue
			}
			lost[name] += n - from.Lost[name]
			if strings.HasPrefix(name, "probe.") { // lost before it was read
				captured += n - from.Lost[name]
			}
		}
	}
	return captured, lost, len(inside)
}

// progress grows as an exporter counts.
func (r *reading) progress() uint64 {
	sum := r.Read
	for _, n := range r.Lost {
		sum += n
	}
	return sum
}

func lossLines(readings []reading) []string {
	captured, lost, counted := losses(readings)
	if counted == 0 {
		return []string{"how complete this answer is cannot be said: no exporter has reported its counters in this time"}
	}
	rows := uint64(0)
	for _, n := range lost {
		rows += n
	}
	if rows == 0 {
		return nil
	}
	share := 100 * (1 - float64(min(rows, captured))/float64(max(1, captured)))
	return []string{fmt.Sprintf("this answer is incomplete: %s %% of the records of this time are there; %d of %d were lost (%s)", shareText(share), rows, captured, counts(lost))}
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

// gapLines name the hosts on which no exporter ran for a part of the window, or one that was killed before it had told all that it saw.
func gapLines(readings []reading, since, until time.Time) []string {
	gaps := slices.DeleteFunc(slices.Clone(readings), func(r reading) bool {
		return r.GapFrom == 0 || r.GapFrom >= until.Unix() || !since.IsZero() && r.GapTo < since.Unix()
	})
	slices.SortFunc(gaps, func(a, b reading) int {
		return cmp.Or(cmp.Compare(b.GapTo, a.GapTo), strings.Compare(a.Host, b.Host), strings.Compare(a.Exporter, b.Exporter))
	})
	gaps = slices.CompactFunc(gaps, func(a, b reading) bool {
		return a.Exporter == b.Exporter && a.GapFrom == b.GapFrom && a.GapTo == b.GapTo
	}) // all readings of a run tell of it
	var lines []string
	for _, r := range gaps[:min(len(gaps), maxSilent)] {
		how := "stopped"
		if r.Killed == 1 {
			how = "killed"
		}
		lines = append(lines, fmt.Sprintf("host %s was not seen whole from %s to %s: an exporter on it was %s and started again", r.Host,
			time.Unix(r.GapFrom, 0).UTC().Format(time.RFC3339), time.Unix(r.GapTo, 0).UTC().Format(time.RFC3339), how))
	}
	if more := len(gaps) - maxSilent; more > 0 {
		lines = append(lines, fmt.Sprintf("nor what went unseen in %d more gaps like these", more))
	}
	return lines
}

// maxSilent hosts are named, and as many gaps.
const maxSilent = 3

// silentLines name the hosts of which something was heard since a moment, and nothing after another.
func silentLines(readings []reading, since, after time.Time) []string {
	last := map[string]int64{}
	for _, r := range readings {
		if r.Minute >= since.Unix() {
			last[r.Host] = max(last[r.Host], r.Last)
		}
	}
	maps.DeleteFunc(last, func(_ string, at int64) bool { return at >= after.UnixNano() })
	hosts := slices.SortedFunc(maps.Keys(last), func(a, b string) int { return cmp.Or(cmp.Compare(last[b], last[a]), strings.Compare(a, b)) })
	var lines []string
	for _, host := range hosts[:min(len(hosts), maxSilent)] {
		lines = append(lines, fmt.Sprintf("nothing is known of host %s after %s: its exporter has not been heard since", host, time.Unix(0, last[host]).UTC().Format(time.RFC3339)))
	}
	if more := len(hosts) - maxSilent; more > 0 {
		lines = append(lines, fmt.Sprintf("nor of %d more hosts", more))
	}
	return lines
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
