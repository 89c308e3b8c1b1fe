package listeners

import (
	"strconv"
	"time"

	"tributary/exporter/event"
	"tributary/exporter/probe"
	"tributary/proto/flowv1"
)

// key tells listeners apart.
type key struct {
	netns uint32
	addr  [16]byte
	port  uint16
}

// Name is who owns a listener, and in which network its address is: empty where it listens on every address.
type Name struct {
	Network                                   string
	Workload, Instance, Zone, Region, Release string
	Evidence, Why                             uint32
}

// counts are the kernel's of one socket.
type counts struct{ drops, cookies uint32 }

// listener is one address that is listened on.
type listener struct {
	before  map[uint64]counts // by socket, at the reading before
	sockets map[uint64]counts // at this one
	latest  probe.Listener    // the socket that came last: its holder is the listener's
	sum     probe.Listener    // queues and limits of all sockets
	since   uint64
	found   bool

	fresh struct{ drops, cookies uint64 } // since the reading before

	accepted, acceptOverflows, synOverflows, drops uint64
	lastAccepted                                   int64
	told                                           row
	toldAt                                         int64 // ns since 1970; 0: never
}

func newListener() *listener { return &listener{sockets: map[uint64]counts{}} }

// begin prepares for a reading.
func (l *listener) begin() {
	l.before, l.sockets = l.sockets, make(map[uint64]counts, len(l.sockets))
	l.fresh.drops, l.fresh.cookies = 0, 0
	l.sum = probe.Listener{}
}

// add takes the reading of one socket.
func (l *listener) add(of *probe.Listener) {
	now := counts{of.Drops, of.SynOverflow}
	was, known := l.before[of.SockCookie]
	if !known && of.Found {
		was = now // what it dropped before is not ours to count
	}
	l.fresh.drops += uint64(now.drops - was.drops) // they wrap
	if now.cookies != was.cookies {
		l.fresh.cookies++
	}
	if len(l.sockets) == 0 || of.SinceNs >= l.latest.SinceNs {
		l.latest = *of
	}
	l.sockets[of.SockCookie] = now
	l.sum.AcceptQueue += of.AcceptQueue
	l.sum.AcceptQueueLimit += of.AcceptQueueLimit
	l.sum.SynQueue += of.SynQueue
	l.sum.QueuedBefore += of.QueuedBefore
	if l.sum.SinceNs == 0 || of.SinceNs < l.sum.SinceNs {
		l.sum.SinceNs, l.sum.Found = of.SinceNs, of.Found
	}
}

// renew forgets what was counted if no socket of the reading before is still there: another listener has this address now.
func (l *listener) renew() {
	for cookie := range l.sockets {
		if _, there := l.before[cookie]; there {
			return
		}
	}
	*l = listener{sockets: l.sockets, latest: l.latest, sum: l.sum, fresh: l.fresh, since: l.sum.SinceNs, found: l.sum.Found}
}

// finish makes totals of a reading; the one before was at the time read.
func (l *listener) finish(read, now int64, wall func(uint64) int64) {
	l.drops += l.fresh.drops
	waiting := uint64(l.sum.AcceptQueue)
	come := l.latest.Established + uint64(l.sum.QueuedBefore)
	if come <= waiting+l.accepted {
		return
	}
	l.accepted = come - waiting
	l.lastAccepted = now
	if last := l.latest.LastNs; waiting == 0 && last != 0 {
		l.lastAccepted = min(now, max(read, wall(last)))
	}
}

// row is what is told of a listener, times in ns since 1970.
type row struct {
	Name
	key
	cgroup       uint64
	pid, uid     uint32
	comm         [16]byte
	sockets      int
	since        uint64 // kernel time
	found        bool
	lastAccepted int64

	accepted, acceptOverflows, synOverflows, drops uint64

	acceptQueue, acceptQueueLimit, synQueue uint32
}

func (l *listener) row(k key, name Name) row {
	of := &l.latest
	return row{
		Name: name, key: k, cgroup: of.CgroupID, pid: of.PID, uid: of.UID, comm: of.Comm, sockets: len(l.sockets), since: l.since, found: l.found,
		lastAccepted: l.lastAccepted, accepted: l.accepted, acceptOverflows: l.acceptOverflows, synOverflows: l.synOverflows, drops: l.drops,
		acceptQueue: l.sum.AcceptQueue, acceptQueueLimit: l.sum.AcceptQueueLimit, synQueue: l.sum.SynQueue,
	}
}

// news reports whether the row says something else than the one that was told so long ago.
func (r row) news(told row, ago time.Duration) bool {
	switch {
	case ago >= sameEvery:
		return true
	case r == told:
		return false
	case ago >= busyEvery || told.accepted == 0 && r.accepted > 0:
		return true
	}
	for _, x := range []*row{&r, &told} {
		x.accepted, x.lastAccepted, x.acceptQueue, x.synQueue = 0, 0, 0, 0
	}
	return r != told
}

// message tells the row as it was at a time.
func (r *row) message(now int64, wall func(uint64) int64) *flowv1.Listener {
	e := event.Event{Comm: r.comm}
	return &flowv1.Listener{
		Network: r.Network, LocalWorkload: r.Workload, LocalInstance: r.Instance, LocalZone: r.Zone, LocalRegion: r.Region, LocalRelease: r.Release,
		LocalEvidence: flowv1.Evidence(r.Evidence), LocalWhy: flowv1.Why(r.Why),
		Netns: strconv.FormatUint(uint64(r.netns), 10), LocalAddr: r.addr[:], LocalPort: uint32(r.port),
		CgroupId: r.cgroup, Pid: r.pid, Uid: r.uid, Comm: e.CommString(), Sockets: uint32(r.sockets),
		SinceNs: wall(r.since), SinceObserved: !r.found, LastAcceptedNs: r.lastAccepted, Accepted: r.accepted,
		AcceptOverflows: r.acceptOverflows, SynOverflows: r.synOverflows, Drops: r.drops,
		AcceptQueue: r.acceptQueue, AcceptQueueLimit: r.acceptQueueLimit, SynQueue: r.synQueue, ReadTimeNs: now,
	}
}
