package attribute

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// TestMirrorRules: what is not the peer's record of this connection.
func TestMirrorRules(t *testing.T) {
	server := rec{flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:4000", start: 10, end: 11, workload: "shop/api"}
	for name, c := range map[string]struct {
		change func(*rec)
		want   string
	}{
		"it is":            {func(*rec) {}, "shop/api z1 mirror named peer=yes last= v=34000001"},
		"unknown role":     {func(r *rec) { r.role = flow.RoleUnknown }, "shop/api z1 mirror named peer=yes last= v=34000001"},
		"no name":          {func(r *rec) { r.workload = "" }, "  none no_evidence peer=yes last= v=4000001"},
		"same role":        {func(r *rec) { r.role = flow.RoleClient }, "  none no_evidence peer=unknown last= v=4000001"},
		"another network":  {func(r *rec) { r.network = "m" }, "  none no_evidence peer=unknown last= v=4000001"},
		"another port":     {func(r *rec) { r.remote = "10.0.0.1:4001" }, "  none no_evidence peer=unknown last= v=4000001"},
		"another address":  {func(r *rec) { r.local = "10.0.0.9:80" }, "  none no_evidence peer=unknown last= v=4000001"},
		"an earlier one":   {func(r *rec) { r.start, r.end = 5, 9 }, "  none no_evidence peer=unknown last= v=4000001"},
		"a later one":      {func(r *rec) { r.start, r.end = 12, 13 }, "  none no_evidence peer=unknown last= v=4000001"},
		"within tolerance": {func(r *rec) { r.start, r.end = 11.05, 13 }, "shop/api z1 mirror named peer=yes last= v=34000001"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.mark(20)
			peer := server
			c.change(&peer)
			f.Begin(batch(t, "y", 20, peer), f.View(sec(20)), nil)
			b := batch(t, "x", 20, rec{
				flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000",
				remote: "10.0.0.2:80", start: 10, end: 11, workload: "shop/web",
			})
			f.Begin(b, f.View(sec(20)), nil)
			expect(t, b, map[uint64]string{1: c.want})
		})
	}
}

