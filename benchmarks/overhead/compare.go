package main

import (
	"fmt"
	"slices"
	"time"
)

// load is work that tracers watch.
type load struct {
	name    string
	unit    string // what it makes
	pairs   int    // of runs, without and with each tracer
	tracers []tracer
	often   string // the tracer that has four pairs where the others have one, because a bar is about it
	run     func(time.Duration) (loadResult, error)
}

// outcome collects the pairs of one tracer.
type outcome struct {
	name   string
	each   float64   // how many of it there are
	ratios []float64 // rate with it / rate without, of neighbours in time
	micros []float64 // more a connection, microseconds
}

// loads are those that this machine can run; stop ends what they need.
func (b *bench) loads() (loads []load, stop func()) {
	all := b.usable()
	some := named(all, noise, tributary, "bcc libbpf-tools tcplife", "bpftrace, tcplife")
	loads = []load{
		{
			name: "One client and server in one thread: connect, accept, 100 B, 1,000 B, close", unit: "connection", pairs: b.pairs, tracers: all, often: tributary,
			run: func(d time.Duration) (loadResult, error) { return b.load(0, d) },
		},
		{
			name: fmt.Sprintf("The same beside %d sidecars of neighbours", manySidecars), unit: "connection", pairs: max(fewestPairs, b.pairs/3),
			tracers: []tracer{{name: fmt.Sprintf("Tributary, %d sidecars (µs: of each)", manySidecars), each: manySidecars, start: b.startSidecars}},
			run:     func(d time.Duration) (loadResult, error) { return b.load(0, d) },
		},
	}
	w, err := startWeb(b.processor)
	if err != nil {
		b.printf("left out: nginx under wrk: %v\n", err)
		return loads, func() {}
	}
	loads = append(loads,
		load{
			name: "nginx under wrk, Connection: close", unit: "connection", pairs: b.pairs, tracers: some,
			run: func(d time.Duration) (loadResult, error) { return w.load(false, d) },
		},
		load{
			name: "nginx under wrk, keep-alive", unit: "request", pairs: b.pairs, tracers: named(all, noise, tributary, withoutFailedConnects),
			run: func(d time.Duration) (loadResult, error) { return w.load(true, d) },
		},
	)
	return loads, w.stop
}

// named are those of the tracers that have one of the names.
func named(tracers []tracer, names ...string) []tracer {
	return slices.DeleteFunc(slices.Clone(tracers), func(t tracer) bool { return !slices.Contains(names, t.name) })
}

// compareAll prints a table for each load.
func (b *bench) compareAll() error {
	loads, stop := b.loads()
	defer stop()
	for _, l := range loads {
		if err := b.compare(l); err != nil {
			return err
		}
	}
	return nil
}

// compare runs the pairs of a load, round by round, the tracers in turn forwards and backwards.
func (b *bench) compare(l load) error {
	outcomes := make([]outcome, len(l.tracers))
	var rates []float64
	for round := range l.pairs {
		for _, i := range l.turns(round) {
			t := l.tracers[i]
			without, with, err := b.pair(l, t)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", l.name, t.name, err)
			}
			o := &outcomes[i]
			o.name, o.each = t.name, float64(max(1, t.each))
			o.ratios = append(o.ratios, with.rate()/without.rate())
			o.micros = append(o.micros, (1e6/with.rate()-1e6/without.rate())/o.each)
			rates = append(rates, without.rate())
		}
	}
	b.printf("\n**%s.** Without a tracer: %.0f %ss a second of processor time, %.1f µs each (median of %d runs).\n\n",
		l.name, median(rates), l.unit, 1e6/median(rates), len(rates))
	b.printf("| tracer | ratio | 90 %% interval | least to greatest | µs/%s | pairs |\n|---|--:|--:|--:|--:|--:|\n", l.unit)
	for _, o := range outcomes {
		e := estimateOf(o.ratios)
		b.printf("| %s | %.3f | %.3f to %.3f | %.3f to %.3f | %+.2f | %d |\n", o.name, e.middle, e.low, e.high,
			slices.Min(o.ratios), slices.Max(o.ratios), median(o.micros), e.n)
	}
	return nil
}

// turns is the order of a round, every second one backwards.
func (l load) turns(round int) (order []int) {
	for i, t := range l.tracers {
		times := 1
		if t.name == l.often {
			times = 4
		}
		order = append(order, slices.Repeat([]int{i}, times)...)
	}
	if round%2 == 1 {
		slices.Reverse(order)
	}
	return order
}

// The names of the tracers that every load has.
const (
	noise                 = "none again (the noise)"
	tributary             = "Tributary"
	withoutFailedConnects = "Tributary, --failed-connects=false"
)

// usable are the tracers that start on this machine, and none; it says what is left out.
func (b *bench) usable() []tracer {
	list := []tracer{{name: noise, start: func() (running, error) { return nothing{}, nil }}}
	candidates, why := b.tracers()
	for _, t := range candidates {
		tracing, err := t.start()
		if err != nil {
			why = append(why, fmt.Sprintf("%s: %v", t.name, err))
			continue
		}
		tracing.stop()
		list = append(list, t)
	}
	for _, text := range why {
		b.printf("left out: %s\n", text)
	}
	return list
}

// pair runs the load with the tracer, and as long before and after it without: what the machine gains or loses steadily meanwhile falls on both.
func (b *bench) pair(l load, t tracer) (without, with loadResult, err error) {
	before, err := l.run(b.duration)
	if err != nil {
		return without, with, err
	}
	tracing, err := t.start()
	if err != nil {
		return without, with, err
	}
	with, err = l.run(b.duration)
	tracing.stop()
	if err != nil {
		return without, with, err
	}
	time.Sleep(100 * time.Millisecond) // until the kernel has let go of it
	after, err := l.run(b.duration)
	return before.plus(after), with, err
}

type nothing struct{}

func (nothing) stop() {}
