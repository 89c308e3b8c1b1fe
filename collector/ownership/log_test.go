package ownership

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestLogStaysTidy lets many addresses change hands for long: holes in the log stay few, and every address is found with its present owner.
func TestLogStaysTidy(t *testing.T) {
	const addresses = 10_000
	tab := New(Config{MaxPerAddress: 3, MaxPerExporter: 1 << 30})
	rng := rand.New(rand.NewPCG(1, 2))
	owner := make([]int, addresses)
	at := func(i int) Addr {
		if i%3 == 0 {
			return Addr{0xfd00 << 48, uint64(i)}
		}
		return Addr{0, 0xffff<<32 | 10<<24 | uint64(i)}
	}
	now := sec(0)
	for step := range 5 * addresses {
		i := rng.IntN(addresses)
		if step < addresses {
			i = step
		}
		owner[i] = rng.IntN(50)
		now += tick
		c := Claim{Exporter: "x", Network: "n", Addr: at(i), Owner: Owner{Workload: fmt.Sprint("w", owner[i])}, From: now}
		if err := tab.Claim(&c, now); err != nil {
			t.Fatal(err)
		}
		if holes := (len(tab.log.live)-len(tab.log.unused))*chunkWords - tab.log.words; holes > tab.log.words/16+3*chunkWords {
			t.Fatalf("step %d: %d words in use, %d of holes", step, tab.log.words, holes)
		}
	}
	now += 20 * second // long enough for nobody to doubt the last owner
	_ = tab.Watermark(&Watermark{"x", "", now + second, now + second, 0})
	check := func(tab *Table) {
		t.Helper()
		v, net := tab.View(now+second), tab.Network("n")
		for i, o := range owner {
			if a := v.Lookup(net, at(i), 0, now+second/2, 0); a.Owner == nil || a.Owner.Workload != fmt.Sprint("w", o) {
				t.Fatalf("address %d: %+v, want w%d", i, a, o)
			}
		}
	}
	check(tab)
	if s := tab.Stats(); s.Addresses != addresses || tab.log.live[tab.log.emptiest()] < chunkWords/2 {
		t.Errorf("%d addresses, the emptiest chunk has %d words", s.Addresses, tab.log.live[tab.log.emptiest()])
	}
	var buf bytes.Buffer
	if err := tab.Snapshot(&buf); err != nil {
		t.Fatal(err)
	}
	copied := New(Config{MaxPerAddress: 3, MaxPerExporter: 1 << 30})
	if err := copied.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	check(copied)
}

// TestSnapshotWhileTheIndexGrows: what was there before is in the snapshot, although the index was rebuilt under it.
func TestSnapshotWhileTheIndexGrows(t *testing.T) {
	tab := New(Config{})
	claim := func(from, to int) {
		for i := from; i < to; i++ {
			c := Claim{Exporter: "x", Network: "n", Addr: Addr{0, 0xffff<<32 | 10<<24 | uint64(i)}, Owner: web, From: sec(0)}
			if err := tab.Claim(&c, sec(0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	claim(0, 20_000)
	var buf bytes.Buffer
	s := newSnapshotWriter(tab, &buf)
	for next := 20_000; s.entries(); next *= 2 {
		claim(next, 2*next)
	}
	if err := s.end(); err != nil {
		t.Fatal(err)
	}
	copied := New(Config{})
	if err := copied.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if got := copied.Stats().Addresses; got < 20_000 || s.restarts < 2 {
		t.Errorf("%d addresses, begun %d times", got, s.restarts)
	}
}
