package session

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

const (
	second = int64(time.Second)
	t0     = 1_795_000_000 * second
)

// wire carries what one node says to another, message by message, as Kafka would.
type wire struct {
	t    *testing.T
	said []proto.Message
}

func (w *wire) Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep) {
	w.said = append(w.said, proto.Clone(&flowv1.ExporterChanges{ExporterId: exporter, Host: host, Stream: stream, Steps: []*flowv1.OwnershipStep{step}}))
}

func (w *wire) Mark(m *flowv1.ExporterWatermark) { w.said = append(w.said, proto.Clone(m)) }

// node is a collector with a book.
type node struct {
	*Book
	t     *testing.T
	table *ownership.Table
	wire  *wire
}

func newNode(t *testing.T) *node {
	n := &node{t: t, table: ownership.New(ownership.Config{}), wire: &wire{t: t}}
	var err error
	if n.Book, err = New(3, n.table, n.wire); err != nil {
		t.Fatal(err)
	}
	return n
}

// hears applies what the other node has said since the last time.
func (n *node) hears(o *node) (results []Result) {
	for _, m := range o.wire.said {
		switch m := m.(type) {
		case *flowv1.ExporterChanges:
			results = append(results, n.Apply(m))
		case *flowv1.ExporterWatermark:
			results = append(results, n.Mark(m))
		}
	}
	o.wire.said = nil
	return results
}

func helloOf(id string) *flowv1.Hello { return &flowv1.Hello{ExporterId: id, Host: "h-" + id} }

func (n *node) open(id string, at int64) *Stream {
	n.t.Helper()
	s, err := n.Open(helloOf(id), t0+at, Peer{})
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func claim(last byte, workload string, from int64) *flowv1.Claim {
	a := [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: last}
	return &flowv1.Claim{Network: "n", Addr: a[:], Workload: workload, Instance: workload + "-1", FromNs: t0 + from}
}

func addrOf(last byte) ownership.Addr {
	return ownership.AddrFrom16((*[16]byte)(claim(last, "", 0).GetAddr()))
}

func set(full bool, claims ...*flowv1.Claim) *flowv1.Ownership {
	return &flowv1.Ownership{Full: full, Claims: claims}
}

func tell(t *testing.T, s *Stream, m *flowv1.Ownership, at int64) {
	t.Helper()
	if err := s.Ownership(m, t0+at, nobody{}); err != nil {
		t.Fatal(err)
	}
}

func mark(t *testing.T, s *Stream, to int64) {
	t.Helper()
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: t0 + to}, t0+to); err != nil {
		t.Fatal(err)
	}
}

// owner asks as of now.
func (n *node) owner(last byte, at, now int64) string {
	a := n.table.View(t0+now).Lookup(n.table.Network("n"), addrOf(last), 80, t0+at, second/10)
	if a.Owner == nil {
		return a.Why.String()
	}
	return a.Owner.Workload
}

// TestAnotherNodeKnowsTheSame: what an exporter says here is known there, at the same times.
func TestAnotherNodeKnowsTheSame(t *testing.T) {
	a, b := newNode(t), newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0), claim(2, "shop/api", 0)), 0)
	mark(t, s, 10*second)
	tell(t, s, &flowv1.Ownership{Releases: []*flowv1.Release{{Network: "n", Addr: claim(2, "", 0).GetAddr(), AtNs: t0 + 10*second}}}, 10*second)
	mark(t, s, 20*second)
	b.hears(a)
	for _, n := range []*node{a, b} {
		for _, q := range []struct {
			last byte
			at   int64
			want string
		}{{1, 5, "shop/web"}, {1, 19, "shop/web"}, {2, 5, "shop/api"}, {2, 15, "no_evidence"}} {
			if got := n.owner(q.last, q.at*second, 20*second); got != q.want {
				t.Errorf("address %d at %d s: %s, want %s", q.last, q.at, got, q.want)
			}
		}
	}
}

