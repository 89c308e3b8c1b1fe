package attribute

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

func TestClaims(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.claim(t, "n", "10.0.0.3", "shop/old", 0)
	rel := &ownership.Release{Exporter: "x", Network: "n", Addr: ownership.AddrFrom(netip.MustParseAddr("10.0.0.3")), At: sec(5)}
	if err := f.Release(rel, sec(5)); err != nil {
		t.Fatal(err)
	}
	f.mark(20)
	b := batch(t, "x", 20,
		rec{flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 11, workload: "shop/web"},
		rec{flow: 2, kind: flow.KindFailed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4001", remote: "10.0.0.3:80", start: 10, end: 11, workload: "shop/web"},
		rec{flow: 3, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4002", remote: "8.8.8.8:53", start: 10, end: 11, workload: "shop/web"},
		rec{flow: 4, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4003", remote: "10.0.0.2:80", start: 19.99, end: 20, workload: "shop/web"},
		rec{flow: 5, kind: flow.KindClosed, role: flow.RoleClient, network: "other", local: "10.0.0.1:4004", remote: "10.0.0.2:80", start: 10, end: 11},
		rec{flow: 6, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4005", remote: "10.0.0.2:80", start: 500, end: 501},
	)
	open := f.Begin(b, f.View(sec(20.1)), nil)
	want := map[uint64]string{
		1: "shop/api z1 claim named peer=unknown last= v=24000001",
		2: "  none no_evidence peer=unknown last=shop/old v=4000001",
		3: "  none external peer=unknown last= v=4000001",
		4: "  none pending peer=unknown last= v=4000001",
		5: "  none no_evidence peer=unknown last= v=1",
		6: "  none clock peer=unknown last= v=1",
	}
	expect(t, b, want)
	if len(open) != 1 {
		t.Fatalf("open: %v", open)
	}
	if open = f.Again(b, f.View(sec(20.2)), open, 1, true); len(open) != 1 {
		t.Fatalf("named without evidence")
	}
	f.mark(21)
	if open = f.Again(b, f.View(sec(21)), open, 1, true); len(open) != 0 {
		t.Fatalf("still open: %v", open)
	}
	want[4] = want[1]
	expect(t, b, want)
	again := flow.Batch{Rows: b.Rows}
	if err := again.DecodeAttribution(b.AppendAttribution(nil)); err != nil {
		t.Errorf("the attribution does not read back: %v", err)
	}
}

// TestRollups: a row that stands for many connections is named if one owner had the address all the time, and by nothing else.
func TestRollups(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.claim(t, "n", "10.0.0.3", "shop/old", 0)
	rel := &ownership.Release{Exporter: "x", Network: "n", Addr: ownership.AddrFrom(netip.MustParseAddr("10.0.0.3")), At: sec(40)}
	if err := f.Release(rel, sec(40)); err != nil {
		t.Fatal(err)
	}
	f.claim(t, "n", "10.0.0.3", "shop/new", 41)
	f.claim(t, "n", "10.0.0.4", "shop/young", 30)
	f.mark(70)
	rollup := func(id uint64, remote string, from, to float64) rec {
		return rec{flow: id, kind: flow.KindRollup, role: flow.RoleClient, network: "n", local: "10.0.0.1:0", remote: remote, start: from, end: to, rx: 5}
	}
	late := rollup(6, "10.0.0.2:80", 10, 69.99)
	later := rollup(7, "10.0.0.3:80", 50, 59) // of a flow that was named before
	later.seq = 3
	b := batch(t, "x", 70,
		rec{flow: 7, kind: flow.KindActive, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 11, rx: 1},
		rollup(1, "10.0.0.2:80", 10, 59), rollup(2, "10.0.0.3:80", 10, 59), rollup(3, "10.0.0.3:80", 10, 35), rollup(4, "10.0.0.3:80", 45, 59),
		rollup(5, "10.0.0.4:80", 10, 59), late,
	)
	open := f.Begin(b, f.View(sec(70)), nil)
	got := map[uint64]string{}
	for id := uint64(1); id <= 6; id++ {
		got[id] = row(b, id)
	}
	named := func(workload string) string { return workload + " z1 claim named peer=unknown last= v=20000001" }
	want := map[uint64]string{
		1: named("shop/api"), 2: "  none gap peer=unknown last= v=1", 3: named("shop/old"), 4: named("shop/new"),
		5: "  none gap peer=unknown last= v=1", 6: "  none pending peer=unknown last= v=1",
	}
	if diff := cmp.Diff(want, got); diff != "" || len(open) != 1 {
		t.Errorf("%d are open; rows (-want +got):\n%s", len(open), diff)
	}
	b = batch(t, "x", 70, later)
	f.Begin(b, f.View(sec(70)), nil)
	expect(t, b, map[uint64]string{7: named("shop/new")})
}

// TestLoopback is how `make run` names curl and nginx: nobody claims 127.0.0.1, each end is the other's mirror, and the two records come in
// different batches.
func TestLoopback(t *testing.T) {
	f := newFixture(t)
	f.mark(20)
	client := batch(t, "x", 20, rec{
		flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "h1/1", local: "127.0.0.1:4000",
		remote: "127.0.0.1:80", start: 10, end: 11, workload: "h1/curl",
	})
	open := f.Begin(client, f.View(sec(20)), nil)
	if len(open) != 1 {
		t.Fatal("the client's row does not wait for its mirror")
	}
	server := batch(t, "x", 20.5, rec{
		flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "h1/1", local: "127.0.0.1:80",
		remote: "127.0.0.1:4000", start: 10, end: 11, workload: "h1/nginx",
	})
	if open := f.Begin(server, f.View(sec(20.5)), nil); len(open) != 0 {
		t.Error("the server's row waits")
	}
	if open = f.Again(client, f.View(sec(20.6)), open, 1, true); len(open) != 0 {
		t.Error("the client's row still waits")
	}
	expect(t, client, map[uint64]string{1: "h1/nginx z1 mirror named peer=yes last= v=34000001"})
	expect(t, server, map[uint64]string{2: "h1/curl z1 mirror named peer=yes last= v=34000001"})
	want := map[string]float64{
		"mirror_rows_total agreed": 0, "mirror_rows_total disagreed": 0, "mirror_rows_total alone": 2,
		"mirror_rows_total unnamed": 0, "kept_names_rows_total": 0,
	}
	if diff := cmp.Diff(want, f.counters(t)); diff != "" {
		t.Error(diff)
	}
	nobody := batch(t, "x", 20, rec{
		flow: 3, kind: flow.KindClosed, role: flow.RoleClient, network: "h1/1", local: "127.0.0.1:4001",
		remote: "127.0.0.1:81", start: 10, end: 11,
	})
	open = f.Begin(nobody, f.View(sec(20)), nil)
	if open = f.Again(nobody, f.View(sec(22.1)), open, 1, true); len(open) != 0 {
		t.Error("waits for a mirror for ever")
	}
	expect(t, nobody, map[uint64]string{3: "  none no_evidence peer=unknown last= v=1"})
}

// TestLongFlow: the address moves under a connection. While bytes arrive it is still the old peer's; a silent rest is nobody's.
func TestLongFlow(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.mark(20)
	r := rec{flow: 1, kind: flow.KindActive, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 15, workload: "shop/web", rx: 5}
	ask := func(now float64) string {
		b := batch(t, "x", now, r)
		f.Begin(b, f.View(sec(now)), nil)
		return row(b, 1)
	}
	const api = "shop/api z1 claim named peer=unknown last= v=24000001"
	if got := ask(20); got != api {
		t.Error(got)
	}
	f.claim(t, "n", "10.0.0.2", "shop/new", 30)
	f.mark(60)
	r.seq, r.at, r.end = 1, 40, 45
	if got := ask(60); got != api {
		t.Errorf("with bytes: %s", got)
	}
	r.seq, r.rx = 2, 0
	if got, want := ask(60), "  none gap peer=unknown last= v=4000001"; got != want {
		t.Errorf("without bytes: %s", got)
	}
	r.seq, r.rx, r.kind = 3, 1, flow.KindClosed
	if got := ask(60); got != api {
		t.Errorf("the last record: %s", got)
	}
	r.seq = 4
	if got, want := ask(60), "shop/new z1 claim named peer=unknown last= v=24000001"; got != want {
		t.Errorf("a flow that is not remembered: %s", got)
	}
}

// TestSilent: the address moves under a silent connection that this node does not remember. The one whose start was seen is looked up there; one
// that was found open has no name until its peer speaks; an owner that lingers is named for an answered connection only.
func TestSilent(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.mark(20)
	if err := f.Release(&ownership.Release{Exporter: "x", Network: "n", Addr: ownership.AddrFrom(netip.MustParseAddr("10.0.0.2")), At: sec(20)}, sec(20.2)); err != nil {
		t.Fatal(err)
	}
	f.claim(t, "n", "10.0.0.2", "shop/new", 30)
	f.mark(60)
	const api, new, gap = "shop/api z1 claim named peer=unknown last= v=24000001", "shop/new z1 claim named peer=unknown last= v=24000001", "  none gap peer=unknown last= v=4000001"
	r := rec{kind: flow.KindActive, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, at: 40, end: 45, workload: "shop/web"}
	for _, c := range []struct {
		name string
		set  func(*rec)
		want string
	}{
		{"a later record", func(r *rec) { r.seq = 1 }, api},
		{"a later record with bytes", func(r *rec) { r.seq, r.start, r.rx = 1, 35, 1 }, new},
		{"found open", func(r *rec) { r.start, r.found = 40, true }, gap},
		{"found open, later record", func(r *rec) { r.seq, r.start, r.found = 1, 35, true }, gap},
		{"found open, with bytes", func(r *rec) { r.start, r.found, r.rx = 40, true, 1 }, new},
		{"answered while the owner lingered", func(r *rec) { r.at, r.start, r.end = 20.2, 20.2, 20.2 }, api},
		{"not answered", func(r *rec) { r.at, r.start, r.end, r.kind = 20.2, 20.2, 20.2, flow.KindFailed }, "  none no_evidence peer=unknown last=shop/api v=4000001"},
	} {
		x := r
		x.flow = 77
		c.set(&x)
		b := batch(t, "x", 60, x)
		f.Begin(b, f.View(sec(60)), nil)
		if got := row(b, 77); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		f.flows.Purge()
	}
}

// TestClocks: the error of the reporting exporter's clock widens the tolerance, far too wrong ones name nothing, and claims of a clock that
// is off name nobody.
func TestClocks(t *testing.T) {
	const named, gap, clock = "shop/api z1 claim named peer=unknown last= v=24000001", "  none gap peer=unknown last= v=4000001", "  none clock peer=unknown last= v=4000001"
	for _, c := range []struct {
		name             string
		claimant, report float64 // by how much the clocks are ahead
		at               float64
		want             string
	}{
		{"both right", 0, 0, 10.3, named},
		{"the reporter's a little off", 0, 0.2, 10.3, named},
		{"the reporter's a little off, near the edge", 0, 0.6, 10.3, gap},
		{"the reporter's off", 0, 5, 20, named},
		{"the reporter's off beyond use", 0, 15, 20, clock},
		{"the claimant's a little off", 0.3, 0, 20, named},
		{"the claimant's off", 5, 0, 20, clock},
	} {
		f := newFixture(t)
		f.claim(t, "n", "10.0.0.2", "shop/api", 10)
		for now := range 60 {
			for x, ahead := range map[string]float64{"x": c.claimant, "y": c.report} {
				at := sec(float64(now))
				w := &ownership.Watermark{Exporter: x, Host: x, VerifiedTo: at + int64(ahead*1e9), ReceivedAt: at, ClockNs: at + int64(ahead*1e9)}
				_ = f.Watermark(w) // those far ahead are refused
			}
		}
		b := batch(t, "y", 57, rec{
			kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: c.at, end: c.at,
			workload: "shop/web", rx: 1, flow: 5,
		})
		f.Begin(b, f.View(sec(60)), nil) // later than a mirror is waited for
		if got := row(b, 5); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestGiveUp(t *testing.T) {
	f := newFixture(t)
	f.mark(10)
	b := batch(t, "x", 20, rec{flow: 1, kind: flow.KindClosed, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 11})
	open := f.Begin(b, f.View(sec(11)), nil)
	f.GiveUp(b, open, 2)
	expect(t, b, map[uint64]string{1: "  none late peer=unknown last= v=2"})
}

// BenchmarkBegin names batches of 1000 rows to 20,000 remotes, all claimed, among 40,000 flows.
func BenchmarkBegin(b *testing.B) {
	f := newFixture(b)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 20_000 {
		f.claim(b, "default", fmt.Sprintf("10.1.%d.%d", i/250, 1+i%250), fmt.Sprint("team/w", i%600), 0)
	}
	f.mark(20)
	batches := make([]*flow.Batch, 40)
	for i := range batches {
		recs := make([]rec, 1000)
		for j := range recs {
			k := rng.IntN(20_000)
			recs[j] = rec{
				flow: uint64(i*1000 + j), kind: flow.KindClosed, role: flow.RoleClient, network: "default",
				local:  fmt.Sprintf("10.0.0.%d:%d", 1+j%60, 10_000+rng.IntN(50_000)),
				remote: fmt.Sprintf("10.1.%d.%d:443", k/250, 1+k%250), start: 10, end: 11, workload: fmt.Sprint("team/l", j%60),
			}
		}
		batches[i] = batch(b, "x", 20, recs...)
	}
	var open []uint32
	v := f.View(sec(20))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if open = f.Begin(batches[i%len(batches)], v, open[:0]); len(open) != 0 {
			b.Fatal("rows wait")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/row")
}

// TestSlowHandshake: SYNs were lost while the address went to somebody else, who answered.
func TestSlowHandshake(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/old", 0)
	f.mark(10)
	f.claim(t, "n", "10.0.0.2", "shop/new", 10.3)
	f.mark(40)
	client := rec{kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 9.9, end: 12, rx: 5}
	row := func(id uint64, change func(*rec)) rec {
		r := client
		r.flow, r.local = id, fmt.Sprintf("10.0.0.1:%d", 4000+id)
		change(&r)
		return r
	}
	b := batch(t, "y", 40,
		row(1, func(r *rec) { r.connect = 1.02 }),
		row(2, func(r *rec) { r.start, r.connect = 5, 1.02 }),
		row(3, func(r *rec) { r.connect = 0.001; r.start = 9 }),
		row(4, func(r *rec) { r.kind, r.reason, r.end = flow.KindFailed, flow.CloseRefused, 10.92 }),
		row(5, func(r *rec) { r.role, r.connect, r.start = flow.RoleServer, 1.02, 9 }),
	)
	f.Begin(b, f.View(sec(40)), nil)
	for id, want := range map[uint64]string{1: "shop/new", 2: "shop/old", 3: "shop/old", 4: "shop/new", 5: "shop/old"} {
		for i := range b.Rows {
			if b.Get64(flow.FlowID, i) == id && b.Text(flow.RemoteWorkload, i) != want {
				t.Errorf("flow %d: %s, want %s", id, b.Text(flow.RemoteWorkload, i), want)
			}
		}
	}
}
