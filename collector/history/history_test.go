package history

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

func TestMain(m *testing.M) { schematest.Main(m) }

type quiet struct{}

func (quiet) Claim(*flowv1.Claim, string) {}
func (quiet) Release(string)              {}

// told is a collector that was told things, and writes them down.
type told struct {
	t     *testing.T
	table *ownership.Table
	book  *session.Book
	w     *Writer
}

func newTold(t *testing.T, s schema.Server) *told {
	t.Helper()
	x := &told{t: t, table: ownership.New(ownership.Config{}), w: NewWriter("c1", s, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil)))}
	var err error
	if x.book, err = session.New(100, x.table, x.w); err != nil {
		t.Fatal(err)
	}
	return x
}

func claim(addr, workload string, from time.Time) *flowv1.Claim {
	a := netip.MustParseAddr(addr).As16()
	return &flowv1.Claim{Network: "default", Addr: a[:], Workload: workload, Instance: workload + "-1", Zone: "z1", FromNs: from.UnixNano()}
}

func release(addr string, at time.Time) *flowv1.Release {
	a := netip.MustParseAddr(addr).As16()
	return &flowv1.Release{Network: "default", Addr: a[:], AtNs: at.UnixNano()}
}

func (x *told) open(exporter string, at time.Time) *session.Stream {
	x.t.Helper()
	s, err := x.book.Open(&flowv1.Hello{ExporterId: exporter, Host: "h-" + exporter, ClockNs: at.UnixNano()}, at.UnixNano(), session.Peer{})
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

func (x *told) say(s *session.Stream, m *flowv1.Ownership, at time.Time) {
	x.t.Helper()
	if err := s.Ownership(m, at.UnixNano(), quiet{}); err != nil {
		x.t.Fatal(err)
	}
}

func (x *told) mark(s *session.Stream, at time.Time) {
	x.t.Helper()
	if err := s.Watermark(&flowv1.Watermark{VerifiedToNs: at.UnixNano(), ClockNs: at.UnixNano()}, at.UnixNano()); err != nil {
		x.t.Fatal(err)
	}
}

// TestHistoryIsTheSame: what is said again out of the store gives the ranges that the collector had.
func TestHistoryIsTheSame(t *testing.T) {
	s := schematest.Migrated(t)
	x := newTold(t, s)
	t0 := time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	at := func(sec int) time.Time { return t0.Add(time.Duration(sec) * time.Second) }
	a := x.open("a", at(0))
	x.say(a, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim("10.0.0.1", "shop/web", at(0)), claim("fd00::2", "shop/api", at(0)), claim("10.0.0.3", "shop/gateway", at(0))}}, at(0))
	for i := 1; i < 100; i++ {
		x.mark(a, at(i))
	}
	x.say(a, &flowv1.Ownership{Releases: []*flowv1.Release{release("10.0.0.1", at(99))}}, at(100))
	shared := release("10.0.0.3", at(99))
	shared.Reason = flowv1.ReleaseReason_RELEASE_REASON_SHARED
	x.say(a, &flowv1.Ownership{Releases: []*flowv1.Release{shared}}, at(100))
	b := x.open("b", at(100))
	x.say(b, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim("10.0.0.1", "shop/new", at(101))}}, at(101))
	x.mark(b, at(110))
	a = x.open("a", at(120)) // without fd00::2, which ended while nobody listened
	x.say(a, &flowv1.Ownership{Full: true}, at(121))
	x.mark(a, at(200))
	x.mark(b, at(200))
	x.w.Write(t.Context(), time.Now(), true)

	store := schema.NewClient(s, 1)
	defer store.Close()
	r, err := say(t.Context(), store, ownership.Config{}, t0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ranges := func(table *ownership.Table) (out []ownership.Range) {
		v := table.View(at(210).UnixNano())
		for _, addr := range []string{"10.0.0.1", "fd00::2", "10.0.0.3"} {
			out = append(out, v.Ranges(table.Network("default"), ownership.AddrFrom(netip.MustParseAddr(addr)), 0, at(1000).UnixNano())...)
		}
		for i := range out {
			out[i].ClockError = 0 // the fewer readings of a clock, the less it is trusted
		}
		return out
	}
	if d := cmp.Diff(ranges(x.table), ranges(r.table)); d != "" || len(ranges(r.table)) != 4 || !ranges(r.table)[3].Blurred {
		t.Errorf("ranges (-live +history):\n%s", d)
	}
	// To write again what was written changes nothing.
	count := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".ownership FINAL")
	if events := strings.TrimSpace(count); events == "0" {
		t.Error("nothing was written")
	}
}

