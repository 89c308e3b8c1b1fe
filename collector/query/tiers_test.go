package query

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

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
		for _, p := range (coverage{written: at(test.written)}).fromWritten(tiers) {
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
