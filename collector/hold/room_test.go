package hold

import (
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/attribute"
	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// room is a running Hold over the real table and attributor, in a synctest bubble.
type room struct {
	t     *testing.T
	table *ownership.Table
	hold  *Hold
	reg   *prometheus.Registry
	block chan struct{} // emit waits for it if it is not nil

	mu  sync.Mutex
	got []string // what was emitted: seconds since start, row, workload or why, version's round
}

func newRoom(t *testing.T, cfg Config) *room {
	t.Helper()
	return newRoomWith(t, cfg, attribute.Config{})
}

func newRoomWith(t *testing.T, cfg Config, naming attribute.Config) *room {
	t.Helper()
	r := &room{t: t, reg: prometheus.NewRegistry(), table: ownership.New(ownership.Config{})}
	attr, err := attribute.New(naming, r.table, r.reg)
	if err != nil {
		t.Fatal(err)
	}
	if r.hold, err = New(cfg, r.table, attr, r.emit, r.reg); err != nil {
		t.Fatal(err)
	}
	return r
}

// bubbleStart is when the tests begin: a bubble's clock begins in 2000, which no batch may be of.
var bubbleStart = time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)

func bubble(t *testing.T, f func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(bubbleStart))
		f(t)
	})
}

func (r *room) emit(b *flow.Batch) {
	if r.block != nil {
		<-r.block
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for row := range b.Rows {
		name := b.Text(flow.RemoteWorkload, row)
		if name == "" {
			name = flow.WhyNames.Name(b.Get32(flow.RemoteWhy, row))
		}
		r.got = append(r.got, fmt.Sprintf("%.0fs %d %s %d", math.Floor(time.Since(bubbleStart).Seconds()), b.Get64(flow.FlowID, row), name,
			b.Get32(flow.Version, row)&0xff))
	}
}

// run starts the room and returns what stops it.
func (r *room) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.hold.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func (r *room) expect(want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if diff := cmp.Diff(want, r.got); diff != "" {
		r.t.Errorf("emitted (-want +got):\n%s", diff)
	}
	r.got = nil
}

func (r *room) emitted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

func (r *room) claim(exporter, addr, workload string) {
	r.t.Helper()
	now := time.Now().UnixNano()
	c := &ownership.Claim{
		Exporter: exporter, Host: exporter, Network: "n", Addr: ownership.AddrFrom(netip.MustParseAddr(addr)),
		Owner: ownership.Owner{Workload: workload, Instance: workload}, From: now,
	}
	if err := r.table.Claim(c, now); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) mark(exporter string) {
	now := time.Now().UnixNano()
	_ = r.table.Watermark(&ownership.Watermark{Exporter: exporter, Host: exporter, VerifiedTo: now, ReceivedAt: now})
	r.hold.Wake()
}

// batch has one row a remote address, whose connection began now.
func batch(t *testing.T, first uint64, remotes ...string) *flow.Batch {
	t.Helper()
	w := flow.NewBuilder(len(remotes))
	for i, remote := range remotes {
		w.AddRow()
		w.Set64(flow.FlowID, first+uint64(i))
		w.Set32(flow.Kind, flow.KindClosed)
		w.SetText(flow.Network, "n")
		w.SetAddr(flow.LocalAddr, netip.MustParseAddr("10.9.9.9").As16())
		w.SetAddr(flow.RemoteAddr, netip.MustParseAddr(remote).As16())
		now := uint64(time.Now().UnixNano())
		w.Set64(flow.StartTimeNs, now)
		w.Set32(flow.StartObserved, 1)
		w.Set64(flow.IntervalStartNs, now)
		w.Set64(flow.EndTimeNs, now)
	}
	columns, rows := w.Seal(nil)
	b := &flow.Batch{}
	if err := b.DecodeColumns(columns, rows); err != nil {
		t.Fatal(err)
	}
	b.ExporterID, b.Seq = "x", first
	return b
}

// books gathers all metrics of the room, those that are 0 left out, and checks that both balances hold.
func (r *room) books() map[string]float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	out, sum := map[string]float64{}, map[string]float64{}
	const prefix = "tributary_collector_hold_"
	for _, fam := range families {
		name := fam.GetName()
		if len(name) < len(prefix) || name[:len(prefix)] != prefix || fam.GetType().String() == "HISTOGRAM" {
			continue
		}
		if name = name[len(prefix):]; name == "max_bytes" {
			continue // a setting
		}
		for _, m := range fam.GetMetric() {
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue()
			sum[name] += v
			key := name
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			if v != 0 {
				out[key] = v
			}
		}
	}
	if sum["taken_rows_total"] != sum["left_rows_total"]+sum["rows"] {
		r.t.Errorf("rows do not balance: %v", sum)
	}
	if sum["pending_taken_rows_total"] != sum["pending_left_rows_total"]+sum["pending_rows"] {
		r.t.Errorf("pending rows do not balance: %v", sum)
	}
	return out
}
