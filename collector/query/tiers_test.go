package query

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestGens: which generations of a plan are known from the look at what has been computed, and which the statement has to look up.
func TestGens(t *testing.T) {
	at := func(hour, minute int) time.Time { return time.Date(2026, 11, 21, hour, minute, 0, 0, time.UTC) }
	gen := func(t time.Time, gen, mapped uint64) generation { return generation{uint64(t.Unix()), gen, mapped} }
	c := coverage{
		minuteGens: []generation{gen(at(8, 59), 1, 0), gen(at(11, 0), 2, 0), gen(at(11, 1), 3, 0)}, gensBefore: at(9, 0), gensSince: at(11, 0),
		hourGens: []generation{gen(at(9, 0), 4, 0), gen(at(10, 0), 5, 1)},
	}
	lookup := func(step string) string {
		return "(SELECT start, gen FROM db.closed_latest WHERE step = '" + step + "'"
	}
	literal := func(all ...generation) string {
		var out []string
		for _, g := range all {
			out = append(out, fmt.Sprintf("(%d, %d)", g[0], g[1]))
		}
		return "(" + strings.Join(out, ", ") + ")"
	}
	for _, test := range []struct {
		window window
		more   []window
		want   string
	}{
		{window{at(8, 30), at(9, 0)}, []window{{at(11, 0), at(11, 1)}}, literal(c.minuteGens[0], c.minuteGens[1])},
		{window{at(9, 30), at(9, 40)}, nil, lookup("minute")},  // the whole hour was not computed
		{window{at(10, 0), at(11, 30)}, nil, lookup("minute")}, // hours lag behind
		{window{at(11, 2), at(11, 30)}, nil, ""},
	} {
		got := c.minutesIn("db", append(test.more, test.window))
		if (test.want == "") != (got == "") || !strings.HasPrefix(got, test.want) {
			t.Errorf("minutes of %v: %s, want %s", test.window, got, test.want)
		}
	}
	both := []window{{at(9, 0), at(11, 0)}}
	if mapped, others := c.hoursIn("db", both, true); mapped != literal(c.hourGens[1]) || others != literal(c.hourGens[0]) {
		t.Errorf("%s and %s", mapped, others)
	}
	if mapped, others := c.hoursIn("db", both, false); mapped != "" || others != literal(c.hourGens...) {
		t.Errorf("of releases: %s and %s", mapped, others)
	}
	if mapped, others := c.hoursIn("db", []window{{at(3, 0), at(4, 0)}}, true); mapped+others != "" {
		t.Errorf("no hours: %s and %s", mapped, others)
	}
	c.hourGens = make([]generation, maxGens+1)
	if mapped, others := c.hoursIn("db", both, true); mapped != "" || !strings.HasPrefix(others, lookup("hour")) {
		t.Errorf("more than fit into a statement: %s and %.100s", mapped, others)
	}
}

// TestPlan: which table answers for which part of a window, at 12:00:30 with minutes computed from 06:00 to 11:59 and hours to 11:00.
func TestPlan(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 30, 0, time.UTC)
	at := func(text string) time.Time {
		if text == "" {
			return time.Time{}
		}
		moment, err := time.Parse(time.DateTime, "2026-11-21 "+text)
		if err != nil {
			t.Fatal(err)
		}
		return moment
	}
	minutes, hours := span{at("06:00:00"), at("11:59:00")}, span{at("06:00:00"), at("11:00:00")}
	for _, test := range []struct {
		since, until, written, want string
		known                       bool
	}{
		{"", "", "12:00:00", "hours 06:00:00-11:00:00, minutes 11:00:00-11:59:00, flows 11:59:00-", true}, // nothing was written before
		{"08:30:10", "", "12:00:00", "minutes 08:30:00-09:00:00, hours 09:00:00-11:00:00, minutes 11:00:00-11:59:00, flows 11:59:00-", true},
		{"08:30:10", "", "11:58:00", "minutes 08:30:00-09:00:00, hours 09:00:00-11:00:00, minutes 11:00:00-11:59:00", true},       // nothing was written since
		{"11:30:10", "11:58:50", "12:00:00", "flows 11:30:10-11:31:00, minutes 11:31:00-11:57:00, flows 11:57:00-11:58:50", true}, // back to what lives then
		{"11:00:00", "11:58:00", "12:00:00", "minutes 11:00:00-11:56:00, flows 11:56:00-11:58:00", true},
		{"07:00:00", "08:00:20", "12:00:00", "hours 07:00:00-08:00:00, flows 08:00:00-08:00:20", false}, // long ago: single records may be gone
		{"07:00:00", "08:00:00", "12:00:00", "hours 07:00:00-08:00:00", false},
		{"12:00:00", "", "12:00:00", "flows 12:00:00-", false},
		{"11:50:00", "", "11:40:00", "minutes 11:50:00-11:59:00", true},
		{"05:00:00", "05:30:00", "12:00:00", "flows 05:00:00-05:30:00", true},
		{"12:00:10", "", "11:40:00", "flows 12:00:10-", false}, // one part is left
	} {
		w := window{at(test.since), at(test.until)}
		tiers := plan(w, minutes, hours, now)
		_, known := livesFrom(tiers, endOf(w, now))
		var got []string
		for _, p := range (&coverage{firstWritten: at("06:00:00"), written: at(test.written)}).fromWritten(tiers) {
			text := fmt.Sprintf("%s %s-", map[tierSource]string{fromFlows: "flows", fromMinutes: "minutes", fromHours: "hours"}[p.from], p.window.since.Format(time.TimeOnly))
			if !p.window.until.IsZero() {
				text += p.window.until.Format(time.TimeOnly)
			}
			got = append(got, text)
		}
		if text := strings.Join(got, ", "); text != test.want || known != test.known {
			t.Errorf("%s to %q: %s (%v), want %s", test.since, test.until, text, known, test.want)
		}
	}
}

// TestLatest: more records, then better names, then the later computation; and all of them where there are too many to tell.
func TestLatest(t *testing.T) {
	got := latest([]computation{{120, 7, 1, 10, 5}, {60, 9, 0, 10, 4}, {60, 3, 1, 11, 0}, {180, 5, 0, 10, 5}, {180, 6, 1, 10, 5}, {240, 8, 0, 1, 3}, {240, 9, 1, 1, 2}})
	want := []generation{{60, 3, 1}, {120, 7, 1}, {180, 6, 1}, {240, 8, 0}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := latest(make([]computation, maxGens+1)); len(got) != maxGens+1 {
		t.Errorf("%d of too many", len(got))
	}
}
