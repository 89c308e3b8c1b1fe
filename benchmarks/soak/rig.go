package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// rig is both programs and where they run.
type rig struct {
	place               *place
	collector, exporter *program
	sql                 string // address of the store
}

// stop ends the exporter first, so that it can hand over what it has.
func (r *rig) stop() {
	r.exporter.end()
	r.collector.end()
}

// readings are those of one program over the time.
type readings map[string][]usage

// watch reads both programs until the time is over.
func (r *rig) watch(ctx context.Context, lasts, every time.Duration) (readings, error) {
	out := readings{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := time.Now()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		for _, p := range []*program{r.collector, r.exporter} {
			u, err := p.usage()
			if err := errors.Join(p.alive(), err); err != nil {
				return nil, err
			}
			out[p.name] = append(out[p.name], u)
		}
		if time.Since(said) >= time.Minute {
			said = time.Now()
			c, e := last(out[r.collector.name]), last(out[r.exporter.name])
			fmt.Printf("  %s to go: collector %d MiB, %d descriptors; exporter %d MiB, %d descriptors\n", time.Until(end).Round(time.Second),
				c.memory>>20, c.descriptors, e.memory>>20, e.descriptors)
		}
	}
	return out, nil
}

func last(list []usage) usage { return list[len(list)-1] }

const (
	grows = 1.10    // memory of the last quarter over that of the second
	noise = 4 << 20 // that is no growth
)

// judge says what did not stay as it was.
func judge(all readings) error {
	var errs []error
	for name, list := range all {
		if len(list) < 8 {
			errs = append(errs, fmt.Errorf("%s: %d readings are too few to judge", name, len(list)))
			continue
		}
		q := len(list) / 4
		before, after := middle(list[q:2*q]), middle(list[len(list)-q:])
		fmt.Printf("%s: memory %d MiB, then %d MiB; descriptors %d, then %d (medians of the second and the last quarter)\n",
			name, before.memory>>20, after.memory>>20, before.descriptors, after.descriptors)
		if after.memory > before.memory+noise && float64(after.memory) > grows*float64(before.memory) {
			errs = append(errs, fmt.Errorf("%s: the memory grows", name))
		}
		if after.descriptors > before.descriptors+2 { // one of a scrape, one of a file being written
			errs = append(errs, fmt.Errorf("%s: the descriptors grow", name))
		}
	}
	return errors.Join(errs...)
}

func middle(list []usage) usage {
	memory, descriptors := slices.Clone(list), slices.Clone(list)
	slices.SortFunc(memory, func(a, b usage) int { return cmp.Compare(a.memory, b.memory) })
	slices.SortFunc(descriptors, func(a, b usage) int { return cmp.Compare(a.descriptors, b.descriptors) })
	return usage{memory[len(memory)/2].memory, descriptors[len(descriptors)/2].descriptors}
}
