package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/exporter/netns"
	"tributary/service/log"
)

const (
	listPause = 200 // times the processor time that a list took nothing is listed where nothing is watched: at most 0.5 % of a core
	// listAgain is after how long connections are listed where they are watched: for those that last, and for those that the kernel was told not to tell of.
	listAgain = 10 * time.Minute
	// watchSettle is how long after the subscription the list is made: the kernel may be about to enter a connection that it began before.
	watchSettle = 5 * time.Millisecond
	watchIdle   = 3 * time.Second // after which a namespace that nobody asks about is not watched
	maxSpaces   = 1024
	forgetSpace = 2 * time.Minute
)

// Sharing knows which addresses of this host stand for connections of others: by a masquerade, or because a port of theirs leads elsewhere.
// Its methods are safe for concurrent use; Run once.
type Sharing struct {
	opts  Options
	log   *slog.Logger
	bytes int // for events that wait; tests make it small

	mu      sync.Mutex
	spaces  map[uint32]*space
	watch   *watch
	watched []netip.Addr // what the watch is about
	refused time.Time    // until then no watch is tried
	changes *watch       // of rules; nil: they are looked at each time
	rules   uint64       // counts those
	looks   budget       // for rules, and the lists that they lead to
	lists   budget       // for the other ones

	missed  atomic.Uint64 // times that events were lost
	skipped atomic.Uint64 // looks for which there was no time
}

// NewSharing returns a Sharing that has asked nothing.
func NewSharing(opts Options, registerer prometheus.Registerer, logger *slog.Logger) (*Sharing, error) {
	s := &Sharing{
		opts: opts, log: log.Limited(logger.With(log.Component, "nat"), 10*time.Second), bytes: watchBuffer,
		spaces: make(map[uint32]*space), looks: budget{rate: 20e6, most: 200e6, have: 200e6}, lists: budget{rate: 20e6, most: 20e6, have: 20e6},
	}
	if err := registerer.Register(s); err != nil {
		return nil, fmt.Errorf("register the metrics of nat: %w", err)
	}
	return s, nil
}

// Among returns which of a network namespace's own addresses stand for others at present: connections that began elsewhere leave under them,
// or connections to them go elsewhere. whole are those of them that are not known to. The namespace has an id in ours.
//
// Where rules can translate, the kernel tells of each such connection before its first packet leaves, and Among has read all that it told. What was before it listened, or was
// lost, is found in a list: an entry of connection tracking outlives its connection by ten seconds. Where none can, or the kernel does not tell, there are lists alone, and as
// they take 18 ms and more wherever anything is tracked (the kernel walks every bucket of its table, 262,144 by default, twice), not at each call.
// Where connection tracking cannot be read no address is known to.
func (s *Sharing) Among(inum uint32, own, whole []netip.Addr) []netip.Addr {
	if s.opts.OwnOnly && inum != s.opts.Own || !tracking() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	sp := s.space(inum, now)
	if sp == nil {
		return nil
	}
	s.hear()
	s.ask(sp, own, whole, now)
	shared := sp.heard
	sp.heard = nil
	if sp.complete && !sp.mute() && now.Before(sp.again) {
		return shared
	}
	found, err := s.look(sp, now)
	if err != nil {
		s.giveUp(sp, err, now)
	}
	return append(shared, found...)
}

// ask notes what a namespace is asked about. What is new there may have stood for others while nobody heard of it.
func (s *Sharing) ask(sp *space, own, whole []netip.Addr, now time.Time) {
	sp.asked, sp.own = now, own
	if slices.Equal(whole, sp.whole) {
		return
	}
	if !within(whole, sp.whole) {
		sp.complete = false
	}
	sp.whole = whole
	s.cover(now)
}

func within(some, all []netip.Addr) bool {
	return !slices.ContainsFunc(some, func(a netip.Addr) bool { return !slices.Contains(all, a) })
}

