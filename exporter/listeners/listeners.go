package listeners

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/clock"
	"tributary/exporter/probe"
	"tributary/proto/flowv1"
	"tributary/service/log"
)

const (
	// busyEvery is how often a listener is told whose use changes, and how often the table is read for it; sameEvery one of which nothing changes.
	busyEvery, sameEvery = 10 * time.Second, 10 * time.Minute
	// endedFor is for how long, maxEnded up to how many ended listeners are told to new subscribers.
	endedFor, maxEnded = 15 * time.Minute, 4096
	// changesWaiting is how many messages a subscriber may be behind.
	changesWaiting = 256
)

// Config is what a Set is told. Every but Every is required.
type Config struct {
	Read      func() ([]probe.Listener, error)
	Moved     func() (uint64, error) // a number that is another one when sockets began or ceased to listen
	Overflows func(netns map[uint32]bool) (map[uint32]probe.Overflows, error)
	Name      func(l *probe.Listener) Name
	Wall      func(kernel uint64) int64 // kernel time to ns since 1970
	// Every is how often it is looked whether the kernel's table is to be read; default 2 s.
	Every time.Duration
}

// Set is what listens on this host. Its methods are safe for concurrent use; Run once.
type Set struct {
	config  Config
	log     *slog.Logger
	metrics *metrics

	mu       sync.Mutex
	open     map[key]*listener
	ended    []*flowv1.Listener
	overflow map[uint32]probe.Overflows // by namespace, at the last look
	readers  map[chan []*flowv1.Listener]struct{}
	read     int64 // when the table was last read, ns since 1970
	moved    uint64
	waits    bool // a queue held a connection then: it may be accepted without any other sign, or dropped
}

// New returns a set that is empty until Run.
func New(config Config, registerer prometheus.Registerer, logger *slog.Logger) (*Set, error) {
	if config.Every == 0 {
		config.Every = 2 * time.Second
	}
	s := &Set{
		config: config, log: log.Limited(logger.With(log.Component, "listeners"), time.Minute), open: map[key]*listener{},
		overflow: map[uint32]probe.Overflows{}, readers: map[chan []*flowv1.Listener]struct{}{},
	}
	s.metrics = newMetrics(s)
	if err := registerer.Register(s.metrics); err != nil {
		return nil, fmt.Errorf("register the metrics of listeners: %w", err)
	}
	return s, nil
}

// Run reads the table until ctx ends.
func (s *Set) Run(ctx context.Context) error {
	for {
		if err := s.step(time.Now().UnixNano()); err != nil {
			s.metrics.errors.Add(1)
			s.log.Warn("the listening sockets cannot be read", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clock.Beat(s.config.Every)):
		}
	}
}

// Subscribe returns what is known and a channel of what changes after it. The channel is closed when ctx ends, and when the subscriber
// is too slow.
func (s *Set) Subscribe(ctx context.Context) ([]*flowv1.Listener, <-chan []*flowv1.Listener) {
	changes := make(chan []*flowv1.Listener, changesWaiting)
	s.mu.Lock()
	defer s.mu.Unlock()
	full := append([]*flowv1.Listener(nil), s.ended...)
	for _, l := range s.open {
		if l.toldAt != 0 {
			full = append(full, l.told.message(l.toldAt, s.config.Wall))
		}
	}
	s.readers[changes] = struct{}{}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.unsubscribe(changes)
	})
	return full, changes
}

func (s *Set) unsubscribe(changes chan []*flowv1.Listener) {
	if _, there := s.readers[changes]; there {
		delete(s.readers, changes)
		close(changes)
	}
}

func (s *Set) publish(changes []*flowv1.Listener) {
	if len(changes) == 0 {
		return
	}
	s.metrics.changes.Add(uint64(len(changes)))
	for r := range s.readers {
		select {
		case r <- changes:
		default:
			s.metrics.behind.Add(1)
			s.unsubscribe(r)
		}
	}
}

