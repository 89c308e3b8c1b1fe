package ingest

import "sync"

// epoch is the life of the store that acknowledgements speak of.
type epoch struct {
	mu      sync.Mutex
	name    string        // "" while it is not known
	changed chan struct{} // closed at the next change
}

func (e *epoch) get() (name string, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.name, e.changed
}

// set changes the name and reports whether that is the end of a life that exporters know of.
func (e *epoch) set(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := e.name
	if name == before {
		return false
	}
	e.name = name
	close(e.changed)
	e.changed = make(chan struct{})
	return before != ""
}

// NewEpoch says that the store has begun a new life and may have forgotten what it stored lately. Nothing of the old one is acknowledged any more,
// exporters are told, and what they send again is taken in again. The first name says only which life it is.
func (s *Server) NewEpoch(name string) {
	if !s.epoch.set(name) {
		return
	}
	s.metrics.epochs.Inc()
	for _, known := range s.exporters.all() {
		known.forgetAll()
	}
}
