package app

import "sync"

// schemaState is why the store's schema is not ready; nil when it is.
type schemaState struct {
	mu  sync.Mutex
	err error
}

func (s *schemaState) set(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *schemaState) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
