package kafka

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	backoffMin  = 50 * time.Millisecond
	backoffMax  = 5 * time.Second
	logInterval = 30 * time.Second
)

// fault is what is wrong at present, logged when it begins, every logInterval while it lasts, and when it ends.
type fault struct {
	log *slog.Logger

	mu     sync.Mutex
	err    error
	logged time.Time
	began  time.Time
}

func (f *fault) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fault) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// report notes a failure that will be tried again.
func (f *fault) report(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
	if f.began.IsZero() {
		f.began = time.Now()
	}
	if time.Since(f.logged) >= logInterval {
		f.logged = time.Now()
		f.log.Warn("kafka does not take flows; they wait and are tried again", "error", err)
	}
}

// clear notes a success.
func (f *fault) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil
	if !f.began.IsZero() {
		f.log.Info("kafka takes flows again", "after", time.Since(f.began).Round(time.Millisecond))
		f.began, f.logged = time.Time{}, time.Time{}
	}
}

// backoff waits before attempt number n (from 1) and reports whether ctx still runs. The wait is drawn from the whole range up to the
// step: collectors that lost a broker together do not come back together.
func backoff(ctx context.Context, n int) bool {
	step := min(backoffMin<<min(n, 10), backoffMax)
	timer := time.NewTimer(backoffMin + rand.N(step))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
