package sink_test

import (
	"errors"
	"testing"

	"tributary/collector/sink"
	"tributary/proto/flow"
)

type fake struct{ done []func(error) }

func (f *fake) Write(_ *flow.Batch, done func(error)) { f.done = append(f.done, done) }

func TestDoneWhenAllSinksHaveIt(t *testing.T) {
	lost, stopped := errors.New("lost"), errors.New("stopped")
	for name, c := range map[string]struct {
		first, second, want error
	}{
		"neither, one":      {first: lost, second: stopped, want: lost},
		"neither, other":    {first: lost, second: stopped, want: stopped},
		"all have it":       {},
		"the first gave up": {first: lost, want: lost},
		"the last gave up":  {second: lost, want: lost},
	} {
		t.Run(name, func(t *testing.T) {
			var a, b fake
			calls := 0
			var got error
			sink.NewFanout(&a, &b).Write(&flow.Batch{}, func(err error) { calls, got = calls+1, err })
			b.done[0](c.second)
			if calls != 0 {
				t.Fatal("done before all sinks answered")
			}
			a.done[0](c.first)
			if calls != 1 || !errors.Is(got, c.want) {
				t.Fatalf("%d calls, %v", calls, got)
			}
		})
	}
}

func TestOneSink(t *testing.T) {
	var a fake
	calls := 0
	sink.NewFanout(&a).Write(&flow.Batch{}, func(error) { calls++ })
	a.done[0](nil)
	if calls != 1 {
		t.Fatalf("%d calls", calls)
	}
}
