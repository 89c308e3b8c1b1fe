package ownership

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestFindManyAddresses: what Find says of many addresses at once is what one look-up at a time says and what was claimed, for an index as full as it gets, in
// which groups overflow and tags are alike; with one range, two and three; before and after every other address was forgotten, which leaves tombstones.
func TestFindManyAddresses(t *testing.T) {
	tab := New(Config{})
	rng := rand.New(rand.NewPCG(3, 3))
	const n = 22_000 // of 32,768 slots: two thirds
	keys := make([]Key, 0, n+3)
	for i := range n {
		a := Addr{0, 0xffff<<32 | 10<<24 | uint64(i)}
		if i%3 == 0 {
			a = Addr{0xfd << 56, rng.Uint64()}
		}
		keys = append(keys, Key{1, a})
	}
	for r := range 3 { // the owners of 100 s each
		for i, k := range keys {
			o := Owner{Workload: fmt.Sprint("w", i%50), Instance: fmt.Sprint(i%50, "-", r)}
			if i%4%3 < r {
				continue
			}
			if err := tab.Claim(&Claim{Exporter: "x", Network: "n", Addr: k.Addr, Owner: o, From: sec(float64(100 * r))}, sec(300)); err != nil {
				t.Fatal(err)
			}
		}
		_ = tab.Watermark(&Watermark{"x", "x", sec(float64(100*r + 100)), sec(300), 0})
	}
	_ = tab.Watermark(&Watermark{"x", "x", sec(350), sec(350), 0})
	for i := 0; i < n; i += 2 {
		if err := tab.Release(&Release{Exporter: "x", Network: "n", Addr: keys[i].Addr, At: sec(350)}, sec(350)); err != nil {
			t.Fatal(err)
		}
	}
	_ = tab.Watermark(&Watermark{"x", "x", sec(400), sec(400), 0})
	keys = append(keys, Key{}, Key{0, Addr{0, 0xffff << 32}}, Key{tab.Network("n"), Addr{0, 0xffff<<32 | 11<<24}})
	if full := float64(tab.used) / float64(tab.index.Load().len()); full < 0.6 {
		t.Fatalf("%.2f of the index are used: too few for groups that overflow", full)
	}
	check := func(at float64, forgotten bool) {
		found := make([]Found, len(keys))
		v := tab.View(sec(401))
		v.Find(keys, found)
		for i, k := range keys {
			want, r := "", min(i%4%3, int(at)/100)
			if i < n && !(forgotten && i%2 == 0) {
				want = fmt.Sprint(i%50, "-", r)
			}
			a, b := v.LookupFound(&found[i], 0, sec(at), second/10), v.Lookup(k.Network, k.Addr, 0, sec(at), second/10)
			if got := instanceOf(&a); a != b || got != want {
				t.Fatalf("key %d of %d: found %+v, looked up %+v, want %q", i, n, a, b, want)
			}
			if want != "" && (r > 0 && a.HoldsAt(sec(float64(100*r+5))) || r < i%4%3 && a.HoldsAt(sec(float64(100*r+105)))) {
				t.Fatalf("key %d at %.0f: %+v holds where another answer may be the right one", i, at, a)
			}
		}
	}
	check(340, false)
	check(150, false) // before the newest of three
	check(50, false)
	tab.Expire(sec(351)+int64(tab.cfg.Retention), n)
	check(340, true)
}

func instanceOf(a *Answer) string {
	if a.Owner == nil {
		return ""
	}
	return a.Owner.Instance
}

// TestFoundInAnOldIndex: what was found before the index was rebuilt is looked for again, for what happens since shows in the new index alone.
func TestFoundInAnOldIndex(t *testing.T) {
	w := world{t, New(Config{})}
	w.claim("a", web, 0)
	w.mark("a", 10, 10)
	found, v := make([]Found, 1), w.View(sec(10))
	v.Find([]Key{{w.Network("n"), addr("10.0.0.1")}}, found)
	w.rebuild()
	w.claim("a", api, 10)
	w.mark("a", 20, 20)
	v = w.View(sec(20))
	if a := v.LookupFound(&found[0], 0, sec(15), second/10); show(a) != "shop/api/a1" {
		t.Errorf("named %s", show(a))
	}
}

// TestRecordWrittenOver: a reader that looks at a record for long is told that another was written there, even where the index says the same place again.
func TestRecordWrittenOver(t *testing.T) {
	tab := New(Config{MaxPerAddress: 2})
	change := func(i int) {
		c := Claim{Exporter: "x", Network: "n", Addr: addr("10.0.0.1"), Owner: Owner{Workload: fmt.Sprint("w", i)}, From: sec(float64(i))}
		if err := tab.Claim(&c, sec(float64(i))); err != nil {
			t.Fatal(err)
		}
		if err := tab.Release(&Release{Exporter: "x", Network: "n", Addr: c.Addr, At: c.From}, c.From); err != nil {
			t.Fatal(err)
		}
	}
	found := map[uint64]Found{} // by what the index said
	for i := range 50_000 {
		change(i)
		var f Found
		tab.findOne(Key{tab.Network("n"), addr("10.0.0.1")}, &f)
		before, again := found[f.said]
		found[f.said] = f
		switch {
		case f.nobody() || !f.stands(tab):
			t.Fatalf("not found: %+v", f)
		case again && before.stands(tab):
			t.Fatalf("after %d changes the record looks as if it had not changed", i)
		case again:
			return
		}
	}
	t.Error("no place was used again: nothing was tested")
}
