package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A seed is a plan, which survives being written; nothing in it meets what comes before at the same target.
func TestPlan(t *testing.T) {
	p := newPlan(7, 3, 2, time.Minute)
	if d := cmp.Diff(p, newPlan(7, 3, 2, time.Minute)); d != "" {
		t.Errorf("the same seed is another plan:\n%s", d)
	}
	path := filepath.Join(t.TempDir(), "plan.json")
	if err := p.write(path); err != nil {
		t.Fatal(err)
	}
	again, err := readPlan(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, again); d != "" {
		t.Errorf("read back:\n%s", d)
	}
	for _, faults := range p.Rounds {
		until := map[string]time.Duration{}
		for _, f := range faults {
			if f.At < until[f.Target] {
				t.Errorf("%+v begins before the last fault of its target is over", f)
			}
			until[f.Target] = f.At + f.For
			if f.Kind == Full && f.Target == replayer(0) {
				until[f.Target] += spoolRetries
			}
		}
	}
}

func TestPlansThatCannotBe(t *testing.T) {
	for name, text := range map[string]string{
		"rubbish":          `{`,
		"nothing":          `{}`,
		"too many":         `{"replayers": 1000, "rounds": [[]]}`,
		"unknown target":   `{"replayers": 1, "rounds": [[{"at_ns": 0, "kind": "kill", "target": "replay-1"}]]}`,
		"unknown kind":     `{"replayers": 1, "rounds": [[{"at_ns": 0, "kind": "burn", "target": "live"}]]}`,
		"kill of a link":   `{"replayers": 1, "rounds": [[{"at_ns": 0, "kind": "kill", "target": "kafka-link"}]]}`,
		"before the start": `{"replayers": 1, "rounds": [[{"at_ns": -1, "kind": "kill", "target": "live"}]]}`,
	} {
		path := filepath.Join(t.TempDir(), "plan.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPlan(path); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestLedger: results add up by commit, and a round that found something does not count.
func TestLedger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	for _, r := range []Result{
		{Commit: "a", Seconds: 60, Counts: Counts{ExporterKills: 10, StoreKills: 1}, Moving: 2, Notes: map[string]float64{"rows": 1_246_875}},
		{Commit: "b", Seconds: 60, Counts: Counts{ExporterKills: 5}, Moving: 3},
		{Commit: "a", Seconds: 60, Counts: Counts{ExporterKills: 7, PowerCuts: 2}, Moving: 1, Notes: map[string]float64{"rows": 100, "ends": 3}},
		{Commit: "a", Seconds: 60, Counts: Counts{ExporterKills: 1000}, Moving: 50, Wrong: []string{"lost"}, Notes: map[string]float64{"rows": 1e7, "wrong": 1}},
	} {
		if err := r.record(path); err != nil {
			t.Fatal(err)
		}
	}
	all, err := readLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	sum(&out, all)
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{"a 3 1 3 17 0 0 1 0 0 2 0 0 2.0", "b 1 0 1 5 0 0 0 0 0 0 0 0 3.0", "all 4 1 4 22 0 0 1 0 0 2 0 0 3.0"}
	if d := cmp.Diff(want, got[1:4]); d != "" {
		t.Errorf("sums:\n%s", d)
	}
	want = []string{"noted by rounds that found nothing most sum", "ends 3 3", "rows 1246875 1246975"}
	if d := cmp.Diff(want, got[6:]); d != "" {
		t.Errorf("notes:\n%s", d)
	}
}

// TestFoundPlans: the plans that found something can still be done.
func TestFoundPlans(t *testing.T) {
	found, err := filepath.Glob("testdata/found/*.json")
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	for _, path := range append(found, "testdata/short.json") {
		if _, err := readPlan(path); err != nil {
			t.Error(err)
		}
	}
}