// TestReattribute: rows whose evidence came late are named by new versions, once; others stay as they are.
func TestReattribute(t *testing.T) {
	s := schematest.Migrated(t)
	x := newTold(t, s)
	t0 := time.Now().Add(-10 * time.Minute).Truncate(time.Minute)
	at := func(sec int) time.Time { return t0.Add(time.Duration(sec) * time.Second) }
	a := x.open("a", at(-60))
	x.say(a, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim("10.0.0.1", "shop/api", at(-60))}}, at(-60))
	for i := -60; i < 60; i++ {
		x.mark(a, at(i))
	}
	x.say(a, &flowv1.Ownership{Releases: []*flowv1.Release{release("10.0.0.1", at(59))}}, at(60))
	x.mark(a, at(100))
	x.w.Write(t.Context(), time.Now(), true)

	row := func(id uint64, remote string, why uint32, name string, sec float64) records.Record {
		return records.Record{
			Exporter: "x", Flow: id, Version: 1, Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.9:4000", Remote: remote, Names: [2]string{"shop/web", name},
			Why: why, Start: sec, End: sec + 1, Tx: 100, Rx: 200, Reason: flow.CloseFinLocal, Observed: true,
		}
	}
	records.Load(t, s, t0, []records.Record{
		row(1, "10.0.0.1:80", flow.WhyPending, "", 10), row(2, "10.0.0.1:80", flow.WhyLate, "", 20), row(3, "10.0.0.1:80", flow.WhyNoEvidence, "", 30),
		row(4, "10.0.0.1:80", flow.WhyPending, "", 80),         // after the release
		row(5, "10.0.0.7:80", flow.WhyNoEvidence, "", 30),      // nobody's
		row(6, "10.0.0.1:80", flow.WhyNamed, "shop/other", 30), // named: not asked
		row(7, "192.0.2.1:80", flow.WhyExternal, "", 30),
	})
	options := Options{Since: t0.Add(-time.Minute), Until: time.Now(), Tolerance: 100 * time.Millisecond, MaxClock: 2 * time.Second}
	dry := options
	dry.DryRun = true
	if r, err := Reattribute(t.Context(), s, dry); err != nil || r.Named != 3 || r.Asked != 5 {
		t.Fatalf("dry run: %+v %v", r, err)
	}
	if n := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".flows_raw"); n != "7\n" {
		t.Errorf("a dry run wrote: %s rows", n)
	}
	r, err := Reattribute(t.Context(), s, options)
	want := Result{Events: r.Events, Asked: 5, Named: 3, Settled: 1, Why: map[string]int{"no_evidence": 2}}
	if d := cmp.Diff(want, r); err != nil || d != "" || r.Events == 0 {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	got := schematest.Query(t, s, "SELECT flow_id, remote_workload, remote_zone, remote_evidence, remote_why, tx_bytes, local_workload FROM "+s.Database+".flows ORDER BY flow_id")
	wantRows := `1	shop/api	z1	claim	named	100	shop/web
2	shop/api	z1	claim	named	100	shop/web
3	shop/api	z1	claim	named	100	shop/web
4			none	no_evidence	100	shop/web
5			none	no_evidence	100	shop/web
6	shop/other		none	named	100	shop/web
7			none	external	100	shop/web
`
	if d := cmp.Diff(wantRows, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
	if r, err := Reattribute(t.Context(), s, options); err != nil || r.Named+r.Settled != 0 || r.Asked != 2 {
		t.Errorf("a second time: %+v %v", r, err)
	}
	if n := schematest.Query(t, s, "SELECT count() > 0 FROM "+s.Database+".touched"); n != "1\n" {
		t.Error("no minute was touched: edges are not computed again")
	}
	options.Regions = new(farRegion)
	if r, err := Reattribute(t.Context(), s, options); err != nil || r.Named != 1 || r.Asked != 2 {
		t.Errorf("with another region: %+v %v", r, err)
	}
	if got := schematest.Query(t, s, "SELECT remote_workload, remote_region FROM "+s.Database+".flows WHERE flow_id = 5"); got != "far/db\tus\n" {
		t.Errorf("the other region's: %q", got)
	}
}

// farRegion has 10.0.0.7, and does not know at once who it is.
type farRegion struct{ asked int }

func (f *farRegion) Lookup(_ string, addr ownership.Addr, _ uint16, _, _ int64) (a ownership.Answer, foreign bool) {
	if addr != ownership.AddrFrom(netip.MustParseAddr("10.0.0.7")) {
		return a, false
	}
	if f.asked++; f.asked < 3 {
		return ownership.Answer{Why: ownership.Pending, Wait: true}, true
	}
	return ownership.Answer{Owner: &ownership.Owner{Workload: "far/db", Region: "us"}}, true
}

// TestWaitingIsBounded: what the store does not take waits, up to a bound; the newest stay.
func TestWaitingIsBounded(t *testing.T) {
	w := NewWriter("c1", schema.Server{URL: "http://127.0.0.1:1", Database: "d"}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for i := range maxWaiting + 10 {
		w.Publish("a", "h", 1, &flowv1.OwnershipStep{ReceivedNs: int64(i + 1), Hello: true})
	}
	w.Write(t.Context(), time.Now(), false)
	if n := len(w.waiting); n > maxWaiting || n < maxWaiting/2 {
		t.Errorf("%d wait", n)
	}
	if last := w.waiting[len(w.waiting)-1]; last.Received != maxWaiting+10 {
		t.Errorf("the last is %d", last.Received)
	}
}

// Nothing stays of exporters that have been silent for long, whether they ever sent a watermark or not: a replay sends none.
func TestSilentExportersAreForgotten(t *testing.T) {
	w := NewWriter("c1", schema.Server{URL: "http://127.0.0.1:9", Database: "tributary"}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	now := time.Now()
	w.Publish("a replay", "h1", 1, &flowv1.OwnershipStep{ReceivedNs: now.UnixNano(), Hello: true})
	w.Mark(&flowv1.ExporterWatermark{ExporterId: "e1", Host: "h1", Stream: 1, VerifiedToNs: now.UnixNano(), ReceivedNs: now.UnixNano()})
	if w.takeMarks(now.Add(time.Minute), true); len(w.marks) != 2 {
		t.Errorf("%d exporters are remembered after a minute", len(w.marks))
	}
	if w.takeMarks(now.Add(3*time.Hour), true); len(w.marks) != 0 {
		t.Errorf("%d exporters are remembered after three hours", len(w.marks))
	}
}

// The first watermark after a claim is written at once: without it a claim that came late vouches for nothing until the minute is over.
func TestAClaimsFirstWatermarkIsNotKeptWaiting(t *testing.T) {
	x := newTold(t, schema.Server{URL: "http://127.0.0.1:9", Database: "tributary"})
	now := time.Now()
	marks := func() (n int) {
		x.w.takeMarks(now, false)
		for _, e := range x.w.waiting {
			if e.Event == eventWatermark {
				n++
			}
		}
		x.w.waiting = nil
		return n
	}
	s := x.open("e1", now)
	x.say(s, &flowv1.Ownership{Claims: []*flowv1.Claim{claim("10.0.0.1", "shop/a", now.Add(-time.Minute))}, Full: true}, now)
	if n := marks(); n != 0 {
		t.Errorf("%d watermarks before there was one", n)
	}
	x.mark(s, now.Add(time.Second))
	if n := marks(); n != 1 {
		t.Errorf("%d watermarks after a claim", n)
	}
	x.mark(s, now.Add(2*time.Second))
	if n := marks(); n != 0 {
		t.Errorf("%d watermarks of an exporter that claims nothing new", n)
	}
}
