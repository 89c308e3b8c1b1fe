package assignment

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
)

// Book is where claims go to.
type Book interface {
	Open(hello *flowv1.Hello, now int64, by session.Peer) (*session.Stream, error)
}

// Source claims what one feed says. Make it with New and Run it.
type Source struct {
	kind, id string
	book     Book
	wake     func()
	log      *slog.Logger
	metrics  *Metrics

	mu     sync.Mutex
	groups map[string][]Entry
	held   map[span]*state
	twice  map[span]struct{} // what was left out last, as a contradiction
	stream *session.Stream
}

// state is what has been said of a span.
type state struct {
	since          int64 // when it was first seen
	opened, closed bool
}

// from is when the assignment began.
func (s *state) from(of *span) int64 {
	if of.from != 0 {
		return of.from
	}
	return s.since
}

// New makes a source. kind is file, api, kafka or kubernetes; node is this run of the collector; wake is called after evidence has changed.
func New(kind, node string, book Book, wake func(), metrics *Metrics, log *slog.Logger) *Source {
	return &Source{
		kind: kind, id: "assignment:" + kind + ":" + node, book: book, wake: wake, metrics: metrics, log: log.With("source", kind),
		groups: map[string][]Entry{}, held: map[span]*state{},
	}
}

// Run keeps the source's assignments alive until ctx ends: a watermark a second, while current says that the feed is up to date.
func (s *Source) Run(ctx context.Context, current func() bool) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if current() {
				s.step(now.UnixNano(), now.UnixNano())
			}
		}
	}
}

// Set replaces what one group of the feed says: a file or the API are one, each key of a topic is one. since is when an entry without a time
// began, if it is new.
func (s *Source) Set(group string, entries []Entry, since time.Time) {
	s.change(map[string][]Entry{group: entries}, since, time.Time{})
}

// change replaces what some groups say. What is gone from them ended at until, or now if that is zero.
func (s *Source) change(groups map[string][]Entry, since, until time.Time) {
	s.mu.Lock()
	for group, entries := range groups {
		if s.groups[group] = entries; len(entries) == 0 {
			delete(s.groups, group)
		}
	}
	spans, twice := spansOf(s.groups)
	s.contradicted(twice)
	now := time.Now().UnixNano()
	var gone []span
	for sp, st := range s.held {
		if _, still := spans[sp]; !still {
			if st.opened && !st.closed {
				gone = append(gone, sp)
			}
			delete(s.held, sp)
		}
	}
	for sp := range spans {
		if s.held[sp] == nil {
			s.held[sp] = &state{since: min(since.UnixNano(), now)}
		}
	}
	s.metrics.entries.WithLabelValues(s.kind).Set(float64(len(s.held)))
	ended := now
	if !until.IsZero() {
		ended = min(until.UnixNano(), now)
	}
	m := &flowv1.Ownership{}
	for i := range gone {
		m.Releases = append(m.Releases, gone[i].releaseAt(ended))
	}
	s.tell(m, now)
	s.mu.Unlock()
	s.step(now, 0)
}

// contradicted counts and logs what is left out, each time that there is something new. The caller holds the lock.
func (s *Source) contradicted(twice []contradiction) {
	before := s.twice
	s.twice = make(map[span]struct{}, len(twice))
	var first *contradiction
	fresh := 0
	for i := range twice {
		s.twice[twice[i].span] = struct{}{}
		if _, known := before[twice[i].span]; known {
			continue
		}
		if fresh++; first == nil {
			first = &twice[i]
		}
	}
	if first == nil {
		return
	}
	s.metrics.refused(s.kind, "conflict", fresh)
	s.log.Warn("assignments that contradict each other are left out", "entries", fresh, "address", first.addr().String(), "workload", first.workload, "other", first.other.workload)
}

// step claims what has begun, releases what has ended, and vouches for the rest up to verified, if that is not 0.
func (s *Source) step(now, verified int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var begin []span
	for sp, st := range s.held {
		if !st.opened && st.from(&sp) <= now {
			begin = append(begin, sp)
		}
	}
	if len(begin) > 0 && !s.open(now) {
		return
	}
	// What began earlier first, and ended before the next begins: history is not taken for going back.
	slices.SortFunc(begin, func(a, b span) int { return cmp.Compare(s.held[a].from(&a), s.held[b].from(&b)) })
	for i := range begin {
		sp := &begin[i]
		st := s.held[*sp]
		st.opened = true
		m := &flowv1.Ownership{Claims: []*flowv1.Claim{sp.claim(st.from(sp))}}
		if sp.to != 0 && sp.to <= now {
			m.Releases, st.closed = []*flowv1.Release{sp.releaseAt(sp.to)}, true
		}
		s.tell(m, now)
	}
	for sp, st := range s.held {
		if st.opened && !st.closed && sp.to != 0 && sp.to <= now {
			st.closed = true
			s.tell(&flowv1.Ownership{Releases: []*flowv1.Release{sp.releaseAt(sp.to)}}, now)
		}
	}
	if verified != 0 && s.open(now) {
		if err := s.stream.Watermark(&flowv1.Watermark{VerifiedToNs: verified, ClockNs: now}, now); errors.Is(err, session.ErrSuperseded) {
			s.stream = nil
		}
	}
	s.wake()
}

// tell says something to the book, on a new stream if the last one was forgotten. The caller holds the lock.
func (s *Source) tell(m *flowv1.Ownership, now int64) {
	if len(m.GetClaims())+len(m.GetReleases()) == 0 || !s.open(now) {
		return
	}
	if err := s.stream.Ownership(m, now, s); err != nil {
		s.stream = nil
		if s.open(now) {
			_ = s.stream.Ownership(m, now, s) // forgotten again at once: there are too many exporters, and the next second tries again
		}
	}
}

// open makes sure of a stream; a new one begins with what is held.
func (s *Source) open(now int64) bool {
	if s.stream != nil {
		return true
	}
	stream, err := s.book.Open(&flowv1.Hello{ExporterId: s.id, ClockNs: now}, now, session.Peer{Identity: session.Internal})
	if err != nil {
		s.log.Warn("assignments cannot be told", "reason", err)
		return false
	}
	s.stream = stream
	whole := &flowv1.Ownership{Full: true}
	for sp, st := range s.held {
		if st.opened && !st.closed {
			whole.Claims = append(whole.Claims, sp.claim(st.from(&sp)))
		}
	}
	return stream.Ownership(whole, now, s) == nil
}

// Claim implements session.Observer.
func (s *Source) Claim(c *flowv1.Claim, result string) {
	if result != session.Accepted {
		s.metrics.refused(s.kind, result, 1)
		s.log.Warn("assignment refused", "workload", c.GetWorkload(), "reason", result)
	}
}

// Release implements session.Observer.
func (s *Source) Release(string) {}

// List is what the feed says, by group.
func (s *Source) List(group string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups[group])
}

// Used says whether the feed has ever said anything; it is for Run.
func (s *Source) Used() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.groups) > 0 || s.stream != nil
}

func (s *Source) loaded(err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	s.metrics.loads.WithLabelValues(s.kind, result).Inc()
}
