package main

import (
	"fmt"
	"maps"
	"slices"

	"tributary/proto/flow"
)

// report sums up runs.
type report struct {
	score                       *score
	atOnce, patient, heartbeats rival
}

func newReport() *report { return &report{score: newScore()} }

func (r *report) add(s *sim) {
	a, b := r.score, s.score
	for _, p := range [][2]*uint64{
		{&a.rows, &b.rows},
		{&a.named, &b.named},
		{&a.wrong, &b.wrong},
		{&a.nobody, &b.nobody},
		{&a.silent, &b.silent},
		{&a.alone, &b.alone},
		{&a.noWhy, &b.noWhy},
		{&a.silentUnnamed, &b.silentUnnamed},
		{&a.pendingNow, &b.pendingNow},
		{&a.joined, &b.joined},
		{&a.rangesWrong, &b.rangesWrong},
	} {
		*p[0] += *p[1]
	}
	for why, n := range b.unnamed {
		a.unnamed[why] += n
	}
	for what, n := range b.refused {
		a.refused[what] += n
	}
	for i := range b.evidence {
		a.evidence[i] += b.evidence[i]
	}
	for i := range b.delay {
		a.delay[i] += b.delay[i]
	}
	for k := range b.byKind {
		a.byKind[k].add(b.byKind[k])
	}
	a.reused.add(b.reused)
	a.cross.add(b.cross)
	a.disagreed += b.disagreed
	r.atOnce.add(&s.rivals.atOnce)
	r.patient.add(&s.rivals.patient)
	r.heartbeats.add(&s.rivals.heartbeats)
}

func (r *rival) add(o *rival) {
	for k := range r.byKind {
		r.byKind[k].add(o.byKind[k])
	}
	r.reused.add(o.reused)
}

func (t *tally) add(o tally) {
	t.rows += o.rows
	t.wrong += o.wrong
	t.unnamed += o.unnamed
}

func share(n, of uint64) float64 {
	if of == 0 {
		return 0
	}
	return 100 * float64(n) / float64(of)
}

func (r *report) print(faults string, cfg config) {
	k := r.score
	unnamed := k.unnamedTotal()
	fmt.Printf("\nfaults %s, pairs %v: %d look-ups\n", faults, cfg.pairs, k.rows)
	fmt.Printf("wrong                 %d (%.6f %%)\n", k.wrong, share(k.wrong, k.rows))
	fmt.Printf("unnamed               %d (%.4f %%), of them %d of %d attempts towards hosts that stand still\n", unnamed, share(unnamed, k.rows), k.silentUnnamed, k.silent)
	for _, why := range slices.Sorted(maps.Keys(k.unnamed)) {
		fmt.Printf("  %-19s %d (%.4f %%)\n", flow.WhyNames.Name(why), k.unnamed[why], share(k.unnamed[why], k.rows))
	}
	fmt.Printf("without name or why   %d\n", k.noWhy)
	fmt.Printf("towards nobody        %d attempts: any name is counted as wrong\n", k.nobody)
	fmt.Printf("from behind a gateway whose exporter was down  %d: any other name is counted as wrong\n", k.alone)
	fmt.Printf("first handed on as pending  %d (%.3f %%)\n", k.pendingNow, share(k.pendingNow, k.rows))
	fmt.Printf("joined in the store   %d (%.3f %%), among the named\n", k.joined, share(k.joined, k.rows))
	fmt.Printf("mirror and claim disagreed  %.0f; ranges alone would have been wrong in %d rows named by a mirror\n", k.disagreed, k.rangesWrong)
	fmt.Printf("delay to a name       half %.2f s, 90 %% %.2f s, 99 %% %.2f s, 99.9 %% %.2f s\n", k.delayOf(0.5), k.delayOf(0.9), k.delayOf(0.99), k.delayOf(0.999))
	for e, n := range k.evidence {
		if n > 0 {
			fmt.Printf("evidence %-12s %d (%.3f %%)\n", flow.EvidenceNames.Name(uint32(e)), n, share(n, k.rows))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(k.refused)) {
		fmt.Printf("refused: %s %d\n", what, k.refused[what])
	}
	fmt.Printf("\n%-28s %-19s %12s %12s %10s %12s %10s\n", "", "addresses", "look-ups", "wrong", "%", "unnamed", "%")
	line := func(name, what string, t tally) {
		fmt.Printf("%-28s %-19s %12d %12d %10.4f %12d %10.4f\n", name, what, t.rows, t.wrong, share(t.wrong, t.rows), t.unnamed, share(t.unnamed, t.rows))
	}
	for i, c := range k.byKind {
		line("tributary", kind(i).String(), c)
	}
	line("tributary", "reused", k.reused)
	line("tributary", "of other regions", k.cross)
	for _, x := range []struct {
		name string
		r    *rival
	}{{"event stream, at once", &r.atOnce}, {"event stream, all arrived", &r.patient}, {"heartbeats, a minute", &r.heartbeats}} {
		for i, c := range x.r.byKind {
			line(x.name, kind(i).String(), c)
		}
		line(x.name, "reused, routed", x.r.reused)
	}
}

func (k *score) show() {
	for _, s := range k.wrongSamples {
		fmt.Println("  wrong:", s)
	}
	for _, s := range k.unnamedSamples {
		fmt.Println("  unnamed:", s)
	}
}

// passes compares with the bars.
func (r *report) passes(f faults) bool {
	k := r.score
	most := 0.5
	if f == (faults{}) {
		most = 0.01
	}
	return k.wrong == 0 && k.noWhy == 0 && k.disagreed == 0 && share(k.unnamedTotal(), k.rows) <= most
}
