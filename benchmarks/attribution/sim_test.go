package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/ownership/session"
	"tributary/proto/flow"
)

func smallWorld(t *testing.T, faults string, pairs bool, seed uint64) *sim {
	t.Helper()
	cfg := config{regions: 3, nodes: 2, hosts: 60, instances: 1500, workloads: 60, length: 60 * sec, pairs: pairs}
	var err error
	if cfg.faults, err = parseFaults(faults); err != nil {
		t.Fatal(err)
	}
	cfg.setLookups(60_000)
	s := newSim(cfg, seed)
	s.run()
	return s
}

// TestSmallWorld: a small fleet with every fault has no wrong name, and the two other designs are wrong where they are known to be.
func TestSmallWorld(t *testing.T) {
	for _, pairs := range []bool{false, true} {
		s := smallWorld(t, "all", pairs, 202)
		k := s.score
		if k.rows < 30_000 || k.wrong > 0 || k.noWhy > 0 || k.disagreed > 0 || k.rangesWrong > 0 {
			t.Errorf("pairs %v: %d look-ups, %d wrong, %d without a why, %.0f disagreements, %d wrong by ranges alone", pairs, k.rows, k.wrong, k.noWhy, k.disagreed, k.rangesWrong)
			for _, wrong := range k.wrongSamples {
				t.Log(wrong)
			}
		}
		if k.cross.rows < 500 || k.cross.unnamed == k.cross.rows || k.unnamed[flow.WhyPeerRegionDown] == 0 || k.refused[session.NotAllowed] == 0 {
			t.Errorf("pairs %v: towards other regions %+v, unnamed %v, refused %v", pairs, k.cross, k.unnamed, k.refused)
		}
		if n := s.rivals.atOnce.byKind[behind]; k.byKind[behind].rows < 50 || k.byKind[gatewayed].rows < 100 || n.wrong < 50 {
			t.Errorf("pairs %v: from behind gateways %+v, gateways themselves %+v; the event stream %+v: the world is too kind", pairs, k.byKind[behind], k.byKind[gatewayed], n)
		}
		if n := s.rivals.atOnce.reused; share(n.wrong, n.rows) < 1 {
			t.Errorf("pairs %v: the event stream is wrong in %d of %d look-ups of reused addresses: the world is too kind", pairs, n.wrong, n.rows)
		}
		if n := s.rivals.heartbeats.byKind[sharing]; share(n.wrong, n.rows) < 1 {
			t.Errorf("pairs %v: heartbeats are wrong in %d of %d look-ups of shared addresses: the world is too kind", pairs, n.wrong, n.rows)
		}
	}
}

// TestQuietWorld: without faults nothing is unnamed.
func TestQuietWorld(t *testing.T) {
	k := smallWorld(t, "none", true, 8).score
	if k.wrong > 0 || share(k.unnamedTotal(), k.rows) > 0.01 {
		t.Errorf("%d look-ups, %d wrong, %d unnamed", k.rows, k.wrong, k.unnamedTotal())
	}
}

// TestReproducible: a seed gives the same run again.
func TestReproducible(t *testing.T) {
	a, b := smallWorld(t, "all", false, 9).score, smallWorld(t, "all", false, 9).score
	if d := cmp.Diff(a.unnamed, b.unnamed); d != "" || a.rows != b.rows || a.named != b.named || a.delay != b.delay {
		t.Errorf("%d and %d rows, %d and %d named: %s", a.rows, b.rows, a.named, b.named, d)
	}
}

func TestParseFaults(t *testing.T) {
	for text, want := range map[string]faults{
		"": {}, "none": {}, "clock,crowd": {clock: true, crowd: true},
		"all": {delay: true, loss: true, repeat: true, clock: true, badClock: true, freeze: true, exporter: true, restart: true, kafka: true, region: true, forge: true},
	} {
		if got, err := parseFaults(text); err != nil || got != want {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	if _, err := parseFaults("all,plague"); err == nil {
		t.Error("an unknown fault was taken")
	}
}
