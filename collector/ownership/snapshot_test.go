package ownership

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told makes a table with some of everything: ended, released, loose, open, ported and shared ranges, and a bad clock.
func told(seed uint64) *Table {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := New(Config{})
	for i := range 2000 {
		x := string(rune('a' + rng.IntN(5)))
		at := 100 + float64(i)/10
		c := &Claim{
			Exporter: x, Host: "h-" + x, Network: []string{"n", "m"}[rng.IntN(2)], Addr: fuzzAddrs[rng.IntN(2)], Owner: fuzzOwners[rng.IntN(len(fuzzOwners))],
			From: sec(at),
		}
		c.Addr.Lo += uint64(rng.IntN(300))
		if rng.IntN(4) == 0 {
			c.PortFrom, c.PortTo = 80, uint16(80+rng.IntN(3))
		}
		_ = w.Claim(c, sec(at))
		switch rng.IntN(4) {
		case 0:
			_ = w.Release(&Release{Exporter: x, Network: c.Network, Addr: c.Addr, PortFrom: c.PortFrom, PortTo: c.PortTo, At: sec(at + 0.1)}, sec(at+float64(rng.IntN(20))))
		case 1:
			off := int64(0)
			if x == "c" {
				off = 5 * second
			}
			_ = w.Watermark(&Watermark{x, "h-" + x, sec(at), sec(at), sec(at) + off})
		}
	}
	return w
}

// everything is all that can be asked of a table, but for the order of ranges with one start.
func everything(t *Table) map[string]Range {
	out := map[string]Range{}
	v := t.View(sec(320))
	t.Networks(func(name string, id NetworkID) bool {
		for _, base := range fuzzAddrs[:2] {
			for i := range uint64(300) {
				a := Addr{base.Hi, base.Lo + i}
				for _, r := range v.Ranges(id, a, 0, sec(1000)) {
					out[name+a.Netip().String()+r.Exporter+r.Owner.Instance+r.Owner.Release+cmpTime(r.From)+cmpTime(int64(r.PortTo))] = r
				}
			}
		}
		return true
	})
	return out
}

func cmpTime(ns int64) string { return string(rune(ns>>32)) + "/" + string(rune(ns&0xffff)) }

func TestSnapshotKeepsEverything(t *testing.T) {
	before := told(1)
	var file bytes.Buffer
	if err := before.Snapshot(&file); err != nil {
		t.Fatal(err)
	}
	after := New(Config{})
	if err := after.Restore(&file); err != nil {
		t.Fatal(err)
	}
	want := everything(before)
	if d := cmp.Diff(want, everything(after)); d != "" {
		t.Errorf("ranges (-before +after):\n%s", d)
	}
	if len(want) < 500 {
		t.Errorf("only %d ranges: the test says little", len(want))
	}
	s, r := before.Stats(), after.Stats()
	if s.Ranges != r.Ranges || s.Addresses != r.Addresses || s.BadClocks != r.BadClocks || s.Slack != r.Slack || s.BadClocks == 0 {
		t.Errorf("before %+v, after %+v", s, r)
	}
	rng := rand.New(rand.NewPCG(2, 2))
	v1, v2 := before.View(sec(310)), after.View(sec(310))
	for range 20_000 {
		a := fuzzAddrs[rng.IntN(2)]
		a.Lo += uint64(rng.IntN(300))
		at, port := sec(100+rng.Float64()*210), uint16(80+rng.IntN(4))
		one, two := v1.Lookup(before.Network("n"), a, port, at, second/10), v2.Lookup(after.Network("n"), a, port, at, second/10)
		if show(one) != show(two) || one.Edge != two.Edge {
			t.Fatalf("%s at %d: %s before, %s after", a.Netip(), at, show(one), show(two))
		}
	}
	open := 0
	after.Open(func(c *Claim, _ int64) bool { open++; return true })
	for _, r := range want {
		if r.Open {
			open--
		}
	}
	if open != 0 {
		t.Errorf("Open tells %d claims too many", open)
	}
}

// TestSnapshotTwiceSaidChangesNothing: what is replayed after a restore has been in it already, in part.
func TestSnapshotTwiceSaidChangesNothing(t *testing.T) {
	w := world{t, New(Config{})}
	tell := func() {
		for _, from := range []float64{1, 7} {
			_ = w.Claim(&Claim{Exporter: "a", Host: "h-a", Network: "n", Addr: addr("10.0.0.1"), Owner: web, From: sec(from)}, sec(from))
			if from == 1 {
				_ = w.Release(&Release{Exporter: "a", Network: "n", Addr: addr("10.0.0.1"), At: sec(5)}, sec(5))
			}
		}
	}
	tell()
	want := w.View(sec(20)).Ranges(w.Network("n"), addr("10.0.0.1"), 0, sec(100))
	tell()
	got := w.View(sec(20)).Ranges(w.Network("n"), addr("10.0.0.1"), 0, sec(100))
	for i := range got {
		got[i].Claims = want[i].Claims // repeats are counted
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// FuzzRestore: a damaged snapshot is an error, never a panic or an endless loop.
func FuzzRestore(f *testing.F) {
	var file bytes.Buffer
	if err := told(3).Snapshot(&file); err != nil {
		f.Fatal(err)
	}
	f.Add(file.Bytes()[:2000])

	f.Fuzz(func(t *testing.T, data []byte) {
		table := New(Config{})
		if table.Restore(bytes.NewReader(data)) == nil {
			table.View(sec(1)).Lookup(table.Network("n"), addr("10.0.0.1"), 80, sec(1), second)
		}
	})
}

// TestNewsOfOthersAreWaitedFor: a node that lags behind what the others say does not guess.
func TestNewsOfOthersAreWaitedFor(t *testing.T) {
	ask := func(complete, now, at float64, from float64) string {
		w := world{t, New(Config{})}
		w.claim("a", web, from)
		w.mark("a", 100, 100)
		w.Complete(sec(complete))
		return show(w.View(sec(now)).Lookup(w.Network("n"), addr("10.0.0.1"), 80, sec(at), second/10))
	}
	for name, c := range map[string]struct {
		complete, now, at, from float64
		want                    string
	}{
		"complete":                         {101, 101, 99, 95, "shop/web/w1"},
		"behind, a range of long standing": {98, 101, 99, 50, "shop/web/w1"},
		"behind, a young range":            {98.5, 101, 99, 95, "wait"},
		"far behind, a young range":        {90, 101, 99, 95, "pending"},
		"behind, nobody":                   {98.5, 101, 99, 99.5, "wait"},
		"complete, nobody":                 {101, 101, 90, 99.5, "no_evidence"},
	} {
		if got := ask(c.complete, c.now, c.at, c.from); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
