package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is one line of the ledger: what a finished round did, and what it found.
type Result struct {
	Commit  string             `json:"commit"`
	Seed    uint64             `json:"seed"`
	Round   int                `json:"round"`
	Ended   time.Time          `json:"ended"`
	Seconds float64            `json:"seconds"`
	Counts  Counts             `json:"counts"`
	Moving  float64            `json:"moving_again_seconds"` // after the last fault
	Notes   map[string]float64 `json:"notes"`
	Wrong   []string           `json:"wrong,omitempty"`
}

// record appends a result to the ledger.
func (r Result) record(path string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err = f.Write(append(text, '\n')); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// readLedger returns all results of a ledger.
func readLedger(path string) (all []Result, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for in := json.NewDecoder(bufio.NewReader(f)); ; {
		var r Result
		err := in.Decode(&r)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, r)
	}
}

func (c Counts) plus(d Counts) Counts {
	return Counts{
		c.ExporterKills + d.ExporterKills, c.LiveKills + d.LiveKills, c.CollectorKills + d.CollectorKills, c.StoreKills + d.StoreKills,
		c.CutsBefore + d.CutsBefore, c.FullDisks + d.FullDisks, c.PowerCuts + d.PowerCuts, c.Stops + d.Stops, c.LinkFaults + d.LinkFaults,
	}
}

// bar is what the whole campaign is to reach.
var bar = Counts{ExporterKills: 1000, CollectorKills: 1000, StoreKills: 300, CutsBefore: 1000, FullDisks: 100, PowerCuts: 50}

// sum prints what a ledger adds up to, by commit and in all. Rounds that found something are counted apart, and nothing they did or noted counts.
func sum(out io.Writer, all []Result) {
	var commits []string
	by, total := map[string]*account{}, &account{}
	for _, r := range all {
		if by[r.Commit] == nil {
			commits = append(commits, r.Commit)
			by[r.Commit] = &account{}
		}
		by[r.Commit].add(r)
		total.add(r)
	}
	slices.Sort(commits)
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "commit\trounds\tfailed\tminutes\texporter kills\t(live)\tcollector kills\tstore kills\tcuts before answer\tfull disks\tpower cuts\tstops\tlink faults\tslowest recovery s\t")
	for _, c := range commits {
		by[c].print(w, c)
	}
	total.print(w, "all")
	(&account{counts: bar}).print(w, "bar")
	w.Flush()
	fmt.Fprintln(out)
	sumNotes(out, all)
}

// sumNotes prints what the rounds noted that found nothing.
func sumNotes(out io.Writer, all []Result) {
	most, sums := map[string]float64{}, map[string]float64{}
	for _, r := range all {
		if len(r.Wrong) > 0 {
			continue
		}
		for what, n := range r.Notes {
			most[what] = max(most[what], n)
			sums[what] += n
		}
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "noted by rounds that found nothing\tmost\tsum")
	for _, what := range slices.Sorted(maps.Keys(most)) {
		fmt.Fprintf(w, "%s\t%.10g\t%.10g\n", what, most[what], sums[what])
	}
	w.Flush()
}

// account is what some rounds add up to.
type account struct {
	rounds, failed  int
	seconds, moving float64
	counts          Counts
}

func (a *account) add(r Result) {
	a.rounds++
	a.seconds += r.Seconds
	if len(r.Wrong) > 0 {
		a.failed++
		return
	}
	a.moving = max(a.moving, r.Moving)
	a.counts = a.counts.plus(r.Counts)
}

func (a *account) print(w io.Writer, name string) {
	c := a.counts
	fmt.Fprintf(w, "%s\t%d\t%d\t%.0f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%.1f\t\n", name, a.rounds, a.failed, a.seconds/60, c.ExporterKills, c.LiveKills,
		c.CollectorKills, c.StoreKills, c.CutsBefore, c.FullDisks, c.PowerCuts, c.Stops, c.LinkFaults, a.moving)
}
