package session

import (
	"testing"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

// TestRepeatedSet: a node that missed the beginning learns everything, and one that did not counts no claim twice.
func TestRepeatedSet(t *testing.T) {
	a, knows, fresh := newNode(t), newNode(t), newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(false, claim(1, "shop/web", 0)), 0)
	knows.hears(a)
	a.RepeatOne("x", t0+second)
	if len(a.wire.said) != 0 {
		t.Error("half of a set is said as the whole")
	}
	tell(t, s, set(true, claim(2, "shop/api", 0)), 0)
	tell(t, s, set(false, claim(3, "shop/db", second)), second)
	knows.hears(a)
	for i := range 5 {
		for share := range 4 {
			a.Repeat(share, 4, t0+int64(2+i)*second)
		}
	}
	if len(a.wire.said) != 5 {
		t.Fatalf("%d repeated sets, want 5", len(a.wire.said))
	}
	mark(t, s, 10*second)
	said := a.wire.said
	knows.hears(a)
	a.wire.said = said
	fresh.hears(a)
	for name, n := range map[string]*node{"knows": knows, "fresh": fresh} {
		for last, want := range map[byte]string{1: "shop/web", 2: "shop/api", 3: "shop/db"} {
			if got := n.owner(last, 5*second, 10*second); got != want {
				t.Errorf("%s: address %d: %s", name, last, got)
			}
			addr := ownership.AddrFrom16((*[16]byte)(claim(last, "", 0).GetAddr()))
			if r := n.table.View(t0+10*second).Ranges(n.table.Network("n"), addr, 0, t0+10*second); len(r) != 1 || r[0].Claims != 1 {
				t.Errorf("%s: address %d has %+v", name, last, r)
			}
		}
	}
	// A set without an address ends it.
	changes := &flowv1.ExporterChanges{ExporterId: "x", Host: "h-x", Stream: s.number, Steps: []*flowv1.OwnershipStep{
		{ReceivedNs: t0 + 11*second, RepeatedSet: true, Ownership: set(true, claim(1, "shop/web", 0))},
	}}
	if r := fresh.Apply(changes); r != Applied {
		t.Fatal(r)
	}
	if err := fresh.table.Watermark(&ownership.Watermark{Exporter: "x", Host: "h-x", VerifiedTo: t0 + 20*second, ReceivedAt: t0 + 20*second}); err != nil {
		t.Fatal(err)
	}
	if got := fresh.owner(2, 15*second, 20*second); got != "no_evidence" {
		t.Errorf("left out of the set: %s", got)
	}
}

// TestRestoredClaimsAreSwept: what was open before a restart and is not in the next whole set ends.
func TestRestoredClaimsAreSwept(t *testing.T) {
	a := newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0), claim(2, "shop/api", 0)), 0)
	mark(t, s, 10*second)
	b := newNode(t)
	a.table.Open(func(c *ownership.Claim, verified int64) bool {
		if err := b.table.Claim(c, t0+10*second); err != nil {
			t.Fatal(err)
		}
		b.Restore(c, verified)
		return true
	})
	s2 := b.open("x", 20*second)
	tell(t, s2, set(true, claim(1, "shop/web", 0)), 20*second)
	mark(t, s2, 30*second)
	if got := b.owner(1, 25*second, 30*second); got != "shop/web" {
		t.Errorf("claimed again: %s", got)
	}
	if got := b.owner(2, 25*second, 30*second); got != "no_evidence" {
		t.Errorf("left out: %s", got)
	}
	if ended := b.range1(2, 30*second).To; ended != t0+10*second {
		t.Errorf("left out, it ended at %d s", (ended-t0)/second)
	}
}

// range1 is the one range of an address.
func (n *node) range1(last byte, now int64) ownership.Range {
	n.t.Helper()
	r := n.table.View(t0+now).Ranges(n.table.Network("n"), addrOf(last), 0, t0+now)
	if len(r) != 1 {
		n.t.Fatalf("address %d has %d ranges: %+v", last, len(r), r)
	}
	return r[0]
}

// TestLeftOutOfASet: what the next whole set leaves out has ended with the last watermark that was taken, here and at another node, and a claim that is not there is released by nobody.
func TestLeftOutOfASet(t *testing.T) {
	a, b := newNode(t), newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/web", 0), claim(2, "shop/api", 0)), 0)
	mark(t, s, 10*second)
	mark(t, s, 8*second) // an older one changes nothing
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: t0 + 900*second}, t0+10*second); err == nil {
		t.Error("a watermark of the future was taken")
	}
	s = a.open("x", 12*second)
	tell(t, s, set(true, claim(1, "shop/web", 0)), 12*second)
	mark(t, s, 20*second)
	b.hears(a)
	for name, n := range map[string]*node{"here": a, "there": b} {
		if r := n.range1(2, 20*second); r.Open || r.To != t0+10*second {
			t.Errorf("%s: left out, it is open %v, to %d s", name, r.Open, (r.To-t0)/second)
		}
		if got := n.owner(1, 15*second, 20*second); got != "shop/web" {
			t.Errorf("%s: claimed again: %s", name, got)
		}
	}
	told := &heard{}
	release := &flowv1.Release{Network: "n", Addr: claim(2, "", 0).GetAddr(), AtNs: t0 + 15*second}
	if err := s.Ownership(&flowv1.Ownership{Releases: []*flowv1.Release{release}}, t0+20*second, told); err != nil || len(told.results) != 1 || told.results[0] != ownership.UnknownRange.String() {
		t.Errorf("released once more: %v %v", told.results, err)
	}
}

// TestRepeatedSetTellsAnotherOwner: a node that has missed a claim takes it from the repeated set, where the address has another owner by now.
func TestRepeatedSetTellsAnotherOwner(t *testing.T) {
	a, b := newNode(t), newNode(t)
	s := a.open("x", 0)
	tell(t, s, set(true, claim(1, "shop/old", 0), claim(2, "shop/api", 0)), 0)
	mark(t, s, 5*second)
	b.hears(a)
	tell(t, s, set(false, claim(1, "shop/new", 6*second), claim(2, "shop/api2", 0)), 6*second)
	a.wire.said = nil // it is lost
	a.RepeatOne("x", t0+7*second)
	mark(t, s, 20*second)
	b.hears(a)
	if got := b.owner(1, 15*second, 20*second); got != "shop/new" {
		t.Errorf("from the repeated set: %s", got)
	}
	if got := b.owner(1, 2*second, 20*second); got != "shop/old" {
		t.Errorf("before: %s", got)
	}
}
