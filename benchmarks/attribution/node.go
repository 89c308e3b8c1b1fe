package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"tributary/collector/attribute"
	"tributary/collector/hold"
	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// node is the collector of a region: the real table, attributor and hold, and a copy of what ingest does with a Control stream.
type node struct {
	region *region
	era    int // counts restarts
	down   bool
	table  *ownership.Table
	attr   *attribute.Attributor
	hold   *hold.Hold
	gate   map[string]*exporter
	opener *flow.Opener
	spare  []*flow.Batch

	metrics  *prometheus.Registry
	pending  int64 // rows handed on as pending and not again yet
	stepping bool
	lastStep int64
}

const (
	passEvery  = 50 * ms
	lookAgain  = 100 * ms
	quietStart = 10 * sec
)

func newNode(r *region) *node {
	n := &node{region: r}
	var err error
	if n.opener, err = flow.NewOpener(); err != nil {
		panic(err)
	}
	n.begin()
	r.sim.time.after(sec, n.expire)
	return n
}

func (n *node) now() int64 { return epoch + n.region.sim.time.now }

// begin makes an empty collector.
func (n *node) begin() {
	var err error
	n.metrics = prometheus.NewRegistry()
	n.gate = map[string]*exporter{}
	n.table = ownership.New(ownership.Config{QuietUntil: n.now() + quietStart})
	if n.attr, err = attribute.New(attribute.Config{}, n.table, n.metrics); err != nil {
		panic(err)
	}
	clock := func() time.Time { return time.Unix(0, n.now()) }
	if n.hold, err = hold.New(hold.Config{Now: clock}, n.table, n.attr, n.emit, n.metrics); err != nil {
		panic(err)
	}
	n.stepping, n.down = false, false
}

// restart loses everything that the collector knew; exporters send what was not acknowledged again.
func (n *node) restart() {
	s := n.region.sim
	n.region.sim.score.met(n.metrics)
	s.score.lostWaiting(n)
	n.era++
	n.down = true
	for _, h := range n.region.hosts {
		h.stream.close()
		s.time.after(s.between(1500*ms, 4*sec), h.connect)
	}
	s.time.after(sec, n.begin)
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

// exporter is what ingest remembers of one run of an exporter.
type exporter struct {
	id, host   string
	generation *life
	greeted    *life              // by the hello of which Flows stream
	claims     map[claimKey]*life // by the stream that they came on last
	verified   int64
	taken      map[uint64]bool
}

type claimKey struct {
	network  string
	addr     [16]byte
	from, to uint16
}

func (n *node) exporter(id, host string) *exporter {
	e := n.gate[id]
	if e == nil {
		e = &exporter{id: id, host: host, claims: map[claimKey]*life{}, taken: map[uint64]bool{}}
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
		if err := n.table.Seen(hello.GetExporterId(), hello.GetHost(), hello.GetClockNs(), n.now()); err != nil {
			panic(err)
		}
		e.generation = l
		return
	}
	if e.generation != l {
		return // the exporter has opened a newer stream
	}
	switch {
	case m.GetOwnership() != nil:
		n.ownership(h, e, m.GetOwnership())
	case m.GetWatermark() != nil:
		n.watermark(e, m.GetWatermark())
	}
	n.wake(0)
}

func (n *node) watermark(e *exporter, m *flowv1.Watermark) {
	w := ownership.Watermark{Exporter: e.id, Host: e.host, VerifiedTo: m.GetVerifiedToNs(), ReceivedAt: n.now(), ClockNs: m.GetClockNs()}
	if err := n.table.Watermark(&w); err != nil {
		n.region.sim.score.refused[err.Error()]++
		return
	}
	e.verified = max(e.verified, m.GetVerifiedToNs())
}

func (n *node) ownership(h *host, e *exporter, m *flowv1.Ownership) {
	for _, c := range m.GetClaims() {
		key := claimKey{c.GetNetwork(), [16]byte(c.GetAddr()), uint16(c.GetPortFrom()), uint16(c.GetPortTo())}
		err := n.table.Claim(&ownership.Claim{
			Exporter: e.id, Host: e.host, Network: key.network, Addr: ownership.AddrFrom16(&key.addr), PortFrom: key.from, PortTo: key.to,
			Owner: ownership.Owner{Workload: c.GetWorkload(), Instance: c.GetInstance(), Zone: c.GetZone(), Region: c.GetRegion()},
			From:  c.GetFromNs(),
		}, n.now())
		if err != nil {
			n.region.sim.score.refused[err.Error()]++
			continue
		}
		e.claims[key] = e.generation
	}
	for _, r := range m.GetReleases() {
		key := claimKey{r.GetNetwork(), [16]byte(r.GetAddr()), uint16(r.GetPortFrom()), uint16(r.GetPortTo())}
		n.close(e, key, r.GetAtNs(), false)
	}
	if !m.GetFull() {
		return
	}
	for key, l := range e.claims {
		if l != e.generation {
			n.close(e, key, e.verified, true)
		}
	}
}

func (n *node) close(e *exporter, key claimKey, at int64, absent bool) {
	delete(e.claims, key)
	r := ownership.Release{
		Exporter: e.id, Network: key.network, Addr: ownership.AddrFrom16(&key.addr), PortFrom: key.from, PortTo: key.to, At: at, Reason: "gone", Absent: absent,
	}
	if err := n.table.Release(&r, n.now()); err != nil {
		n.region.sim.score.refused[err.Error()]++
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
	b.ReceivedTimeNs = n.now()
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
