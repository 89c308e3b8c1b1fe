package nat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/service/log"
)

const (
	forget     = time.Second // what was not translated is asked for again after this
	maxPlain   = 8192        // remembered untranslated destinations
	maxFlows   = 16384       // translated connections that live on
	maxSockets = 64
	patience   = 50 * time.Millisecond // for one answer
	idle       = 2 * time.Second       // after which a namespace is let go
	retry      = 10 * time.Second      // after a namespace could not be asked
	retryLate  = time.Second           // after one has not answered in time
)

// Options are what a Table is told.
type Options struct {
	Own uint32 // inode number of the exporter's own network namespace
	// OwnOnly keeps to that namespace: in a sidecar no other is its business.
	OwnOnly bool
	// Path finds a file that stands for a network namespace, "" if there is none; pid is a process that was in it.
	Path func(netns, pid uint32) string
}

// End is one end of a connection as its socket has it.
type End struct {
	Sock, Opened  uint64 // tell connections apart
	Last          bool   // no record of it comes after this one
	AtNs          uint64 // when the record was made, CLOCK_BOOTTIME
	Netns         uint32
	Pid           uint32 // of its owner; 0 unknown
	Server        bool
	Local, Remote netip.AddrPort // never IPv4-mapped
}

// Way is what this host makes of the addresses of a connection, each the zero value where it leaves them as the socket has them.
type Way struct {
	Peer  netip.AddrPort // the other end, where it is not the socket's remote address
	Local netip.AddrPort // what this end is called beyond this host, where that is not the socket's local address
}

// Table asks and remembers. Find is for one goroutine at a time; the rest may be called from any.
type Table struct {
	opts  Options
	log   *slog.Logger
	plain map[plainKey]uint64          // until when it need not be asked for
	flows *simplelru.LRU[flowKey, Way] // without a lock, which would cost each record more than the look
	empty empty
	all   budget // for all questions
	spare budget // for those about destinations that were not translated a moment ago

	mu       sync.Mutex
	sockets  *lru.Cache[uint32, *socket]
	refused  map[uint32]time.Time // namespaces that could not be asked, until when they are left alone
	degraded error

	paused atomic.Bool
	counts [outcomes]atomic.Uint64
}

// empty is until when nothing was tracked for the connections of one network namespace, the one asked for last: most hosts track nothing, and then this is all that is looked at.
type empty struct {
	netns    uint32
	to       uint64 // CLOCK_BOOTTIME, ns
	loopback bool   // of connections over loopback only: for others our own namespace would have to be asked
}

// plainKey is where clients go, or what servers serve.
type plainKey struct {
	netns  uint32
	server bool
	at     netip.AddrPort
}

type flowKey struct{ sock, opened uint64 }

// New returns a table that has asked one question: whether it may ask.
func New(opts Options, registerer prometheus.Registerer, logger *slog.Logger) (*Table, error) {
	t := &Table{
		opts: opts, log: log.Limited(logger.With(log.Component, "nat"), 10*time.Second),
		plain: make(map[plainKey]uint64), refused: make(map[uint32]time.Time),
		all: budget{rate: 50e6, most: 50e6, have: 50e6}, spare: budget{rate: 1e6, most: 10e6, have: 10e6},
	}
	var err error
	if t.flows, err = simplelru.NewLRU[flowKey, Way](maxFlows, nil); err != nil {
		return nil, err
	}
	if t.sockets, err = lru.NewWithEvict(maxSockets, func(_ uint32, s *socket) { s.close() }); err != nil {
		return nil, err
	}
	t.degraded = Check()
	if err := registerer.Register(t); err != nil {
		return nil, fmt.Errorf("register the metrics of nat: %w", err)
	}
	return t, nil
}

// Degraded says why translations are not known here; nil if they are.
func (t *Table) Degraded() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.degraded
}

// Pause stops asking, or goes on: what would have been asked counts as skipped.
func (t *Table) Pause(on bool) { t.paused.Store(on) }

// Find returns how the addresses of the connection are translated; the zero Way where they are not, and where that is not known.
func (t *Table) Find(e *End) Way {
	flow := flowKey{e.Sock, e.Opened}
	if way, ok := t.flows.Get(flow); ok {
		if e.Last {
			t.flows.Remove(flow)
		}
		t.counts[translated].Add(1)
		return way
	}
	if e.Netns == t.empty.netns && e.AtNs <= t.empty.to && (!t.empty.loopback || e.Local.Addr().IsLoopback()) {
		t.counts[plain].Add(1)
		return Way{}
	}
	key := plainKey{e.Netns, e.Server, e.Remote}
	if e.Server {
		key.at = e.Local
	}
	if e.AtNs < t.plain[key] && !t.spare.left(e.AtNs) {
		return Way{}
	}
	if t.paused.Load() || !t.all.left(e.AtNs) {
		t.counts[skipped].Add(1)
		return Way{}
	}
	way, outcome, took := t.ask(e)
	t.all.take(took)
	t.counts[outcome].Add(1)
	if outcome != translated {
		t.spare.take(took)
		t.remember(key, e.AtNs)
		return Way{}
	}
	delete(t.plain, key)
	if !e.Last {
		t.flows.Add(flow, way)
	}
	return way
}