// hear takes what the kernel has told.
func (s *Sharing) hear() {
	if s.watch == nil {
		return
	}
	err := s.watch.connections(func(orig, reply addresses) {
		for _, sp := range s.spaces {
			sp.hear(orig, reply)
		}
	})
	if err == nil {
		return
	}
	s.missed.Add(1)
	for _, sp := range s.spaces {
		sp.complete = false
	}
	if !errors.Is(err, errMissed) {
		s.log.Warn("translated connections are not heard of any more: they are listed", "error", err)
		s.stop()
	}
}

func (s *Sharing) stop() {
	if s.watch != nil {
		s.watch.close()
		s.watch, s.watched = nil, nil
	}
}

// look finds out what was not heard of: whether the namespace's rules translate, and what is translated now.
func (s *Sharing) look(sp *space, now time.Time) (shared []netip.Addr, err error) {
	if now.Before(sp.failed) {
		return nil, nil
	}
	known := sp.translates && now.Before(sp.again)
	if !known && sp.nothingTracked() {
		s.forget(sp, now)
		return nil, nil
	}
	stale := !known && s.stale(sp)
	switch {
	case !stale && !sp.translates && now.Before(sp.rest):
		return nil, nil
	case stale && !s.looks.left(clock.Boot()):
		s.skipped.Add(1)
		return nil, nil
	}
	err = sp.in(s.opts.Own, func(config *netlink.Config) (err error) {
		took := uint64(0)
		if stale {
			if timed(&took, func() { err = s.lookAtRules(sp, config, now) }); err != nil {
				return err
			}
		}
		heard, spent := s.heard(sp, now), &s.looks
		if !heard {
			spent = &s.lists
		}
		if heard || now.After(sp.rest) && spent.left(clock.Boot()) {
			timed(&took, func() { shared, err = sp.list(config, now) })
			sp.complete = heard && err == nil
		}
		spent.take(took)
		return err
	})
	return shared, err
}

// stale says whether a namespace's rules may be others than when they were looked at.
func (s *Sharing) stale(sp *space) bool {
	s.hearOfRules()
	return !s.sameChains(sp) || hasLegacy()
}

func (s *Sharing) hearOfRules() {
	if s.changes == nil {
		s.rules++
		s.changes, _ = watchRules() // without it nothing stays the same
		return
	}
	told := false
	if err := s.changes.read(func([]byte) error { told = true; return nil }); err != nil || told {
		s.rules++
	}
}

func (s *Sharing) sameChains(sp *space) bool {
	return s.changes != nil && (s.changes.all || sp.at.Inum == s.opts.Own) && sp.rules == s.rules
}

func (s *Sharing) lookAtRules(sp *space, config *netlink.Config, now time.Time) error {
	could := sp.translates
	legacy, err := legacyTables(sp.at)
	if err == nil && !s.sameChains(sp) {
		sp.chains, err = translates(config)
	}
	if err != nil {
		return err
	}
	sp.translates, sp.rules = legacy || sp.chains, s.rules
	if could && !sp.translates {
		s.cover(now)
	}
	return nil
}

// forget unlearns the rules of a namespace where nothing is tracked: whatever is, later, is listed.
func (s *Sharing) forget(sp *space, now time.Time) {
	could := sp.translates
	sp.translates, sp.rules, sp.complete = false, 0, false
	if could {
		s.cover(now)
	}
}

// heard makes sure that each connection of the namespace is heard of that is translated from now on, if it matters; false: it is not.
func (s *Sharing) heard(sp *space, now time.Time) bool {
	if !sp.translates || len(sp.whole) == 0 {
		return false
	}
	was := sp.silent
	if sp.silent = sp.mute(); sp.silent {
		if !was {
			s.log.Warn(errMute.Error(), "netns", sp.at.Inum)
		}
		return false
	}
	return s.cover(now) && (s.watch.all || sp.at.Inum == s.opts.Own)
}

