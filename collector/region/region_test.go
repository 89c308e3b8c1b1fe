package region

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"tributary/collector/ownership"
)

// TestAnotherRegion: rows are named by the region that their remote address belongs to, and by nobody else.
func TestAnotherRegion(t *testing.T) {
	t.Parallel()
	r := newRegions(t, true)
	r.claim(r.there, "10.64.0.1", "shop/api", time.Minute)
	r.claim(r.here, "10.64.0.1", "shop/wrong", time.Minute) // not its region's word
	r.claim(r.here, "10.64.128.1", "shop/near", time.Minute)
	r.claim(r.there, "10.64.128.1", "shop/wrong", time.Minute)
	far, near, nobody := r.flow("10.64.0.1", time.Second), r.flow("10.64.128.1", time.Second), r.flow("10.64.0.2", time.Second)
	r.expect(far, "shop/api@there")
	r.expect(near, "shop/near@")
	r.expect(nobody, "no_evidence")
	now := time.Now()
	r.expect(r.flowAt("10.64.0.1", now), "shop/api@there") // its watermark is still to come
	asked := r.counter("tributary_collector_region_asked_questions_total")
	r.expect(r.flowAt("10.64.0.1", now.Add(-900*time.Millisecond)), "shop/api@there")
	if got := r.counter("tributary_collector_region_asked_questions_total"); got != asked {
		t.Errorf("asked again (%v, %v) for a moment that an answer covers", asked, got)
	}
}

// TestARangeThatEnds: an answer does not outlive its evidence, on either side of a move.
func TestARangeThatEnds(t *testing.T) {
	t.Parallel()
	r := newRegions(t, true)
	r.claim(r.there, "10.64.0.1", "shop/old", time.Minute)
	time.Sleep(150 * time.Millisecond)
	r.expect(r.flow("10.64.0.1", 10*time.Second), "shop/old@there")
	now := time.Now()
	release := &ownership.Release{Exporter: "x", Network: "default", Addr: ownership.AddrFrom(netip.MustParseAddr("10.64.0.1")), At: now.UnixNano()}
	if err := r.there.Release(release, now.UnixNano()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(700 * time.Millisecond)
	r.claim(r.there, "10.64.0.1", "shop/new", 0)
	time.Sleep(300 * time.Millisecond)
	r.expect(r.flowAt("10.64.0.1", now.Add(-10*time.Second)), "shop/old@there")
	r.expect(r.flowAt("10.64.0.1", now.Add(350*time.Millisecond)), "gap")
	late := r.flow("10.64.0.1", 10*time.Millisecond)
	r.expect(late, "shop/new@there")
}

// TestDownIsSaidInTime: a row that waits in the hold, which is for 4 s at most, is told that its region is down.
func TestDownIsSaidInTime(t *testing.T) {
	if downAfter+requestTimeout+askAgain > 4*time.Second {
		t.Errorf("a region is down after %v, and a question takes %v", downAfter, requestTimeout)
	}
}

// TestCut: a region behind a cut is down while the cut lasts, whatever it said before, and answers again when the cut is over.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"dropped", "refused"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRegions(t, true)
			r.claim(r.there, "10.64.0.1", "shop/api", time.Minute)
			r.claim(r.there, "10.64.0.2", "shop/db", time.Minute)
			r.claim(r.here, "10.64.0.2", "shop/wrong", time.Minute)
			r.expect(r.flow("10.64.0.1", time.Second), "shop/api@there")
			if kind == "dropped" {
				r.wire.drop()
			} else {
				r.wire.refuse()
			}
			r.expect(r.flow("10.64.0.2", time.Second), "peer_region_down")
			r.expect(r.flow("10.64.0.3", time.Second), "peer_region_down")
			if r.counter("tributary_collector_region_down") != 1 {
				t.Error("the metric does not say that the region is down")
			}
			r.wire.whole()
			for end := time.Now().Add(30 * time.Second); r.counter("tributary_collector_region_down") != 0; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it stays down")
				}
			}
			r.expect(r.flow("10.64.0.2", time.Second), "shop/db@there")
			r.balanced()
		})
	}
}

// balanced waits until no question is under way: then each was answered or has failed.
func (r *regions) balanced() {
	r.Helper()
	var asked, rest float64
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		asked = r.counter("tributary_collector_region_asked_questions_total")
		rest = r.counter("tributary_collector_region_answered_questions_total") + r.counter("tributary_collector_region_failed_questions_total")
		if asked == rest {
			return
		}
	}
	r.Errorf("asked %v, answered or failed %v", asked, rest)
}

// TestNotAllowed: a region that may not ask gets no names.
func TestNotAllowed(t *testing.T) {
	t.Parallel()
	r := newRegions(t, false)
	r.claim(r.there, "10.64.0.1", "shop/api", time.Minute)
	r.expect(r.flow("10.64.0.1", time.Second), "peer_region_down")
	if r.counter("tributary_collector_region_served_questions_total") == 0 {
		t.Error("not counted")
	}
}

// TestReload: a new table moves addresses from one region to another, and what is damaged changes nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	r := newRegions(t, true)
	r.claim(r.there, "10.64.0.1", "shop/api", time.Minute)
	r.claim(r.here, "10.64.0.1", "shop/here", time.Minute)
	r.expect(r.flow("10.64.0.1", time.Second), "shop/api@there")
	loads := func() float64 { return r.counter("tributary_collector_region_loads_total") }
	wait := func(n float64) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); loads() < n; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the file was not read")
			}
		}
	}
	wait(1)
	if err := os.WriteFile(r.file, []byte("regions: [{region: there}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wait(2)
	r.expect(r.flow("10.64.0.1", time.Second), "shop/api@there")
	r.table("10.65.0.0/16")
	wait(3)
	r.expect(r.flow("10.64.0.1", time.Second), "shop/here@")
}
