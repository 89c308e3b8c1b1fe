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

// reading is the last that an exporter said of its counters in the window, or before it.
type reading struct {
	Exporter string            `json:"exporter_id"`
	Host     string            `json:"host"`
	Minute   int64             `json:"minute_s"`
	Last     int64             `json:"last"`
	Inside   uint8             `json:"inside"`
	Read     int64             `json:"read"`
	Lost     map[string]uint64 `json:"lost"`
	GapFrom  int64             `json:"gap_from_s"` // what the run before this one did not see; 0: nothing is known of one
	GapTo    int64             `json:"gap_to_s"`
	Killed   uint8             `json:"killed"`
}

// readingsSQL keeps of an exporter its last reading before the window and its last in it: counters run on, so these are enough, and all others make a day of 100
// exporters last 10 s.
const readingsSQL = `SELECT exporter_id, host, toUnixTimestamp(minute) AS minute_s, toUnixTimestamp(read_time_ns) AS last, toUInt8($inside) AS inside,
    toInt64(counters['ring.read'] + counters['ring.walked']) AS read, mapFilter((name, n) -> n > 0 AND $loss, counters) AS lost,
    toInt64(intDiv(counters['gap.from_ns'], 1000000000)) AS gap_from_s, toInt64(intDiv(counters['gap.to_ns'], 1000000000)) AS gap_to_s, toUInt8(counters['gap.killed'] = 1) AS killed
FROM $database.exporter_health FINAL
WHERE $known AND (exporter_id, minute) IN (SELECT exporter_id, max(minute) FROM $database.exporter_health WHERE $known GROUP BY exporter_id, $inside)`

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
	readings, err := collect[reading](ctx, c, strings.NewReplacer("$database", c.database(), "$known", known.condition("minute"), "$inside", inside.condition("minute"),
		"$loss", schema.LossCondition).Replace(readingsSQL), nil)
	if err != nil {
		return nil, err
	}
	lines := append(lossLines(readings), gapLines(readings, w.since, until)...)
	return append(lines, silentLines(readings, heard, until.Add(-silentAfter))...), nil
}

// losses adds up what was captured and lost between the readings before a window and in it, as the view exporter_completeness does.
func losses(readings []reading) (captured uint64, lost map[string]uint64, counted int) {
	before := map[string]*reading{}
	for i := range readings {
		if readings[i].Inside == 0 {
			before[readings[i].Exporter] = &readings[i]
		}
	}
	lost = map[string]uint64{}
	for i := range readings {
		r := &readings[i]
		if r.Inside == 0 {
			continue
		}
		counted++
		from := before[r.Exporter]
		if from == nil || from.progress() > r.progress() { // its clock was set: what had counted more came later
			from = &reading{}
		}
		captured += uint64(max(0, r.Read-from.Read))
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
	return captured, lost, counted
}

// progress grows as an exporter counts.
func (r *reading) progress() uint64 {
	sum := uint64(max(0, r.Read))
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
	gaps = slices.CompactFunc(gaps, func(a, b reading) bool { return a.Exporter == b.Exporter }) // before the window and in it
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
		lines = append(lines, fmt.Sprintf("nor what %d more exporters did not see", more))
	}
	return lines
}

// maxSilent hosts are named.
const maxSilent = 3

// silentLines name the hosts of which something was heard since a moment, and nothing after another.
func silentLines(readings []reading, since, after time.Time) []string {
	last := map[string]int64{}
	for _, r := range readings {
		if r.Minute >= since.Unix() {
			last[r.Host] = max(last[r.Host], r.Last)
		}
	}
	maps.DeleteFunc(last, func(_ string, at int64) bool { return at >= after.Unix() })
	hosts := slices.SortedFunc(maps.Keys(last), func(a, b string) int { return cmp.Or(cmp.Compare(last[b], last[a]), strings.Compare(a, b)) })
	var lines []string
	for _, host := range hosts[:min(len(hosts), maxSilent)] {
		lines = append(lines, fmt.Sprintf("nothing is known of host %s after %s: its exporter has not been heard since", host, time.Unix(last[host], 0).UTC().Format(time.RFC3339)))
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
