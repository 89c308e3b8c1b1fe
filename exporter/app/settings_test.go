package app

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"tributary/exporter/budget"
	"tributary/exporter/config"
	"tributary/exporter/filter"
)

// obedient is capture that takes every setting, and some time to empty its ring.
type obedient struct{ capturer }

func (obedient) SetActiveEvery(time.Duration) error { return nil }

func (obedient) Drain(context.Context) error {
	time.Sleep(time.Millisecond)
	return nil
}

// The budget steps while the collector and a user at the local socket change settings: nobody takes back what another has asked for.
func TestChangesAtTheSameTime(t *testing.T) {
	c := config.Default().Capture
	judge, err := filter.New(c.Filter())
	if err != nil {
		t.Fatal(err)
	}
	a := &App{log: slog.New(slog.DiscardHandler), source: new(source), names: new(names), pipeline: &pipeline{filter: judge}, applied: c}
	a.source.choose(obedient{})
	for round := range uint32(50) {
		var asking sync.WaitGroup
		for _, change := range []func(*config.Capture) error{
			func(c *config.Capture) error { c.SampleRate = round + 2; return nil },
			func(c *config.Capture) error { c.SampleSeed = uint64(round) + 3; return nil },
			func(c *config.Capture) error { c.ActiveEvery = time.Duration(round+5) * time.Second; return nil },
		} {
			asking.Go(func() {
				if err := a.Change(change); err != nil {
					t.Error(err)
				}
			})
		}
		asking.Go(func() {
			if err := a.ease(budget.Step(round % 3)); err != nil {
				t.Error(err)
			}
		})
		asking.Wait()
		if got := a.Applied(); got.SampleRate != round+2 || got.SampleSeed != uint64(round)+3 || got.ActiveEvery != time.Duration(round+5)*time.Second {
			t.Fatalf("round %d: %+v", round, got)
		}
	}
}
