package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// What can be done to a target. Kill and Stop are signals to a process, Full and Power happen to its disk, the others to a link.
const (
	Kill    = "kill"    // kill -9; whoever watches over the process starts it again
	Stop    = "stop"    // SIGSTOP, and SIGCONT after For
	Full    = "full"    // nothing more goes on the disk for For
	Power   = "power"   // what was not synced is gone: the disk goes on from a copy of its image
	Cut     = "cut"     // the link's connections are closed, and refused for For
	Swallow = "swallow" // requests pass, answers are thrown away, and after For the connection is cut
	Slow    = "slow"    // every piece takes a tenth of a second, for For
	OneWay  = "one_way" // nothing comes back for For; it is late, not lost
)

// The targets.
const (
	live       = "live" // the exporter that captures
	collectorA = "collector-a"
	collectorB = "collector-b"
	store      = "store" // the child of collector-a
	broker     = "kafka"
	kafkaLink  = "kafka-link"
	storeLink  = "store-link" // from collector-b
)

func replayer(i int) string     { return fmt.Sprintf("replay-%d", i) }
func linkOf(name string) string { return name + "-link" }

// Fault is one thing that is done.
type Fault struct {
	At     time.Duration `json:"at_ns"` // from the round's beginning
	For    time.Duration `json:"for_ns,omitempty"`
	Kind   string        `json:"kind"`
	Target string        `json:"target"`
}

// Plan is everything that a run does, so that the same can be done again.
type Plan struct {
	Seed      uint64    `json:"seed"`
	Replayers int       `json:"replayers"`
	Rounds    [][]Fault `json:"rounds"`
}

// A draw is what may happen to a target next, one in weights.
type draw struct {
	kind      string
	weight    int
	least     time.Duration // how long it lasts
	most      time.Duration
	afterward time.Duration // in which nothing else may happen to the target
}

// habits says how often what happens to a target: the pause between two faults is least to most.
type habits struct {
	target      string
	least, most time.Duration
	draws       []draw
}

const (
	ms = time.Millisecond
	// spoolRetries is how long a spool waits before it tries a disk again that was full. Until it has, a kill loses what is in memory: nothing promised it.
	spoolRetries = 6 * time.Second
	// thawed is how long after a stop nothing is killed: what the kernel kept meanwhile must be read and sealed first.
	thawed = 3 * time.Second
)

func habitsOf(replayers int) []habits {
	all := []habits{
		{live, 4 * time.Second, 8 * time.Second, []draw{{Kill, 9, 0, 0, 0}, {Stop, 1, 500 * ms, 3 * time.Second, thawed}}},
		{collectorA, 4 * time.Second, 7 * time.Second, []draw{
			{Kill, 6, 0, 0, 0}, {Power, 2, 0, 0, time.Second}, {Stop, 1, 500 * ms, 5 * time.Second, 0}, {Full, 1, 2 * time.Second, 5 * time.Second, 2 * time.Second},
		}},
		{collectorB, 1200 * ms, 3 * time.Second, []draw{{Kill, 9, 0, 0, 0}, {Stop, 1, 500 * ms, 5 * time.Second, 0}}},
		{store, 3 * time.Second, 7 * time.Second, []draw{{Kill, 9, 0, 0, 0}, {Stop, 1, 500 * ms, 5 * time.Second, 0}}},
		{broker, 10 * time.Second, 30 * time.Second, []draw{{Stop, 1, 500 * ms, 4 * time.Second, 0}}},
	}
	links := []string{kafkaLink, storeLink, linkOf(live)}
	for i := range replayers {
		all = append(all, habits{replayer(i), 1500 * ms, 4 * time.Second, []draw{
			{Kill, 16, 0, 0, 0}, {Power, 1, 0, 0, time.Second}, {Full, 2, 500 * ms, 1500 * ms, spoolRetries}, {Stop, 1, 500 * ms, 3 * time.Second, thawed},
		}})
		links = append(links, linkOf(replayer(i)))
	}
	for _, name := range links {
		all = append(all, habits{name, 1 * time.Second, 4 * time.Second, []draw{
			{Swallow, 8, 300 * ms, 2500 * ms, 0}, {Cut, 2, 100 * ms, 2 * time.Second, 0}, {Slow, 1, time.Second, 3 * time.Second, 0}, {OneWay, 1, 500 * ms, 3 * time.Second, 0},
		}})
	}
	return all
}

// newPlan draws a plan from a seed.
func newPlan(seed uint64, rounds, replayers int, lasts time.Duration) Plan {
	p := Plan{Seed: seed, Replayers: replayers}
	rng := rand.New(rand.NewPCG(seed, 7))
	for range rounds {
		var faults []Fault
		for _, h := range habitsOf(replayers) {
			faults = append(faults, h.draw(rng, lasts)...)
		}
		slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
		p.Rounds = append(p.Rounds, faults)
	}
	return p
}

func (h habits) draw(rng *rand.Rand, lasts time.Duration) (out []Fault) {
	total := 0
	for _, d := range h.draws {
		total += d.weight
	}
	for at := between(rng, 0, h.most); at < lasts; at += between(rng, h.least, h.most) {
		n := rng.IntN(total)
		i := slices.IndexFunc(h.draws, func(d draw) bool {
			n -= d.weight
			return n < 0
		})
		d := h.draws[i]
		f := Fault{At: at.Round(ms), For: between(rng, d.least, d.most).Round(ms), Kind: d.kind, Target: h.target}
		if f.At+f.For > lasts {
			break
		}
		out = append(out, f)
		at += f.For + d.afterward
	}
	return out
}

func between(rng *rand.Rand, least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return least + time.Duration(rng.Int64N(int64(most-least)))
}

func (p Plan) write(path string) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

func readPlan(path string) (p Plan, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("%s: %w", path, err)
	}
	return p, p.check()
}

// check refuses a plan that this program cannot do.
func (p Plan) check() error {
	if p.Replayers < 0 || p.Replayers > 16 || len(p.Rounds) == 0 {
		return fmt.Errorf("a plan of %d rounds with %d replaying exporters", len(p.Rounds), p.Replayers)
	}
	can := map[string]map[string]bool{}
	for _, h := range habitsOf(p.Replayers) {
		can[h.target] = map[string]bool{}
		for _, d := range h.draws {
			can[h.target][d.kind] = true
		}
	}
	for i, faults := range p.Rounds {
		for _, f := range faults {
			if !can[f.Target][f.Kind] || f.At < 0 || f.For < 0 || f.At+f.For > time.Hour {
				return fmt.Errorf("round %d: %s of %q at %s for %s cannot be", i, f.Kind, f.Target, f.At, f.For)
			}
		}
	}
	return nil
}
