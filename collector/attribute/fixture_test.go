package attribute

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

const (
	second = int64(time.Second)
	t0     = 1_700_000_000 * second
)

func sec(s float64) int64 { return t0 + int64(s*float64(second)) }

// rec is a record as tests write it.
type rec struct {
	flow          uint64
	seq           uint32
	kind, role    uint32
	network       string
	local, remote string
	known         string // what the remote end calls the local one
	start, at     float64
	end           float64
	workload      string
	rx            uint64
	found         bool // open when the exporter started
	connect       float64
	reason        uint32
}

func (r rec) add(w *flow.Builder) {
	w.AddRow()
	w.Set64(flow.FlowID, r.flow)
	w.Set32(flow.RecordSeq, r.seq)
	w.Set32(flow.Kind, r.kind)
	w.Set32(flow.Role, r.role)
	w.SetText(flow.Network, r.network)
	local, remote := netip.MustParseAddrPort(r.local), netip.MustParseAddrPort(r.remote)
	w.SetAddr(flow.LocalAddr, local.Addr().As16())
	w.Set32(flow.LocalPort, uint32(local.Port()))
	w.SetAddr(flow.RemoteAddr, remote.Addr().As16())
	w.Set32(flow.RemotePort, uint32(remote.Port()))
	if r.known != "" {
		known := netip.MustParseAddrPort(r.known)
		w.SetAddr(flow.NatLocalAddr, known.Addr().As16())
		w.Set32(flow.NatLocalPort, uint32(known.Port()))
	}
	w.Set64(flow.StartTimeNs, uint64(sec(r.start)))
	w.Set64(flow.IntervalStartNs, uint64(sec(max(r.start, r.at))))
	w.Set64(flow.EndTimeNs, uint64(sec(r.end)))
	w.Set64(flow.RxBytes, r.rx)
	w.Set32(flow.ConnectUs, uint32(r.connect*1e6))
	w.Set32(flow.CloseReason, r.reason)
	if !r.found {
		w.Set32(flow.StartObserved, 1)
	}
	if r.workload != "" {
		w.SetText(flow.LocalWorkload, r.workload)
		w.SetText(flow.LocalInstance, r.workload+"-0")
		w.SetText(flow.LocalZone, "z1")
		w.Set32(flow.LocalEvidence, flow.EvidenceAddress)
	}
}

func batch(tb testing.TB, exporter string, received float64, recs ...rec) *flow.Batch {
	tb.Helper()
	w := flow.NewBuilder(len(recs))
	for _, r := range recs {
		r.add(w)
	}
	columns, rows := w.Seal(nil)
	b := &flow.Batch{}
	if err := b.DecodeColumns(columns, rows); err != nil {
		tb.Fatal(err)
	}
	b.ExporterID, b.Host, b.Seq, b.ReceivedTimeNs = exporter, "h1", 1, sec(received)
	return b
}

type fixture struct {
	*ownership.Table
	*Attributor
	reg *prometheus.Registry
}

func newFixture(tb testing.TB) fixture {
	table, reg := ownership.New(ownership.Config{}), prometheus.NewRegistry()
	a, err := New(Config{}, table, reg)
	if err != nil {
		tb.Fatal(err)
	}
	return fixture{table, a, reg}
}

func (f fixture) claim(tb testing.TB, network, addr, workload string, from float64) {
	tb.Helper()
	c := &ownership.Claim{
		Exporter: "x", Host: "h1", Network: network, Addr: ownership.AddrFrom(netip.MustParseAddr(addr)), From: sec(from),
		Owner: ownership.Owner{Workload: workload, Instance: workload + "-0", Zone: "z1"},
	}
	if err := f.Claim(c, sec(from)); err != nil {
		tb.Fatal(err)
	}
}

func (f fixture) mark(to float64) {
	_ = f.Watermark(&ownership.Watermark{Exporter: "x", Host: "h1", VerifiedTo: sec(to), ReceivedAt: sec(to)})
}

// row is what a test looks at; %v of it is the expectation.
func row(b *flow.Batch, id uint64) string {
	for i := range b.Rows {
		if b.Get64(flow.FlowID, i) == id {
			return fmt.Sprintf("%s %s %s %s peer=%s last=%s v=%x", b.Text(flow.RemoteWorkload, i), b.Text(flow.RemoteZone, i),
				flow.EvidenceNames.Name(b.Get32(flow.RemoteEvidence, i)), flow.WhyNames.Name(b.Get32(flow.RemoteWhy, i)),
				flow.PeerObservedNames.Name(b.Get32(flow.PeerObserved, i)), b.Text(flow.RemoteLastWorkload, i), b.Get32(flow.Version, i))
		}
	}
	return "no such row"
}

func (f fixture) counters(tb testing.TB) map[string]float64 {
	tb.Helper()
	families, err := f.reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	out := map[string]float64{}
	for _, fam := range families {
		for _, m := range fam.GetMetric() {
			name := fam.GetName()[len("tributary_collector_attribute_"):]
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue()
		}
	}
	return out
}

func expect(t *testing.T, b *flow.Batch, want map[uint64]string) {
	t.Helper()
	got := map[uint64]string{}
	for id := range want {
		got[id] = row(b, id)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}
