package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"tributary/collector/attribute"
	"tributary/collector/hold"
	"tributary/collector/ownership"
	"tributary/collector/ownership/feed"
	"tributary/collector/ownership/session"
	elsewhere "tributary/collector/region"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// node is a collector of a region: the real table, book of claims, attributor and hold.
type node struct {
	region  *region
	number  int
	era     int // counts restarts
	down    bool
	table   *ownership.Table
	book    *session.Book
	attr    *attribute.Attributor
	hold    *hold.Hold
	regions *elsewhere.Resolver
	answers *elsewhere.Server
	grants  session.Grants
	gate    map[string]*exporter
	opener  *flow.Opener
	spare   []*flow.Batch

	topic *part     // nil for a node that is alone
	saved *snapshot // on its disk

	metrics  *prometheus.Registry
	waiting  map[rowKey]undecided // rows handed on unsettled and not again yet
	stepping bool
	lastStep int64
	lastTick int64 // of the resolver
}

const (
	passEvery  = 50 * ms
	lookAgain  = 100 * ms
	quietStart = 10 * sec
)

func newNode(r *region) *node {
	n := &node{region: r, number: len(r.nodes), grants: r.grants(), waiting: map[rowKey]undecided{}}
	var err error
	if n.opener, err = flow.NewOpener(); err != nil {
		panic(err)
	}
	n.begin(false)
	r.sim.time.after(sec, n.expire)
	r.sim.time.after(gather, n.askRegions)
	return n
}

func (n *node) now() int64 { return epoch + n.region.sim.time.now }

// reachable is a node that takes new streams, any one; nil if there is none.
func (r *region) reachable() *node {
	first := r.sim.rng.IntN(len(r.nodes))
	for i := range r.nodes {
		if n := r.nodes[(first+i)%len(r.nodes)]; !n.down {
			return n
		}
	}
	return nil
}

// begin starts a collector, with what its disk has or with nothing.
func (n *node) begin(disk bool) {
	var err error
	n.metrics = prometheus.NewRegistry()
	n.gate = map[string]*exporter{}
	n.table = ownership.New(ownership.Config{QuietUntil: n.now() + quietStart})
	clock := func() time.Time { return time.Unix(0, n.now()) }
	var others session.Publisher
	if n.region.sim.cfg.nodes > 1 {
		n.topic = &part{}
		// The name of a run: what an earlier one wrote is read as another's.
		conf := feed.Config{Node: fmt.Sprintf("%s-%d-%d", n.region.name, n.number, n.era), Partitions: partitions}
		if n.topic.feed, err = feed.NewSimulated(conf, clock, n.table, n.metrics); err != nil {
			panic(err)
		}
		others = n.topic.feed
	}
	if n.book, err = session.New(100_000, n.table, others); err != nil {
		panic(err)
	}
	n.openRegions(clock)
	if n.attr, err = attribute.New(attribute.Config{Regions: n.regions, Refused: n.book.Refused}, n.table, n.metrics); err != nil {
		panic(err)
	}
	if n.hold, err = hold.New(hold.Config{Now: clock}, n.table, n.attr, n.emit, n.metrics); err != nil {
		panic(err)
	}
	n.stepping, n.down = false, false
	if n.topic == nil {
		return
	}
	var from []int64
	if disk {
		from = n.restore()
	}
	n.openTopic(from)
}

// restart loses everything that the collector knew, but for what its disk has; exporters send what was not acknowledged again.
func (n *node) restart() {
	s := n.region.sim
	n.region.sim.score.met(n.metrics)
	s.score.lostWaiting(n)
	n.era++
	n.down = true
	hosts := n.region.hosts
	if f := n.region.forger; f != nil {
		hosts = append(hosts[:len(hosts):len(hosts)], f)
	}
	for _, h := range hosts {
		if h.node == n {
			h.stream.close()
			s.time.after(s.between(1500*ms, 4*sec), h.connect)
		}
	}
	disk := s.chance(0.5)
	s.time.after(sec, func() { n.begin(disk) })
}

