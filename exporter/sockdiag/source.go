package sockdiag

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tributary/exporter/clock"
	"tributary/exporter/event"
	"tributary/exporter/probe"
	"tributary/service/log"
)

const (
	pollEvery = time.Second
	scanEvery = 10 * time.Second // for namespaces
	// absent lists in a row end a connection whose notice did not come: one list can miss a socket that moves in the table.
	absent       = 2
	activeFirst  = 5 * time.Second
	synFirst     = 3 * time.Second
	synEvery     = 10 * time.Second
	noticesAhead = 4096
	settleQuiet  = 100 * time.Millisecond // without a notice, at the end
	settleMost   = time.Second
	maxGone      = 65536
)

// Options are the settings of a Source.
type Options struct {
	NetnsInum   uint32 // of the only network namespace to see; 0: all
	OpenSockets int    // how many connections are followed at once
	ActiveEvery time.Duration
	Log         *slog.Logger
}

// Source makes records of what sock_diag says. Run may be called once, the rest from any goroutine.
type Source struct {
	opts        Options
	log         *slog.Logger
	activeEvery atomic.Int64
	notices     chan notice
	moved       atomic.Uint64 // how often it was asked

	mu        sync.Mutex
	spaces    map[uint32]*space
	unread    int
	listeners []probe.Listener
	counters  probe.Counters
	walks     uint64
	invalid   uint64
	receivers sync.WaitGroup
	drains    []chan struct{}
	wake      chan struct{}
	over      bool // Run has returned

	// Of Run's goroutine.
	open    map[key]*connection
	gone    map[key]struct{} // ended by their absence, of which no notice has come
	surplus [2]int           // connections without room, in the list before and in this one
	round   uint64
	scanned time.Time
	handle  func([]byte) error
}

// key tells connections apart: a cookie is unique for a boot.
type key struct {
	netns  uint32
	cookie uint64
}

// notice is a socket that was destroyed.
type notice struct {
	netns uint32
	diag
}

// New returns a source that does nothing yet.
func New(opts Options) *Source {
	s := &Source{
		opts: opts, log: log.Limited(opts.Log.With(log.Component, "sockdiag"), 10*time.Second), notices: make(chan notice, noticesAhead),
		spaces: map[uint32]*space{}, open: map[key]*connection{}, gone: map[key]struct{}{}, wake: make(chan struct{}, 1),
	}
	s.activeEvery.Store(int64(opts.ActiveEvery))
	return s
}

// Start subscribes to the notices of all namespaces in scope; what exists then is found by the first list. On error nothing is left behind.
func (s *Source) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.findSpaces(); err != nil {
		return err
	}
	if len(s.spaces) == 0 {
		return errors.New("no network namespace allows sock_diag")
	}
	return nil
}

// Run hands over records (event.RecordSize bytes, valid during the call; an error says that one is not understood) until ctx ends, then one more of every connection that is open, and returns nil. After each list it calls swept.
func (s *Source) Run(ctx context.Context, handle func([]byte) error, swept func()) error {
	s.handle = handle
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	s.poll(true, false)
	for {
		select {
		case <-ctx.Done():
			s.settle()
			s.poll(false, true)
			s.finish()
			return nil
		case n := <-s.notices:
			s.ended(&n)
		case <-s.wake:
			s.takeNotices()
		case <-ticker.C:
			s.takeNotices()
			s.poll(false, false)
			swept()
		}
		s.release()
	}
}

// takeNotices handles all that came up to now.
func (s *Source) takeNotices() {
	for range len(s.notices) {
		n := <-s.notices
		s.ended(&n)
	}
}

// settle takes the last notices: the kernel sends them a little later, from a work queue (net/core/sock_diag.c).
func (s *Source) settle() {
	most := time.After(settleMost)
	for {
		select {
		case n := <-s.notices:
			s.ended(&n)
		case <-time.After(settleQuiet):
			return
		case <-most:
			s.takeNotices()
			return
		}
	}
}

// poll lists all namespaces. first says that what is found is older than capture; all asks for a record of every connection.
func (s *Source) poll(first, all bool) {
	s.round++
	s.surplus = [2]int{s.surplus[1], 0}
	now := clock.Boot()
	s.mu.Lock()
	if first { // Start has looked
		s.scanned = time.Now()
	}
	if time.Since(s.scanned) >= scanEvery {
		s.scanned = time.Now()
		if err := s.findSpaces(); err != nil {
			s.log.Warn("network namespaces cannot be found", "error", err)
		}
	}
	spaces := make([]*space, 0, len(s.spaces))
	for _, sp := range s.spaces {
		spaces = append(spaces, sp)
	}
	s.mu.Unlock()
	var listeners []probe.Listener
	sound := map[uint32]bool{}
	for _, sp := range spaces {
		list, err := sp.list(func(d *diag) { s.listed(sp, d, first, now) })
		if err != nil {
			s.log.Warn("the sockets of a network namespace cannot be listed", "netns", sp.inum, "error", err)
			s.leave(sp)
			continue
		}
		sound[sp.inum] = true
		sp.listedBefore = true
		listeners = append(listeners, list...)
	}
	s.mu.Lock()
	s.listeners = listeners
	s.walks++
	s.mu.Unlock()
	s.passOver(sound, now, all)
}