// TestMirrorOfTranslated: a container behind its host's masquerade, and one that serves a port of its host, are who their own records say; what they are called
// on their own host is nobody's beyond it.
func TestMirrorOfTranslated(t *testing.T) {
	f := newFixture(t)
	f.mark(20)
	own := batch(t, "x", 20,
		rec{flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "172.17.0.2:4000", known: "10.0.0.1:61000", remote: "10.0.0.2:80", start: 10, end: 11, workload: "box/out"},
		rec{flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "172.17.0.2:80", known: "10.0.0.1:8080", remote: "10.0.0.2:4001", start: 10, end: 11, workload: "box/in"},
	)
	f.Begin(own, f.View(sec(20)), nil)
	far := batch(t, "y", 20,
		rec{flow: 1, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:61000", start: 10, end: 11, workload: "shop/api"},
		rec{flow: 2, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.2:4001", remote: "10.0.0.1:8080", start: 10, end: 11, workload: "shop/web"},
		rec{flow: 3, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "172.17.0.2:4000", start: 10, end: 11, workload: "shop/api"},
		rec{flow: 4, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.2:4001", remote: "10.0.0.1:80", start: 10, end: 11, workload: "shop/web"},
	)
	f.Begin(far, f.View(sec(20)), nil)
	f.Again(own, f.View(sec(23)), []uint32{0, 1}, 1, false)
	expect(t, far, map[uint64]string{
		1: "box/out z1 mirror named peer=yes last= v=34000001", 2: "box/in z1 mirror named peer=yes last= v=34000001",
		3: "  none no_evidence peer=unknown last= v=4000001", 4: "  none no_evidence peer=unknown last= v=4000001",
	})
	expect(t, own, map[uint64]string{1: "shop/api z1 mirror named peer=yes last= v=34000001", 2: "shop/web z1 mirror named peer=yes last= v=34000001"})
}

func TestMirrorAgainstClaim(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.claim(t, "n", "10.0.0.1", "shop/wrong", 0)
	f.mark(20)
	b := batch(t, "x", 20,
		rec{flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 11, workload: "shop/web"},
		rec{flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:4000", start: 10, end: 11, workload: "shop/api"},
	)
	f.Begin(b, f.View(sec(20)), nil)
	expect(t, b, map[uint64]string{
		1: "shop/api z1 mirror named peer=yes last= v=34000001",
		2: "shop/web z1 mirror named peer=yes last= v=34000001",
	})
	want := map[string]float64{
		"mirror_rows_total agreed": 1, "mirror_rows_total disagreed": 1, "mirror_rows_total alone": 0,
		"mirror_rows_total unnamed": 0, "kept_names_rows_total": 0,
	}
	if diff := cmp.Diff(want, f.counters(t)); diff != "" {
		t.Error(diff)
	}
	listed := f.Disagreements(10)
	if len(listed) != 1 {
		t.Fatalf("listed: %+v", listed)
	}
	d := listed[0]
	got := fmt.Sprint(d.Network, " ", d.Addr.Netip(), ":", d.Port, " ", d.Named.Workload, " ", d.Evidence == flow.EvidenceClaim, " ", d.Peer.Workload, " ", d.Exporter, " ", d.PeerExporter, " ", d.FlowID)
	if got != "n 10.0.0.1:4000 shop/wrong true shop/web x x 2" {
		t.Error(got)
	}
}

// TestDisagreementsAreBounded: the newest thousand, the newest first.
func TestDisagreementsAreBounded(t *testing.T) {
	var a Attributor
	for i := range maxDisagreements + 5 {
		a.disagreements.add(&Disagreement{FlowID: uint64(i)})
	}
	all := a.Disagreements(2 * maxDisagreements)
	if len(all) != maxDisagreements || all[0].FlowID != maxDisagreements+4 || all[maxDisagreements-1].FlowID != 5 {
		t.Errorf("%d, from %d to %d", len(all), all[0].FlowID, all[len(all)-1].FlowID)
	}
	if few := a.Disagreements(2); len(few) != 2 || few[1].FlowID != maxDisagreements+3 {
		t.Errorf("%+v", few)
	}
}

// TestMirrorOfSilentRest: the claim at the time of a silent last record is the next owner's, but would not have named it: no disagreement.
func TestMirrorOfSilentRest(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/api", 0)
	f.mark(20)
	r := rec{flow: 1, kind: flow.KindActive, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 15, workload: "shop/web", rx: 5}
	f.Begin(batch(t, "x", 20, r), f.View(sec(20)), nil)
	f.claim(t, "n", "10.0.0.2", "shop/new", 30)
	f.mark(60)
	r.seq, r.kind, r.at, r.end, r.rx = 1, flow.KindClosed, 40, 45, 0
	peer := rec{flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:4000", start: 10, end: 16, workload: "shop/api"}
	b := batch(t, "x", 60, r, peer)
	f.Begin(b, f.View(sec(60)), nil)
	if got, want := row(b, 1), "shop/api z1 mirror named peer=yes last= v=34000001"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if n := f.counters(t)["mirror_rows_total disagreed"]; n != 0 {
		t.Errorf("%v disagreements", n)
	}
}

func TestMirrorForgets(t *testing.T) {
	m := newMirror(256)
	for i := range 10_000 {
		m.note(&sight{tuple: tuple{localPort: uint16(i), net: uint64(i)}, flow: uint64(i), start: int64(i), end: int64(i)})
	}
	used := 0
	for i := range m.shards {
		for j := range m.shards[i].digests {
			for _, tag := range m.shards[i].digests[j].tags {
				if tag != 0 {
					used++
				}
			}
		}
	}
	if used == 0 || used > 256 {
		t.Errorf("%d entries", used)
	}
}

type only string

func (o only) Allows(_ string, _ [16]byte, workload string) bool { return workload == string(o) }

// TestMirrorBeyondItsGrant: nobody is named by the word of an exporter that may not say so, and the row says why it has no name.
func TestMirrorBeyondItsGrant(t *testing.T) {
	for grant, want := range map[only]string{
		"shop/api":  "shop/api z1 mirror named peer=yes last= v=34000001",
		"shop/evil": "  none refused_claim peer=unknown last= v=4000001",
	} {
		f := newFixture(t)
		f.cfg.Refused = func(network string, a ownership.Addr) bool { return network == "n" && a.Netip().String() == "10.0.0.2" }
		f.mark(20)
		peer := batch(t, "y", 20, rec{flow: 2, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:4000", start: 10, end: 11, workload: "shop/api"})
		peer.Grant = grant
		f.Begin(peer, f.View(sec(20)), nil)
		b := batch(t, "x", 20, rec{flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 10, end: 11, workload: "shop/web"})
		f.Begin(b, f.View(sec(20)), nil)
		expect(t, b, map[uint64]string{1: want})
		local := map[only]uint32{"shop/api": 4, "shop/evil": 0}[grant] // what may name nobody here may not in the store
		if got := peer.U32[flow.Version][0] >> 24 & 15; got != local {
			t.Errorf("%s: the rank of the peer's own end is %d", grant, got)
		}
	}
}

// TestMirrorIsWaitedFor: where the peer spoke and claims cannot say who it was, its own record may; a row without an answer does not wait.
func TestMirrorIsWaitedFor(t *testing.T) {
	f := newFixture(t)
	f.claim(t, "n", "10.0.0.2", "shop/old", 0)
	f.mark(20)
	if err := f.Release(&ownership.Release{Exporter: "x", Network: "n", Addr: ownership.AddrFrom(netip.MustParseAddr("10.0.0.2")), At: sec(20)}, sec(20)); err != nil {
		t.Fatal(err)
	}
	f.claim(t, "n", "10.0.0.2", "shop/api", 30)
	f.mark(60)
	r := rec{flow: 1, kind: flow.KindClosed, role: flow.RoleClient, network: "n", local: "10.0.0.1:4000", remote: "10.0.0.2:80", start: 25, end: 26, workload: "shop/web", rx: 1}
	silent := r
	silent.flow, silent.rx, silent.local = 2, 0, "10.0.0.1:4001"
	b := batch(t, "x", 40, r, silent)
	open := f.Begin(b, f.View(sec(40)), nil)
	if len(open) != 1 {
		t.Fatalf("%d rows wait", len(open))
	}
	expect(t, b, map[uint64]string{1: "  none pending peer=unknown last= v=4000001", 2: "  none gap peer=unknown last= v=4000001"})
	if got := f.Again(b, f.View(sec(42.5)), append([]uint32(nil), open...), 1, false); len(got) != 0 {
		t.Error("it waits for ever")
	}
	expect(t, b, map[uint64]string{1: "  none gap peer=unknown last= v=4000001"})
	f.Begin(batch(t, "y", 41, rec{
		flow: 9, kind: flow.KindClosed, role: flow.RoleServer, network: "n", local: "10.0.0.2:80", remote: "10.0.0.1:4000", start: 25, end: 26, workload: "shop/between",
	}), f.View(sec(41)), nil)
	f.Again(b, f.View(sec(41)), open, 1, false)
	expect(t, b, map[uint64]string{1: "shop/between z1 mirror named peer=yes last= v=34000001"})
}