// TestExporterMovesBetweenNodes: what it released while nobody listened ends on every node, and what its older stream said does not come back.
func TestExporterMovesBetweenNodes(t *testing.T) {
	a, b, c := newNode(t), newNode(t), newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0), claim(2, "shop/api", 0)), 0)
	mark(t, s, 10*second)
	late := a.wire.said
	b.hears(a)

	s2 := b.open("x", 12*second)
	tell(t, s2, set(true, claim(1, "shop/web", 0)), 12*second)
	mark(t, s2, 20*second)
	moved := b.wire.said
	a.hears(b)
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: t0 + 20*second}, t0+20*second); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the stream that was left: %v", err)
	}
	// The third node hears of the new stream first.
	b.wire.said, a.wire.said = moved, late
	c.hears(b)
	for _, r := range c.hears(a) {
		if r != Stale {
			t.Errorf("a message of the older stream is %d, want stale", r)
		}
	}
	for name, n := range map[string]*node{"a": a, "b": b, "c": c} {
		if got := n.owner(1, 15*second, 20*second); got != "shop/web" {
			t.Errorf("%s: still claimed: %s", name, got)
		}
		if got := n.owner(2, 15*second, 20*second); got != "no_evidence" {
			t.Errorf("%s: released meanwhile: %s", name, got)
		}
	}
}

// TestOlderHelloComesLater: what a cut connection still brings after the next stream's hello does not count, at the same node or at another one, even where
// the other one has not heard of the newer stream yet. (Found by the simulator: the older set named an address for somebody who had left it.)
func TestOlderHelloComesLater(t *testing.T) {
	const older, newer = t0 + 5*second, t0 + 6*second
	numbered := func(number int64) *flowv1.Hello {
		h := helloOf("x")
		h.ControlStream = number
		return h
	}
	open := func(n *node, number, at int64) *Stream {
		s, err := n.Open(numbered(number), t0+at, Peer{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	a, b, c := newNode(t), newNode(t), newNode(t)
	s := open(a, newer, 7*second)
	tell(t, s, set(true, claim(1, "shop/web", 6*second)), 7*second)
	for _, number := range []int64{older, newer} {
		if _, err := a.Open(numbered(number), t0+8*second, Peer{}); !errors.Is(err, ErrSuperseded) {
			t.Errorf("stream %d at the same node: %v", number, err)
		}
	}
	late := open(b, older, 9*second) // its clock is later than that of the newer one's node
	tell(t, late, set(true, claim(1, "shop/old", 0), claim(2, "shop/old", 0)), 9*second)
	said := a.wire.said
	for _, r := range a.hears(b) {
		if r != Stale {
			t.Errorf("a message of the older stream is %d, want stale", r)
		}
	}
	b.hears(&node{wire: &wire{said: said}})
	c.hears(&node{wire: &wire{said: said}})
	if _, err := c.Open(numbered(older), t0+9*second, Peer{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("at a node that has heard of the newer one: %v", err)
	}
	if err := late.Ownership(set(false, claim(2, "shop/old", 0)), t0+10*second, nobody{}); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the older stream goes on: %v", err)
	}
	a.wire.said = nil
	mark(t, s, 20*second)
	said = a.wire.said
	for name, n := range map[string]*node{"a": a, "b": b, "c": c} {
		if n != a {
			n.hears(&node{wire: &wire{said: said}})
		}
		if got := n.owner(1, 15*second, 20*second); got != "shop/web" {
			t.Errorf("%s: the newest claim: %s", name, got)
		}
		if got := n.owner(2, 15*second, 20*second); got == "shop/old" {
			t.Errorf("%s: what only the older stream claimed: %s", name, got)
		}
	}
	if s = open(a, newer+1, 21*second); s.number != newer+1 {
		t.Errorf("the next stream is %d", s.number)
	}
}

// heard keeps what an Observer is told.
type heard struct{ results []string }

func (h *heard) Claim(_ *flowv1.Claim, result string) { h.results = append(h.results, result) }
func (h *heard) Release(result string)                { h.results = append(h.results, result) }

// TestPortsOutside: ports that are none do not become others, in claims and releases.
func TestPortsOutside(t *testing.T) {
	a := newNode(t)
	s := a.open("x", 0)
	for _, p := range [][2]uint32{{65536 + 80, 65536 + 90}, {80, 65536 + 90}, {65536 + 80, 90}, {1 << 31, 1 << 31}, {90, 80}, {0, 80}} {
		c, told := claim(1, "shop/evil", 0), &heard{}
		c.PortFrom, c.PortTo = p[0], p[1]
		r := &flowv1.Release{Network: "n", Addr: c.GetAddr(), PortFrom: p[0], PortTo: p[1], AtNs: t0}
		if err := s.Ownership(&flowv1.Ownership{Claims: []*flowv1.Claim{c}, Releases: []*flowv1.Release{r}}, t0, told); err != nil {
			t.Fatal(err)
		}
		for _, got := range told.results {
			if got != ownership.BadPorts.String() {
				t.Errorf("ports %d: %v", p, told.results)
			}
		}
		if len(told.results) != 2 {
			t.Errorf("ports %d: told %v", p, told.results)
		}
	}
}

// TestReleaseThatComesTwice: it is of the claim before, and the present one is ended all the same by a set that leaves it out. (Found by the
// simulator: Kafka gives messages twice, and the claim was verified for ever.)
func TestReleaseThatComesTwice(t *testing.T) {
	n := newNode(t)
	s := n.open("x", 0)
	release := &flowv1.Ownership{Releases: []*flowv1.Release{{Network: "n", Addr: claim(1, "", 0).GetAddr(), Workload: "old", Instance: "old-1", AtNs: t0 + 10*second}}}
	tell(t, s, set(true, claim(1, "old", 0)), second)
	tell(t, s, release, 10*second)
	tell(t, s, set(false, claim(1, "new", 12*second)), 12*second)
	tell(t, s, release, 13*second)
	mark(t, s, 20*second)
	if got := n.owner(1, 19*second, 20*second); got != "new" {
		t.Errorf("after the second release it is %s's", got)
	}
	s = n.open("x", 21*second)
	tell(t, s, set(true), 21*second)
	mark(t, s, 40*second)
	if got := n.owner(1, 39*second, 40*second); got == "new" {
		t.Error("a claim that is not in the whole set is verified by the watermarks after it")
	}
}

// TestForgottenExporterEnds: over the bound the exporter that was silent longest is forgotten, with its stream and claims.
func TestForgottenExporterEnds(t *testing.T) {
	a := newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0)), 0)
	mark(t, s, 10*second)
	for _, id := range []string{"p", "q", "r"} {
		a.open(id, 11*second)
	}
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: t0 + 20*second}, t0+20*second); !errors.Is(err, ErrSuperseded) {
		t.Errorf("the forgotten exporter's stream: %v", err)
	}
	for i := range a.table.View(t0+20*second).Ranges(a.table.Network("n"), addrOf(1), 0, t0+20*second) {
		r := a.table.View(t0+20*second).Ranges(a.table.Network("n"), addrOf(1), 0, t0+20*second)[i]
		if r.Open {
			t.Errorf("still open: %+v", r)
		}
	}
}

