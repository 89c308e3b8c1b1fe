package transport

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Way is a way to the collector.
type Way string

// The ways to the collector.
const (
	GRPC  Way = "grpc"
	HTTPS Way = "https"
	UDP   Way = "udp" // for batches alone, and only where it comes first in the order: beside it stands one of the others
)

// Ways lists all ways.
func Ways() []Way { return []Way{GRPC, HTTPS, UDP} }

// Reason says why the transport changed its way.
type Reason string

// The reasons of a change.
const (
	Unreachable Reason = "unreachable" // failedMost attempts in a row without an answer of the collector
	NoALPN      Reason = "alpn"        // something between offers no HTTP/2
	Preferred   Reason = "preferred"   // a way that comes before it works again
	Reordered   Reason = "reordered"   // the order was changed
	Lossy       Reason = "lossy"       // more than half of the datagrams never came
	Drained     Reason = "drained"     // datagrams stop while the stream beside them moves to another node
)

func reasons() []Reason {
	return []Reason{Unreachable, NoALPN, Preferred, Reordered, Lossy, Drained}
}

const (
	failedMost   = 3
	probeJitter  = 0.2
	probeMost    = 8 // times Config.ProbeEvery: how rare probes become while a preferred way does not last
	probeTimeout = 5 * time.Second
)

// route decides on which way the streams go: the first of the order that works, and one before it as soon as that works again.
type route struct {
	log *slog.Logger

	mu       sync.Mutex
	order    []Way
	way      Way
	failed   map[streamName]int // attempts in a row without an answer
	switches map[Reason]uint64
	rarer    int  // probes are so many times rarer
	probed   bool // we are on this way because of a probe, and it has not answered yet
	wake     chan struct{}
}

func newRoute(order []Way, logger *slog.Logger) *route {
	r := &route{order: order, way: order[0], log: logger, failed: make(map[streamName]int), switches: make(map[Reason]uint64), rarer: 1, wake: make(chan struct{}, 1)}
	for _, reason := range reasons() {
		r.switches[reason] = 0
	}
	return r
}

func (r *route) now() Way {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.way
}

// before lists the ways that are better than the present one.
func (r *route) before() []Way {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.order[:slices.Index(r.order, r.way)])
}

// answered notes that the collector spoke on a stream.
func (r *route) answered(name streamName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[name] = 0
	if r.probed && name == streamFlows {
		r.probed, r.rarer = false, 1
	}
}

// lost notes that an attempt on a stream ended without an answer, and reports whether to go another way.
func (r *route) lost(name streamName, err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[name]++
	reason := Unreachable
	if strings.Contains(err.Error(), "ALPN") {
		reason = NoALPN
	}
	if len(r.order) == 1 || reason == Unreachable && r.failed[name] < failedMost {
		return false
	}
	if r.probed { // it worked for the probe, and not for us
		r.probed, r.rarer = false, min(2*r.rarer, probeMost)
	}
	next := r.order[(slices.Index(r.order, r.way)+1)%len(r.order)]
	r.goLocked(next, reason, reasonOf(err))
	return true
}

// prefer goes back to a better way; false if the order has changed meanwhile.
func (r *route) prefer(way Way) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.order, way); i < 0 || i >= slices.Index(r.order, r.way) {
		return false
	}
	r.goLocked(way, Preferred, "it works again")
	r.probed = true
	return true
}

// reorder changes the order and reports whether that changes the way. The first one is tried at once.
func (r *route) reorder(order []Way) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(order, r.order) {
		return false
	}
	r.order, r.rarer = order, 1
	signal(r.wake)
	if r.way == order[0] {
		return false
	}
	r.goLocked(order[0], Reordered, fmt.Sprint("the order is now ", order))
	return true
}

func (r *route) goLocked(way Way, reason Reason, why string) {
	r.changedLocked(r.way, way, reason, why)
	r.way = way
	clear(r.failed)
}

// changed tells of a change and counts it.
func (r *route) changed(from, to Way, reason Reason, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.changedLocked(from, to, reason, why)
}

func (r *route) changedLocked(from, to Way, reason Reason, why string) {
	r.log.Warn("the transport changes its way to the collector: "+string(reason), "from", string(from), "to", string(to), "reason", string(reason), "because", why)
	r.switches[reason]++
}

// streams is the order without UDP, which has a stream beside it: gRPC where none is named. udp reports whether it is in the order.
func streams(order []Way) (rest []Way, udp bool) {
	rest = slices.DeleteFunc(slices.Clone(order), func(w Way) bool { return w == UDP })
	if len(rest) == 0 {
		rest = []Way{GRPC}
	}
	return rest, slices.Contains(order, UDP)
}

// probeIn says when to look for better ways again.
func (r *route) probeIn(every time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Duration(float64(every) * float64(r.rarer) * (1 - probeJitter + 2*probeJitter*rand.Float64()))
}

func (r *route) counted(reason Reason) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.switches[reason]
}
