package session

import (
	"errors"
	"testing"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

func TestIdentityOf(t *testing.T) {
	one := IdentityOf([]string{"db-1.corp", "db-1"})
	if one != IdentityOf([]string{"db-1", "db-1.corp", "db-1"}) {
		t.Error("the order of the names makes a difference")
	}
	for _, other := range [][]string{nil, {"db-1"}, {"db-1.corpdb-1"}, {"db-1.corp", "db-2"}} {
		if IdentityOf(other) == one {
			t.Errorf("%v is taken for another one", other)
		}
	}
	if IdentityOf(nil) != (Identity{}) || IdentityOf([]string{""}) == (Identity{}) {
		t.Error("nobody is somebody, or somebody nobody")
	}
}

// TestExporterBelongsToItsIdentity: at its node, at another one, and after a restart out of a snapshot.
func TestExporterBelongsToItsIdentity(t *testing.T) {
	honest, evil := Peer{Identity: IdentityOf([]string{"honest"})}, Peer{Identity: IdentityOf([]string{"evil"})}
	a, b := newNode(t), newNode(t)
	s, err := a.Open(helloOf("x"), t0, honest)
	if err != nil {
		t.Fatal(err)
	}
	tell(t, s, set(true, claim(1, "shop/web", 0)), 0)
	mark(t, s, 10*second)
	b.hears(a)
	restarted := newNode(t)
	a.table.Open(func(c *ownership.Claim, verified int64) bool {
		if err := restarted.table.Claim(c, t0+10*second); err != nil {
			t.Fatal(err)
		}
		restarted.Restore(c, verified)
		return true
	})
	for _, o := range a.Owned() {
		restarted.RestoreOwner(&o)
	}
	for name, n := range map[string]*node{"its own": a, "another": b, "restarted": restarted} {
		for who, by := range map[string]Peer{"evil": evil, "nobody": {}} {
			if _, err := n.Open(helloOf("x"), t0+11*second, by); !errors.Is(err, ErrOtherIdentity) || n.Check("x", by.Identity) == nil {
				t.Errorf("%s node, %s: %v", name, who, err)
			}
		}
		if err := n.Check("x", honest.Identity); err != nil {
			t.Errorf("%s node, the owner: %v", name, err)
		}
		if err := n.Check("another", evil.Identity); err != nil {
			t.Errorf("%s node, another exporter: %v", name, err)
		}
	}
	mark(t, s, 12*second) // nobody has taken the stream away
	if got := a.owner(1, 11*second, 12*second); got != "shop/web" {
		t.Error(got)
	}
	if results := restarted.hears(a); results[0] != Applied { // of the stream that was known before
		t.Errorf("after the restart: %v", results)
	}
	if _, err := b.Open(helloOf("x"), t0+13*second, honest); err != nil { // it moves
		t.Error(err)
	}
}

// TestOtherNodeTakenIn: a node that did not know whose the exporter is tells the others in vain.
func TestOtherNodeTakenIn(t *testing.T) {
	a, b := newNode(t), newNode(t)
	s, err := a.Open(helloOf("x"), t0, Peer{Identity: IdentityOf([]string{"honest"})})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, s, set(true, claim(1, "shop/web", 0)), 0)
	forged, err := b.Open(helloOf("x"), t0+second, Peer{Identity: IdentityOf([]string{"evil"})})
	if err != nil {
		t.Fatal(err)
	}
	tell(t, forged, set(true), second)
	mark(t, forged, 100*second)
	b.Repeat(0, 1, t0+2*second)
	for i, r := range a.hears(b) {
		if r == Applied {
			t.Errorf("message %d was taken", i)
		}
	}
	mark(t, s, 10*second)
	if got := a.owner(1, 5*second, 10*second); got != "shop/web" {
		t.Error(got)
	}
	mark(t, s, 12*second)
	c := newNode(t) // comes later, and hears first what stands first
	c.Apply(&flowv1.ExporterChanges{ExporterId: "x", Host: "h-x", Stream: s.number, Steps: []*flowv1.OwnershipStep{{ReceivedNs: t0, Ownership: set(false, claim(1, "shop/web", 0))}}})
	c.hears(a)
	if c.Check("x", IdentityOf([]string{"evil"})) == nil || c.Check("x", IdentityOf([]string{"honest"})) != nil {
		t.Error("the third node does not know whose the exporter is")
	}
}