func (n *node) expire() {
	if !n.down {
		n.table.Expire(n.now(), 20_000)
	}
	n.region.sim.time.after(sec, n.expire)
}

// wake lets the hold look again, at most every passEvery.
func (n *node) wake(in int64) {
	s := n.region.sim
	if n.stepping {
		return
	}
	n.stepping = true
	era := n.era
	s.time.at(max(s.time.now+in, n.lastStep+passEvery), func() {
		if era != n.era || n.down {
			return
		}
		n.stepping, n.lastStep = false, s.time.now
		if n.hold.Step() {
			n.wake(lookAgain)
		}
	})
}

// exporter is what the front door remembers of one run of an exporter.
type exporter struct {
	id, host string
	grant    *session.Grant
	session  *session.Stream
	life     *life // of the session
	greeted  *life // by the hello of which Flows stream
	taken    map[uint64]bool
}

func (n *node) exporter(id, host string) *exporter {
	e := n.gate[id]
	if e == nil {
		e = &exporter{id: id, host: host, grant: n.grants.Of([]string{host}), taken: map[uint64]bool{}}
		n.gate[id] = e
	}
	return e
}

// control takes one message of a Control stream, as collector/ingest does.
func (n *node) control(h *host, run string, l *life, data []byte) {
	var m flowv1.ControlRequest
	if err := proto.Unmarshal(data, &m); err != nil {
		panic(err)
	}
	e := n.exporter(run, h.name)
	if hello := m.GetHello(); hello != nil {
		opened, err := n.book.Open(hello, n.now(), session.Peer{Grant: e.grant, Identity: session.IdentityOf([]string{h.name})})
		switch {
		case errors.Is(err, session.ErrSuperseded):
			n.region.sim.score.refused[err.Error()]++
			return
		case err != nil:
			panic(err)
		}
		e.session, e.life = opened, l
		return
	}
	if e.life != l {
		return // the exporter has opened a newer stream
	}
	var err error
	switch {
	case m.GetOwnership() != nil:
		err = e.session.Ownership(m.GetOwnership(), n.now(), n)
	case m.GetWatermark() != nil:
		err = e.session.Watermark(m.GetWatermark(), n.now())
	}
	if err != nil {
		n.region.sim.score.refused[err.Error()]++
	}
	n.wake(0)
}

// Claim implements session.Observer.
func (n *node) Claim(_ *flowv1.Claim, result string) { n.Release(result) }

// Release implements session.Observer.
func (n *node) Release(result string) {
	if result != session.Accepted {
		n.region.sim.score.refused[result]++
	}
}

// take takes a batch in.
func (n *node) take(h *host, run string, l *life, x *sealed) {
	e := n.exporter(run, h.name)
	if e.greeted != l {
		e.greeted = l
		if err := n.table.Seen(run, h.name, l.clock, n.now()); err != nil {
			panic(err)
		}
	}
	if e.taken[x.wire.GetBatchSeq()] {
		return
	}
	e.taken[x.wire.GetBatchSeq()] = true
	b := n.batch()
	if err := n.opener.Open(x.wire, b); err != nil {
		panic(err)
	}
	b.ReceivedTimeNs, b.Grant = n.now(), e.grant
	if !x.met {
		x.met = true
		n.region.sim.rivals.arrived(h, x)
	}
	n.hold.Add(b)
	n.wake(0)
}

func (n *node) batch() *flow.Batch {
	if l := len(n.spare); l > 0 {
		b := n.spare[l-1]
		n.spare = n.spare[:l-1]
		return b
	}
	return new(flow.Batch)
}

// emit gets what leaves the hold: it is scored and acknowledged.
func (n *node) emit(b *flow.Batch) {
	first := n.region.sim.score.batch(n, b)
	if !first {
		return
	}
	if h := n.region.byExporter[b.ExporterID]; h != nil && h.exporterID() == b.ExporterID {
		h.acked(b.Seq)
	}
	b.Reset()
	n.spare = append(n.spare, b)
}
