package ownership

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestTableAgainstModelAtEdges lets three exporters and five owners have one address in turn and at once, a fraction of a second apart, and asks the table and the model about
// every edge of every range, a tolerance and a slack to either side of it, and a nanosecond before and after that.
func TestTableAgainstModelAtEdges(t *testing.T) {
	for seed := range uint64(200) {
		e := edges{T: t, rng: rand.New(rand.NewPCG(seed, 77)), now: 1_000 * second, hostless: seed%5 == 0}
		cfg := Config{Retention: 40 * time.Second, MaxAhead: 3 * time.Second, Standstill: time.Second, DeadAfter: 3 * time.Second, Bridge: 2 * time.Second}
		if seed%4 == 0 {
			cfg.QuietUntil = 1_005 * second
		}
		e.tab, e.mod = New(cfg), newModel(cfg)
		for range 40 {
			e.step()
			e.askAll()
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

type edges struct {
	*testing.T
	rng *rand.Rand
	tab *Table
	mod *model
	now int64
	log []string

	hostless bool // no exporter says where it runs
}

const edgesMs = int64(time.Millisecond)

func (e *edges) one(of ...int64) int64 { return of[e.rng.IntN(len(of))] * edgesMs }

// step says one thing to both.
func (e *edges) step() {
	e.now += e.one(0, 1, 16, 50, 125, 200, 400, 1100)
	x := e.rng.IntN(3)
	exporter, host := fmt.Sprint("x", x), fmt.Sprint("h", x/2)
	if x == 2 || e.hostless {
		host = ""
	}
	at := e.now - e.one(0, 0, 1, 5, 100, 200, 300, 700, 1500)
	var p0, p1 uint16
	if e.rng.IntN(8) == 0 {
		p0, p1 = 80, 90
	}
	switch op := e.rng.IntN(10); {
	case op < 3:
		c := &Claim{exporter, host, "n", addr("10.0.0.1"), p0, p1, fuzzOwners[e.rng.IntN(len(fuzzOwners))], at}
		e.say("claim", *c, e.tab.Claim(c, e.now) == nil, e.mod.claim(c, e.now))
	case op < 6:
		r := &Release{exporter, "n", addr("10.0.0.1"), p0, p1, at, e.rng.IntN(4) == 0, e.rng.IntN(4) == 0}
		e.say("release", *r, e.tab.Release(r, e.now) == nil, e.mod.release(r, e.now))
	default:
		w := &Watermark{exporter, host, at, e.now, 0}
		if e.rng.IntN(3) == 0 {
			w.ClockNs = clockOf(e.now, e.rng.IntN(256), x)
		}
		_ = e.tab.Watermark(w)
		e.mod.watermark(w)
		e.say("watermark", *w, true, true)
	}
}

func (e *edges) say(what string, m any, table, model bool) {
	e.log = append(e.log, fmt.Sprintf("%d %s %+v", e.now, what, m))
	if table != model {
		e.Fatalf("%s: table %v, model %v", e.log[len(e.log)-1], table, model)
	}
}

// askAll asks about the edges of every range.
func (e *edges) askAll() {
	for _, r := range e.mod.ranges {
		slack := e.mod.slack(r)
		for _, edge := range []int64{r.from, e.mod.end(r), r.over} {
			if edge == open {
				continue
			}
			tol := e.one(0, 100, 250, 500)
			at := edge + e.one(-1, 0, 1)/edgesMs*tol + e.one(-1, 0, 1)/edgesMs*slack + e.one(0, 0, 200, 512, -200) + e.one(-1, 0, 1)/edgesMs
			e.ask([]uint16{22, 85}[e.rng.IntN(2)], at, tol)
		}
	}
}

func (e *edges) ask(port uint16, at, tol int64) {
	got := e.tab.View(e.now).Lookup(e.tab.Network("n"), addr("10.0.0.1"), port, at, tol)
	want := e.mod.lookup("n", addr("10.0.0.1"), port, at, tol, e.now)
	var owner Owner
	if got.Owner != nil {
		owner = *got.Owner
	}
	if owner == want.owner && got.Why == want.why && got.Wait == want.wait && got.Edge == (want.kind == "edge" && got.Owner != nil) {
		return
	}
	for _, l := range e.log {
		e.Log(l)
	}
	e.Fatalf("now %d, port %d at %d tolerance %d: table %+v %s wait %v edge %v, model %+v %s wait %v %s", e.now, port, at, tol, owner, got.Why, got.Wait, got.Edge,
		want.owner, want.why, want.wait, want.kind)
}
