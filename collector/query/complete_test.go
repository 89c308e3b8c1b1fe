package query

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema/schematest"
)

func TestLosses(t *testing.T) {
	before := func(read uint64, lost map[string]uint64) reading {
		return reading{Exporter: "a", Host: "h", Read: read, Lost: lost}
	}
	inside := func(read uint64, lost map[string]uint64) reading {
		return reading{Exporter: "a", Host: "h", Inside: 1, Read: read, Lost: lost}
	}
	for _, c := range []struct {
		name     string
		readings []reading
		captured uint64
		lost     map[string]uint64
	}{
		{"nobody heard in the window", []reading{before(10, nil)}, 0, nil},
		{"the first reading of all", []reading{inside(10, map[string]uint64{"probe.ring_full": 2})}, 12, map[string]uint64{"probe.ring_full": 2}},
		{
			"what was read and then dropped is captured once",
			[]reading{inside(110, map[string]uint64{"spool.dropped_rows_age": 5}), before(100, map[string]uint64{"spool.dropped_rows_age": 1})},
			10,
			map[string]uint64{"spool.dropped_rows_age": 4},
		},
		{"twice in one minute", []reading{before(90, nil), before(100, nil), inside(120, nil), inside(130, nil)}, 30, nil},
		{"lost before the window", []reading{before(100, map[string]uint64{"ring.invalid": 7}), inside(130, map[string]uint64{"ring.invalid": 7})}, 30, nil},
		{"a clock was set: what counted more came later", []reading{before(200, nil), inside(150, nil)}, 150, nil},
	} {
		captured, lost, _ := losses(c.readings)
		if captured != c.captured || len(lost)+len(c.lost) > 0 && !cmp.Equal(lost, c.lost) {
			t.Errorf("%s: captured %d, lost %v; want %d, %v", c.name, captured, lost, c.captured, c.lost)
		}
	}
}

// TestSilent: a host is heard as long as one of its exporters is.
func TestSilent(t *testing.T) {
	at := func(host string, second int64) reading {
		return reading{Host: host, Minute: second / 60 * 60, Last: second * 1e9}
	}
	readings := []reading{at("old", 30), at("replaced", 650), at("replaced", 1000), at("e", 700), at("d", 710), at("c", 710), at("b", 690)}
	got := silentLines(readings, time.Unix(600, 0), time.Unix(910, 0))
	want := []string{
		"nothing is known of host c after 1970-01-01T00:11:50Z: its exporter has not been heard since",
		"nothing is known of host d after 1970-01-01T00:11:50Z: its exporter has not been heard since",
		"nothing is known of host e after 1970-01-01T00:11:40Z: its exporter has not been heard since",
		"nor of 1 more hosts",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestGaps: what a run did not see is told where it touches the window, once, the newest first.
func TestGaps(t *testing.T) {
	gap := func(host string, from, to int64, killed uint8) reading {
		return reading{Exporter: "run-of-" + host, Host: host, GapFrom: from, GapTo: to, Killed: killed}
	}
	readings := []reading{
		{Exporter: "first", Host: "first"}, gap("a", 100, 130, 1), gap("a", 100, 130, 1), gap("early", 10, 20, 1), gap("late", 400, 500, 1), gap("b", 290, 400, 0),
	}
	want := []string{
		"host b was not seen whole from 1970-01-01T00:04:50Z to 1970-01-01T00:06:40Z: an exporter on it was stopped and started again",
		"host a was not seen whole from 1970-01-01T00:01:40Z to 1970-01-01T00:02:10Z: an exporter on it was killed and started again",
	}
	if diff := cmp.Diff(want, gapLines(readings, time.Unix(120, 0), time.Unix(300, 0))); diff != "" {
		t.Error(diff)
	}
	if got := gapLines(readings, time.Time{}, time.Unix(1000, 0)); len(got) != 4 || got[3] != "nor what went unseen in 1 more gaps like these" {
		t.Error(got)
	}
	again := append(readings, gap("a", 200, 210, 1), gap("a", 200, 210, 1))
	if got := gapLines(again, time.Unix(120, 0), time.Unix(300, 0)); len(got) != 3 || !strings.HasPrefix(got[1], "host a was not seen whole from 1970-01-01T00:03:20Z to 1970-01-01T00:03:30Z") {
		t.Error(got)
	}
}

// TestEachRestartIsNamed: also those that a later one hides in the last reading.
func TestEachRestartIsNamed(t *testing.T) {
	s := migrated(t)
	at := time.Now().UTC().Truncate(time.Minute).Add(-time.Hour)
	for i, from := range []int{0, -60, 5, 20, 20, 20} { // minutes after at
		gap := at.Add(time.Duration(from) * time.Minute)
		read := at.Add(time.Duration(10*i) * time.Minute).Unix()
		schematest.Query(t, s, fmt.Sprintf(`INSERT INTO %s.exporter_health (minute, exporter_id, host, read_time_ns, counters)
SELECT toDateTime(%d, 'UTC'), 'e', 'h', fromUnixTimestamp64Nano(%d), map('ring.read', 1, 'gap.from_ns', %d, 'gap.to_ns', %d, 'gap.killed', 1)`,
			s.Database, read, read*1e9, gap.UnixNano(), gap.Add(2*time.Second).UnixNano()))
	}
	lines, err := client(t, s).completeness(t.Context(), window{at.Add(-time.Minute), at.Add(59 * time.Minute)}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	gaps := slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, "not seen whole") })
	for i, from := range []int{20, 5, 0} {
		if want := "from " + at.Add(time.Duration(from)*time.Minute).Format(time.RFC3339); len(gaps) != 3 || !strings.Contains(gaps[i], want) {
			t.Errorf("%q, want %s", gaps, want)
		}
	}
}