// step looks once and tells what changed: what is not the table's, such as names, also where that is as it was.
func (s *Set) step(now int64) error {
	moved, err := s.config.Moved()
	if err != nil {
		return err
	}
	var sockets []probe.Listener
	due := moved != s.moved || s.waits || now-s.read >= int64(busyEvery-s.config.Every/2)
	if due {
		if sockets, err = s.config.Read(); err != nil {
			return err
		}
		s.moved = moved
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var changes []*flowv1.Listener
	if due {
		changes = s.takeAll(sockets, now)
	}
	for k, l := range s.open {
		r := l.row(k, s.config.Name(&l.latest))
		if l.toldAt == 0 || r.news(l.told, time.Duration(now-l.toldAt)) {
			l.told, l.toldAt = r, now
			changes = append(changes, r.message(now, s.config.Wall))
		}
	}
	s.publish(changes)
	return nil
}

// takeAll takes a reading of the table, and returns what has ended.
func (s *Set) takeAll(sockets []probe.Listener, now int64) (ended []*flowv1.Listener) {
	for _, l := range s.open {
		l.begin()
	}
	for i := range sockets {
		s.take(&sockets[i])
	}
	ended = s.endMissing(now)
	for _, l := range s.open {
		l.renew()
	}
	if err := s.countOverflows(); err != nil {
		s.metrics.errors.Add(1)
		s.log.Warn("the overflows of listeners cannot be told apart", "error", err)
	}
	for _, l := range s.open {
		l.finish(s.read, now, s.config.Wall)
	}
	s.read = now
	s.waits = slices.ContainsFunc(sockets, func(l probe.Listener) bool { return l.AcceptQueue > 0 || l.SynQueue > 0 })
	return ended
}

// take adds a socket to its listener. A listener none of whose sockets is still there began anew.
func (s *Set) take(of *probe.Listener) {
	k := key{of.NetnsInum, of.Addr, of.Port}
	l := s.open[k]
	if l == nil {
		l = newListener()
		s.open[k] = l
	}
	l.add(of)
}

// endMissing forgets the listeners without a socket.
func (s *Set) endMissing(now int64) []*flowv1.Listener {
	var changes []*flowv1.Listener
	for len(s.ended) > 0 && (s.ended[0].GetEndedNs() < now-int64(endedFor) || len(s.ended) > maxEnded) {
		s.ended = s.ended[1:]
	}
	for k, l := range s.open {
		if len(l.sockets) > 0 {
			continue
		}
		delete(s.open, k)
		if l.toldAt == 0 {
			continue
		}
		r := l.row(k, l.told.Name)
		m := r.message(now, s.config.Wall)
		m.EndedNs = now
		s.ended = append(s.ended, m)
		changes = append(changes, m)
	}
	return changes
}

// countOverflows gives the overflows of each namespace in which something was dropped to the listeners that did it.
func (s *Set) countOverflows() error {
	ask := map[uint32]bool{}
	there := map[uint32][]*listener{}
	for k, l := range s.open {
		there[k.netns] = append(there[k.netns], l)
		if _, known := s.overflow[k.netns]; !known || l.fresh.drops > 0 || l.fresh.cookies > 0 {
			ask[k.netns] = true
		}
	}
	for netns := range s.overflow {
		if there[netns] == nil {
			delete(s.overflow, netns)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	counts, err := s.config.Overflows(ask)
	for netns := range ask {
		now, ok := counts[netns]
		before, known := s.overflow[netns]
		s.overflow[netns] = now // unreadable: not asked for again before something is dropped
		if !known || !ok || now.Accept < before.Accept || now.Syn < before.Syn {
			continue
		}
		share(now.Accept-before.Accept, there[netns], func(l *listener) uint64 { return l.fresh.drops },
			func(l *listener, n uint64) { l.acceptOverflows += n })
		share(now.Syn-before.Syn, there[netns], func(l *listener) uint64 { return l.fresh.drops + l.fresh.cookies },
			func(l *listener, n uint64) { l.synOverflows += n })
	}
	return err
}

// share gives n to the listeners by their weights, the heaviest first, and to the last one of any what is left by rounding.
func share(n uint64, of []*listener, weight func(*listener) uint64, give func(*listener, uint64)) {
	slices.SortFunc(of, func(a, b *listener) int { return cmp.Compare(weight(b), weight(a)) })
	var sum uint64
	for _, l := range of {
		sum += weight(l)
	}
	for _, l := range of {
		w := weight(l)
		if w == 0 {
			continue
		}
		part := n * w / sum
		give(l, part)
		n, sum = n-part, sum-w
	}
}
