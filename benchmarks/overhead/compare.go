package main

import (
	"fmt"
	"slices"
	"time"
)

// outcome collects the pairs of one tracer.
type outcome struct {
	name   string
	ratios []float64 // rate with it / rate without, of neighbours in time
	micros []float64 // more a connection, microseconds
}

// compare runs the pairs, round by round, the tracers in turn forwards and backwards, and so the two runs of a pair, and prints the table.
func (b *bench) compare() error {
	tracers := b.usable()
	outcomes := make([]outcome, len(tracers))
	var rates []float64
	for round := range b.pairs {
		order := make([]int, len(tracers))
		for i := range order {
			order[i] = i
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			without, with, err := b.pair(tracers[i], round%2 == 1)
			if err != nil {
				return fmt.Errorf("%s: %w", tracers[i].name, err)
			}
			o := &outcomes[i]
			o.name = tracers[i].name
			o.ratios = append(o.ratios, with.rate()/without.rate())
			o.micros = append(o.micros, 1e6/with.rate()-1e6/without.rate())
			rates = append(rates, without.rate())
		}
	}
	fmt.Printf("\nWithout a tracer: %.0f connections a second of processor time, %.1f µs each (median of %d runs of %s).\n\n",
		median(rates), 1e6/median(rates), len(rates), b.duration)
	fmt.Printf("| tracer | ratio | 90 %% interval | least to greatest | µs/connection | pairs |\n|---|--:|--:|--:|--:|--:|\n")
	for _, o := range outcomes {
		e := estimateOf(o.ratios)
		fmt.Printf("| %s | %.3f | %.3f to %.3f | %.3f to %.3f | %+.2f | %d |\n", o.name, e.mean, e.low, e.high,
			slices.Min(o.ratios), slices.Max(o.ratios), median(o.micros), e.n)
	}
	return nil
}

// usable are the tracers that start on this machine, and none; it says what is left out.
func (b *bench) usable() []tracer {
	list := []tracer{{"none again (the noise)", func() (running, error) { return nothing{}, nil }}}
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
		fmt.Println("left out:", text)
	}
	return list
}

// pair runs the load without and with the tracer, in that order or the other.
func (b *bench) pair(t tracer, tracerFirst bool) (without, with loadResult, err error) {
	if !tracerFirst {
		if without, err = b.load(0, b.duration); err != nil {
			return without, with, err
		}
	}
	tracing, err := t.start()
	if err != nil {
		return without, with, err
	}
	with, err = b.load(0, b.duration)
	tracing.stop()
	if err != nil || !tracerFirst {
		return without, with, err
	}
	time.Sleep(100 * time.Millisecond) // until the kernel has let go of it
	without, err = b.load(0, b.duration)
	return without, with, err
}

type nothing struct{}

func (nothing) stop() {}
