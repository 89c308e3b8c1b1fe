package main

import (
	"errors"
	"sync"
)

// sidecars are many exporters that each watch another network namespace than the load's.
type sidecars []*exporter

const manySidecars = 20

// startSidecars starts them at once.
func (b *bench) startSidecars() (running, error) {
	var (
		all    = make(sidecars, manySidecars)
		errs   = make([]error, manySidecars)
		starts sync.WaitGroup
	)
	for i := range all {
		starts.Go(func() { all[i], errs[i] = b.startExporter("--scope", "netns") })
	}
	starts.Wait()
	if err := errors.Join(errs...); err != nil {
		all.stop()
		return nil, err
	}
	return all, nil
}

func (s sidecars) stop() {
	var stops sync.WaitGroup
	for _, e := range s {
		if e != nil {
			stops.Go(e.stop)
		}
	}
	stops.Wait()
}