// TestHostileMessages are refused, and nobody else is affected.
func TestHostileMessages(t *testing.T) {
	a := newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0)), 0)
	mark(t, s, 10*second)
	long := string(make([]byte, 10_000))
	for name, c := range map[string]struct {
		changes *flowv1.ExporterChanges
		want    Result
	}{
		"no name":        {&flowv1.ExporterChanges{Stream: 1, Steps: []*flowv1.OwnershipStep{{}}}, Refused},
		"long name":      {&flowv1.ExporterChanges{ExporterId: long, Stream: 1, Steps: []*flowv1.OwnershipStep{{}}}, Refused},
		"no stream":      {&flowv1.ExporterChanges{ExporterId: "y", Steps: []*flowv1.OwnershipStep{{}}}, Stale},
		"own stream":     {&flowv1.ExporterChanges{ExporterId: "x", Stream: s.number, Steps: []*flowv1.OwnershipStep{{Ownership: set(true)}}}, Stale},
		"no steps":       {&flowv1.ExporterChanges{ExporterId: "x", Stream: 1 << 62}, Applied},
		"negative":       {&flowv1.ExporterChanges{ExporterId: "x", Stream: -5, Steps: []*flowv1.OwnershipStep{{Ownership: set(true)}}}, Stale},
		"nothing at all": {&flowv1.ExporterChanges{}, Applied},
	} {
		if got := a.Apply(c.changes); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	bad := claim(1, "shop/evil", 0)
	bad.Addr = bad.Addr[:4]
	if r := a.Apply(&flowv1.ExporterChanges{ExporterId: "z", Host: "h", Stream: 5, Steps: []*flowv1.OwnershipStep{{ReceivedNs: t0, Ownership: set(true, bad)}}}); r != Applied {
		t.Errorf("a bad claim: %d", r)
	}
	if got := a.owner(1, 5*second, 10*second); got != "shop/web" {
		t.Errorf("after all that: %s", got)
	}
}