// listed takes in one line of a list.
func (s *Source) listed(sp *space, d *diag, first bool, now uint64) {
	k := key{sp.inum, d.cookie}
	c := s.open[k]
	if c == nil {
		if len(s.open) >= s.opts.OpenSockets {
			s.full()
			return
		}
		c = s.follow(sp, d, now)
		c.found = first || !sp.listedBefore
		s.open[k] = c
		delete(s.gone, k) // it is back
		s.count(func(n *probe.Counters) {
			n.Opened++
			if c.found {
				n.Found++
			}
		})
	}
	c.note(d, s.round)
}

// full counts a connection that there is no room for, once: one of as many as there were in the list before is taken for the same.
func (s *Source) full() {
	if s.surplus[1]++; s.surplus[1] > s.surplus[0] {
		s.count(func(n *probe.Counters) { n.MapFull++ })
	}
}

// follow begins with a connection.
func (s *Source) follow(sp *space, d *diag, now uint64) *connection {
	c := &connection{cookie: d.cookie, opened: now, server: sp.serves(d)}
	c.due = now + uint64(activeFirst)
	if d.state == event.StateSynSent {
		c.due = now + uint64(synFirst)
	}
	return c
}

// passOver makes the active records that are due and ends connections that are listed no more.
func (s *Source) passOver(sound map[uint32]bool, now uint64, all bool) {
	for k, c := range s.open {
		switch {
		case c.listed == s.round:
			if all || now >= c.due {
				s.active(k, c, now)
			}
		case all || !sound[k.netns] || s.round-c.listed >= absent:
			s.end(k, c, now, true)
			if len(s.gone) >= maxGone {
				clear(s.gone) // whose notice comes after all has two records
			}
			s.gone[k] = struct{}{}
		}
	}
}

func (s *Source) active(k key, c *connection, now uint64) {
	every := time.Duration(s.activeEvery.Load())
	if c.last.state == event.StateSynSent {
		every = synEvery
	}
	c.due = dueAfter(now, uint64(every))
	c.reported = true
	s.count(func(n *probe.Counters) { n.Active++ })
	s.give(c.record(k.netns, event.KindActive, now))
}

// dueAfter is when a connection is due again. As with tracing programs (bpf/walk.h) that is, where the interval is long, the same moment for all: a multiple of
// the interval, or the next one if less than a second is left to it.
func dueAfter(now, every uint64) uint64 {
	const second = uint64(time.Second)
	if every < 20*second {
		return now + every
	}
	return (now+second)/every*every + every
}

// ended takes in a notice.
func (s *Source) ended(n *notice) {
	if n.remotePort == 0 {
		return // a listener, or a socket that was never connected or whose attempt has failed
	}
	k := key{n.netns, n.cookie}
	if _, told := s.gone[k]; told { // it was reset, say, and its program has closed it only now
		delete(s.gone, k)
		return
	}
	now := clock.Boot()
	c := s.open[k]
	if c == nil {
		s.mu.Lock()
		sp := s.spaces[n.netns]
		s.mu.Unlock()
		if sp == nil {
			return
		}
		c = s.follow(sp, &n.diag, now)
		s.count(func(n *probe.Counters) { n.Opened++ })
	}
	c.established = c.established || n.established() || c.server
	if c.listed != 0 { // a notice does not say whose the socket was
		n.cgroup, n.uid = c.last.cgroup, c.last.uid
	}
	c.last = n.diag
	s.end(k, c, now, false)
}

// end makes the last record of a connection; late says that its absence told of it.
func (s *Source) end(k key, c *connection, now uint64, late bool) {
	delete(s.open, k)
	kind := event.KindClosed
	if !c.established {
		kind = event.KindFailed
	}
	s.count(func(n *probe.Counters) {
		n.Ends++
		n.Removed++
		if late {
			n.EndsLate++
		} else {
			n.Submitted++
		}
	})
	s.give(c.record(k.netns, kind, now))
}

func (s *Source) give(r *event.Record) {
	err := s.handle(r.Encode())
	if err != nil {
		s.mu.Lock()
		s.invalid++
		s.mu.Unlock()
		s.log.Warn("record refused", "error", err)
	}
}

func (s *Source) count(add func(*probe.Counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	add(&s.counters)
}
