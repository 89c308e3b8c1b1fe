package transport

import (
	"context"
	"math/rand/v2"
	"time"
)

// retry says how long to wait before the next attempt: first short, then longer and longer, never in step with others.
type retry struct {
	failures int
}

// next takes whether the last attempt was a success for a while.
func (r *retry) next(success bool) time.Duration {
	if success {
		r.failures = 0
	}
	wait := retryFirst << min(r.failures, 10)
	r.failures++
	return time.Duration(float64(min(wait, retryMost)) * (0.8 + 0.4*rand.Float64()))
}

// pause sleeps, or returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