// timed adds the processor time of a question to took, ns: the clock's would be the others' on a busy host. Reading it costs as much as all else that is done for a record,
// so what needs no question is not timed.
func timed(took *uint64, question func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	question()
	*took += uint64(threadTime() - before)
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var at unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at) // it exists on every kernel this runs on
	return time.Duration(at.Nano())
}

func (t *Table) remember(key plainKey, now uint64) {
	if len(t.plain) >= maxPlain {
		clear(t.plain) // costs questions, no answers
	}
	t.plain[key] = now + uint64(forget)
}

// ask looks into the end's namespace and then into our own. took is the processor time of it.
func (t *Table) ask(e *End) (way Way, result outcome, took uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.degraded != nil {
		return Way{}, unavailable, 0
	}
	result = plain
	t.empty = empty{e.Netns, math.MaxUint64, e.Local.Addr().IsLoopback()}
	for _, netns := range [...]uint32{e.Netns, t.opts.Own} {
		if t.opts.OwnOnly && netns != t.opts.Own {
			continue
		}
		way, err := t.askIn(netns, e, &took)
		switch {
		case err == nil && way != (Way{}):
			return way, translated, took
		case err != nil && !errors.Is(err, unix.ENOENT):
			result = failed
		}
		if netns == t.opts.Own || e.Local.Addr().IsLoopback() {
			break // what stays in its namespace is not translated in another
		}
	}
	return Way{}, result, took
}

// askIn returns the way as one namespace knows it; ENOENT if it does not know the connection.
func (t *Table) askIn(netns uint32, e *End, took *uint64) (way Way, err error) {
	if until, ok := t.refused[netns]; ok {
		if time.Now().Before(until) {
			t.empty.to = 0
			return Way{}, errLeftAlone
		}
		delete(t.refused, netns)
	}
	s, ok := t.sockets.Get(netns)
	if !ok {
		timed(took, func() { s, err = t.open(netns, e.Pid) })
		if err != nil {
			t.empty.to = 0
			t.leaveAlone(netns, err)
			return Way{}, err
		}
		t.sockets.Add(netns, s)
	}
	if s.nothing(e.AtNs) {
		t.empty.to = min(t.empty.to, s.nothingTo)
		return Way{}, unix.ENOENT
	}
	t.empty.to = 0
	timed(took, func() { way, err = s.way(e.Local, e.Remote) })
	if err != nil && !errors.Is(err, unix.ENOENT) {
		t.sockets.Remove(netns)
		t.leaveAlone(netns, err)
	}
	return way, err
}

var errLeftAlone = errors.New("it could not be asked a moment ago")

// leaveAlone keeps a namespace that cannot be asked from being tried at each record.
func (t *Table) leaveAlone(netns uint32, err error) {
	if len(t.refused) >= maxSockets*16 {
		clear(t.refused)
	}
	wait := retry
	if errors.Is(err, errTimeout) {
		wait = retryLate
	}
	t.refused[netns] = time.Now().Add(wait)
	t.log.Warn("address translations of a network namespace are not known", "netns", netns, "error", err)
}

func (t *Table) open(netns, pid uint32) (*socket, error) {
	if netns == t.opts.Own {
		return dial()
	}
	path := t.opts.Path(netns, pid)
	if path == "" {
		return nil, errors.New("no process and no mount leads to it")
	}
	return dialIn(path, netns)
}

// Run lets go of namespaces that nothing was asked of for a while, until ctx ends.
func (t *Table) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			t.mu.Lock()
			defer t.mu.Unlock()
			t.sockets.Purge()
			return nil
		case now := <-time.After(clock.Beat(idle / 2)):
			t.letGo(now)
		}
	}
}

func (t *Table) letGo(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, netns := range t.sockets.Keys() {
		if s, ok := t.sockets.Peek(netns); ok && netns != t.opts.Own && now.Sub(s.used) > idle {
			t.sockets.Remove(netns)
		}
	}
}

// budget is time that may be spent: rate ns a second, kept up to most.
type budget struct {
	rate, most, have int64
	at               uint64
}

// left fills up to the moment and says whether there is any left.
func (b *budget) left(now uint64) bool {
	if now > b.at {
		passed := min(now-b.at, 10e9)
		b.at = now
		b.have = min(b.most, b.have+int64(passed)*b.rate/1e9)
	}
	return b.have > 0
}

// take may overdraw: the time has passed already.
func (b *budget) take(ns uint64) { b.have -= int64(min(ns, 1e9)) }