// cover makes the watch one of all addresses that are asked about and may be translated, and says whether there is one.
func (s *Sharing) cover(now time.Time) bool {
	var addrs []netip.Addr
	for _, sp := range s.spaces {
		if sp.translates && !sp.silent {
			addrs = append(addrs, sp.whole...)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	switch {
	case len(addrs) == 0:
		s.stop()
		return false
	case s.watch != nil && slices.Equal(addrs, s.watched):
		return true
	case now.Before(s.refused):
		return false
	}
	err := s.open(addrs)
	if err != nil {
		s.log.Warn("the first translated connections under an address may be named after it: the kernel does not tell of them, so they are listed", "error", err)
		s.stop()
		s.refused = now.Add(retry)
		for _, sp := range s.spaces {
			sp.complete = false
		}
		return false
	}
	s.watched = addrs
	return true
}

func (s *Sharing) open(addrs []netip.Addr) (err error) {
	if s.watch != nil {
		return s.watch.narrow(addrs)
	}
	if s.watch, err = watchConnections(addrs, s.bytes); err == nil {
		time.Sleep(watchSettle)
	}
	return err
}

// giveUp leaves a namespace alone for a while: what the kernel tells of it is heard all the same.
func (s *Sharing) giveUp(sp *space, err error, now time.Time) {
	s.log.Warn("it is not known whether addresses of a network namespace stand for others", "netns", sp.at.Inum, "error", err)
	sp.complete, sp.failed = false, now.Add(retry)
}

// space returns what is known of a namespace, nil if there are too many. One that could not be looked at may be found elsewhere by now.
func (s *Sharing) space(inum uint32, now time.Time) *space {
	sp := s.spaces[inum]
	switch {
	case sp == nil && len(s.spaces) >= maxSpaces:
		s.skipped.Add(1)
		return nil
	case sp == nil:
		sp = &space{}
		s.spaces[inum] = sp
	case sp.failed.IsZero() || now.Before(sp.failed):
		return sp
	}
	at := netns.Namespace{Inum: inum, Path: netns.Own}
	if inum != s.opts.Own {
		at.Path = s.opts.Path(inum, 0)
	}
	if err := sp.open(at); err != nil {
		s.giveUp(sp, err, now)
	}
	return sp
}

// Run lets go of namespaces that nobody asks about any more, until ctx ends.
func (s *Sharing) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			s.stop()
			if s.changes != nil {
				s.changes.close()
				s.changes = nil
			}
			return nil
		case now := <-time.After(clock.Beat(idle / 2)):
			s.letGo(now)
		}
	}
}

func (s *Sharing) letGo(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for inum, sp := range s.spaces {
		unasked := now.Sub(sp.asked)
		if unasked > watchIdle && len(sp.whole) > 0 {
			sp.whole, sp.complete, changed = nil, false, true
		}
		if unasked > forgetSpace {
			sp.close()
			delete(s.spaces, inum)
		}
	}
	if changed {
		s.cover(now)
	}
}

// CheckEvents says why translated connections of our own namespace are not heard of in time; nil if they are, or if nothing translates here.
func CheckEvents() error {
	if !tracking() {
		return nil
	}
	s, sp := &Sharing{}, &space{}
	defer sp.close()
	if err := sp.open(netns.Namespace{Path: netns.Own}); err != nil {
		return err
	}
	if err := s.lookAtRules(sp, nil, time.Time{}); errors.Is(err, unix.EPERM) {
		return errors.New("rules that translate cannot be listed without CAP_NET_ADMIN: the first translated connections under an address may be named after it")
	} else if err != nil || !sp.translates {
		return err
	}
	if sp.mute() {
		return errMute
	}
	w, err := watchConnections(nil, watchBuffer)
	if err != nil {
		return fmt.Errorf("the first translated connections under an address may be named after it: %w", err)
	}
	w.close()
	return nil
}

var errMute = errors.New("net.netfilter.nf_conntrack_events is 0, so nobody is told of new connections: the first translated ones under an address may be named after it")
