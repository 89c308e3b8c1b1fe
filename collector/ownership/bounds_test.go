package ownership

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestBounds fills a small table far over every bound: it stays within them, says so, and never names wrongly.
func TestBounds(t *testing.T) {
	cfg := Config{MaxRanges: 100, MaxAddresses: 50, MaxPerAddress: 4, MaxPerExporter: 60, MaxOwners: 40, MaxNetworks: 3, MaxExporters: 8}
	tab := New(cfg)
	rng := rand.New(rand.NewPCG(1, 1))
	type key struct {
		net, addr string
	}
	truth := map[key][]Range{} // never forgets
	now := int64(0)
	for i := range 20_000 {
		now = int64(i) * second / 10
		k := key{fmt.Sprint("n", rng.IntN(5)), fmt.Sprintf("10.0.0.%d", 1+rng.IntN(80))}
		x := fmt.Sprint("x", rng.IntN(10))
		o := Owner{Workload: fmt.Sprint("w", rng.IntN(60)), Instance: fmt.Sprint(rng.IntN(2))}
		c := &Claim{Exporter: x, Host: x, Network: k.net, Addr: addr(k.addr), Owner: o, From: t0 + now}
		if tab.Claim(c, t0+now) == nil && rng.IntN(10) > 0 {
			to := t0 + now + rng.Int64N(5*second)
			if tab.Release(&Release{Exporter: x, Network: k.net, Addr: c.Addr, At: to}, t0+now) == nil {
				truth[k] = append(truth[k], Range{Owner: o, From: c.From, To: to})
			}
		} else {
			truth[k] = append(truth[k], Range{Owner: o, From: c.From, To: open})
		}
		_ = tab.Watermark(&Watermark{x, x, t0 + now, t0 + now, 0})
		s := tab.Stats()
		if s.Ranges > 100 || s.Addresses > 50 || s.Owners > 40 || s.Networks > 3 || s.Exporters > 8 {
			t.Fatalf("over a bound: %+v", s)
		}
		if got := int(s.Claims - s.Forgotten[ForgottenAge] - s.Forgotten[ForgottenAddress] - s.Forgotten[ForgottenTable]); got != s.Ranges {
			t.Fatalf("books: %d claimed less forgotten, %d there", got, s.Ranges)
		}
		at := t0 + now - rng.Int64N(20*second)
		a := tab.View(t0+now).Lookup(tab.Network(k.net), addr(k.addr), 0, at, 0)
		if a.Owner != nil && !anyOwner(truth[k], *a.Owner, at) {
			t.Fatalf("step %d: %v at %d named %+v", i, k, at, *a.Owner)
		}
		if i%1000 == 999 {
			tab.Expire(t0+now, 100)
		}
	}
	s := tab.Stats()
	for _, r := range []Reason{TableFull, NamesFull} {
		if s.Refused[r] == 0 {
			t.Errorf("no refusal by %s: %v", r, s.Refused)
		}
	}
	if s.Forgotten[ForgottenTable] == 0 {
		t.Errorf("nothing forgotten: %v", s.Forgotten)
	}
	tab.Expire(t0+now+int64(10*time.Hour), 1000)
	if s := tab.Stats(); s.Ranges+s.Addresses+s.Owners+s.Networks+s.Exporters != 0 {
		t.Errorf("left after all is old: %+v", s)
	}
}

func TestExporterFull(t *testing.T) {
	tab := New(Config{MaxPerExporter: 10})
	for i := range 12 {
		err := tab.Claim(&Claim{Exporter: "x", Network: "n", Addr: addr(fmt.Sprintf("10.0.0.%d", i+1)), Owner: web, From: sec(0)}, sec(0))
		if (err != nil) != (i >= 10) {
			t.Errorf("claim %d: %v", i, err)
		}
	}
	if got := tab.Stats().Refused[ExporterFull]; got != 2 {
		t.Errorf("%d refused", got)
	}
}

func anyOwner(rs []Range, o Owner, at int64) bool {
	for _, r := range rs {
		if r.Owner.Workload == o.Workload && r.Owner.Instance == o.Instance && r.From <= at {
			return true
		}
	}
	return false
}
