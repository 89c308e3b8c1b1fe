package transport

import (
	"context"
	"errors"
	"time"

	"tributary/proto/flowv1"
)

// Claims is where the control stream learns what this exporter owns.
type Claims interface {
	// Subscribe returns all open claims and every change after them, until ctx ends.
	Subscribe(ctx context.Context) Subscription
	// VerifiedTo returns until when all open claims are verified, ns since 1970 and at most now; 0 if there is nothing to
	// say. When it returns, every change up to that time has been put into the channels of all subscriptions.
	VerifiedTo(now int64) int64
}

// Subscription is a set of claims and what changes in it. Make one with NewSubscription.
type Subscription interface {
	claims() []*flowv1.Claim
	// next waits for a change; nil if tick came first. poll does not wait.
	next(ctx context.Context, tick <-chan time.Time) (*flowv1.Ownership, error)
	poll() (*flowv1.Ownership, error)
	waiting() int // changes that poll has ready at least
}

// errBehind ends a stream whose subscriber was too slow: the next one begins with the whole set.
var errBehind = errors.New("the subscription to claims has ended")

// NewSubscription wraps a channel of changes of any type; convert turns one into the message that tells it. The channel's owner
// closes it when the reader is too slow or the context of the subscription ends.
func NewSubscription[C any](full []*flowv1.Claim, changes <-chan C, convert func(C) *flowv1.Ownership) Subscription {
	return &subscription[C]{full, changes, convert}
}

type subscription[C any] struct {
	full    []*flowv1.Claim
	changes <-chan C
	convert func(C) *flowv1.Ownership
}

func (s *subscription[C]) claims() []*flowv1.Claim { return s.full }

func (s *subscription[C]) next(ctx context.Context, tick <-chan time.Time) (*flowv1.Ownership, error) {
	select {
	case c, ok := <-s.changes:
		return s.converted(c, ok)
	case <-tick:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *subscription[C]) poll() (*flowv1.Ownership, error) {
	select {
	case c, ok := <-s.changes:
		return s.converted(c, ok)
	default:
		return nil, nil
	}
}

func (s *subscription[C]) waiting() int { return len(s.changes) }

func (s *subscription[C]) converted(c C, ok bool) (*flowv1.Ownership, error) {
	if !ok {
		return nil, errBehind
	}
	return s.convert(c), nil
}
