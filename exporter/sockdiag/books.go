package sockdiag

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tributary/exporter/probe"
	"tributary/exporter/ring"
)

// Missing says what this way of capture does not see.
func (s *Source) Missing() error {
	return errors.New("capture by sock_diag: attempts that fail, the reasons of most ends, processes and programs are not seen, and roles are guessed")
}

// Counters returns the books; those of the kernel programs that have no meaning here are 0.
func (s *Source) Counters() (probe.Counters, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters, nil
}

// Stats are the records handed over.
func (s *Source) Stats() ring.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ring.Stats{Read: s.counters.Submitted, Walked: s.counters.Active + s.counters.EndsLate, Invalid: s.invalid, Walks: s.walks}
}

// Inventory says how many network namespaces are in scope, and into how many of them nobody may look.
func (s *Source) Inventory() (found, unread int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.spaces) + s.unread, s.unread
}

// ListensMoved implements the exporter's capturer: Listeners costs no more than to find that out.
func (s *Source) ListensMoved() (uint64, error) { return s.moved.Add(1), nil }

// Listeners returns all listening sockets in scope, as of the last list; how often they were asked is not known.
func (s *Source) Listeners() ([]probe.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listeners, nil
}

// SetActiveEvery changes how often an open connection is recorded, for each from its next record on.
func (s *Source) SetActiveEvery(every time.Duration) error {
	s.activeEvery.Store(int64(every))
	return nil
}

// Readable says whether capture can go on with the privileges that the process has now: the sockets are open.
func (s *Source) Readable() error { return nil }

// MeasurePerEnd is 0: the kernel runs no program of ours.
func (s *Source) MeasurePerEnd(context.Context) (time.Duration, error) { return 0, nil }

// Drain waits until all notices that have come are handled, or ctx ends.
func (s *Source) Drain(ctx context.Context) error {
	done := make(chan struct{})
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return nil
	}
	s.drains = append(s.drains, done)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // somebody has asked already
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain sock_diag: %w", ctx.Err())
	}
}

// release answers those who wait in Drain.
func (s *Source) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, done := range s.drains {
		close(done)
	}
	s.drains = nil
}

func (s *Source) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.release()
}

// Close ends everything; Run has returned, or was never called.
func (s *Source) Close() error {
	s.mu.Lock()
	for _, sp := range s.spaces {
		s.drop(sp)
	}
	s.mu.Unlock()
	stop := make(chan struct{})
	go func() { // nobody takes the rest
		for {
			select {
			case <-s.notices:
			case <-stop:
				return
			}
		}
	}()
	s.receivers.Wait()
	close(stop)
	return nil
}
