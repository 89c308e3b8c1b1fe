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

func TestLeavesWhenTheWatermarkPasses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{})
		r.claim("x", "10.0.0.1", "shop/api")
		time.Sleep(time.Second)
		r.mark("x")
		stop := r.run()
		defer stop()
		r.hold.Add(batch(t, 1, "10.0.0.1", "8.8.8.8"))
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		r.expect()
		time.Sleep(100 * time.Millisecond)
		r.mark("x")
		passed := time.Now()
		for r.emitted() == 0 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
		}
		if d := time.Since(passed); d > 250*time.Millisecond {
			t.Errorf("left %v after the evidence", d)
		}
		r.expect("2s 2 external 1", "2s 1 shop/api 1")
		r.hold.Add(batch(t, 3, "8.8.8.8"))
		synctest.Wait()
		r.expect("2s 3 external 1")
		want := map[string]float64{"taken_rows_total": 3, "left_rows_total named": 1, "left_rows_total external": 2}
		if diff := cmp.Diff(want, r.books()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDeadline: the exporter goes on advancing too slowly; after 4 s the batch leaves with the row pending, and it is named later.
func TestDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{})
		r.claim("x", "10.0.0.1", "shop/api")
		stop := r.run()
		defer stop()
		time.Sleep(time.Second)
		r.hold.Add(batch(t, 1, "10.0.0.1"))
		verified := bubbleStart.UnixNano()
		for range 8 { // alive, but far behind
			time.Sleep(500 * time.Millisecond)
			verified += int64(50 * time.Millisecond)
			_ = r.table.Watermark(&ownership.Watermark{Exporter: "x", VerifiedTo: verified, ReceivedAt: time.Now().UnixNano()})
			r.hold.Wake()
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		r.expect("5s 1 pending 1")
		r.mark("x")
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		r.expect("6s 1 shop/api 2")
		want := map[string]float64{"taken_rows_total": 1, "left_rows_total pending": 1, "pending_taken_rows_total": 1, "pending_left_rows_total named": 1}
		if diff := cmp.Diff(want, r.books()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestStandstill: rows of an exporter that stands still hold nothing up; they are named when it comes back, or late.
func TestStandstill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{PendingFor: 20 * time.Second})
		r.claim("still", "10.0.0.1", "shop/api")
		r.claim("dead", "10.0.0.2", "shop/db")
		r.mark("still")
		r.mark("dead")
		stop := r.run()
		defer stop()
		time.Sleep(5 * time.Second)
		r.mark("x")
		r.hold.Add(batch(t, 1, "10.0.0.1", "10.0.0.2", "8.8.8.8"))
		synctest.Wait()
		r.expect("5s 3 external 1", "5s 1 pending 1", "5s 2 pending 1")
		time.Sleep(5 * time.Second)
		r.mark("still")
		time.Sleep(1200 * time.Millisecond)
		synctest.Wait()
		r.expect("10s 1 shop/api 2")
		time.Sleep(15 * time.Second)
		synctest.Wait()
		r.expect("25s 2 late 2")
		want := map[string]float64{
			"taken_rows_total": 3, "left_rows_total pending": 2, "left_rows_total external": 1,
			"pending_taken_rows_total": 2, "pending_left_rows_total named": 1, "pending_left_rows_total late": 1, "late_rows_total expired": 1,
		}
		if diff := cmp.Diff(want, r.books()); diff != "" {
			t.Error(diff)
		}
	})
}

// elsewhere is another region, which has 10.7.0.0/16 and answers for one workload from a time on.
type elsewhere struct{ back time.Duration }

func (e elsewhere) Lookup(_ string, addr ownership.Addr, _ uint16, _, _ int64) (a ownership.Answer, foreign bool) {
	switch {
	case !netip.MustParsePrefix("10.7.0.0/16").Contains(addr.Netip()):
		return a, false
	case time.Since(bubbleStart) < e.back:
		return ownership.Answer{Why: ownership.PeerRegionDown}, true
	}
	return ownership.Answer{Why: ownership.Named, Owner: &ownership.Owner{Workload: "far/api", Instance: "api-1"}}, true
}

// TestRegionAway: rows towards a region that does not answer leave at once, and get their name when it is back; if that takes too long they keep what they said.
func TestRegionAway(t *testing.T) {
	for back, want := range map[time.Duration][]string{
		15 * time.Second: {"15s 1 far/api 2"},
		time.Hour:        {"25s 1 peer_region_down 2"},
	} {
		bubble(t, func(t *testing.T) {
			r := newRoomWith(t, Config{PendingFor: 20 * time.Second}, attribute.Config{Regions: elsewhere{back}})
			stop := r.run()
			defer stop()
			time.Sleep(5 * time.Second)
			r.mark("x")
			r.hold.Add(batch(t, 1, "10.7.0.1"))
			synctest.Wait()
			r.expect("5s 1 peer_region_down 1")
			time.Sleep(30 * time.Second)
			synctest.Wait()
			r.expect(want...)
			r.books()
		})
	}
}

// TestFull: over the bounds the oldest leave as late, and Add does not block although emit does.
func TestFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{MaxBytes: 3*batch(t, 1, "10.0.0.1").MemoryBytes() + 200})
		r.block = make(chan struct{})
		r.claim("x", "10.0.0.1", "shop/api")
		r.mark("x")
		stop := r.run()
		defer stop()
		for i := range uint64(6) {
			r.hold.Add(batch(t, 1+i, "10.0.0.1"))
		}
		time.Sleep(300 * time.Millisecond)
		close(r.block)
		synctest.Wait()
		r.expect("0s 1 late 1", "0s 2 late 1", "0s 3 late 1")
		time.Sleep(time.Second)
		r.mark("x")
		time.Sleep(300 * time.Millisecond)
		synctest.Wait()
		r.expect("1s 4 shop/api 1", "1s 5 shop/api 1", "1s 6 shop/api 1")
		want := map[string]float64{"taken_rows_total": 6, "left_rows_total named": 3, "left_rows_total late": 3, "late_rows_total full": 3}
		if diff := cmp.Diff(want, r.books()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestPendingFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{PendingBytes: 1})
		r.claim("still", "10.0.0.1", "shop/api")
		r.mark("still")
		stop := r.run()
		defer stop()
		time.Sleep(5 * time.Second)
		r.hold.Add(batch(t, 1, "10.0.0.1"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		r.expect("5s 1 pending 1", "5s 1 late 2")
		r.books()
	})
}

func TestDrain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRoom(t, Config{})
		if err := r.hold.Drain(context.Background()); err != nil {
			t.Errorf("drain before run: %v", err)
		}
		r = newRoom(t, Config{})
		r.claim("x", "10.0.0.1", "shop/api")
		r.claim("still", "10.0.0.2", "shop/db")
		r.mark("still")
		stop := r.run()
		time.Sleep(4 * time.Second)
		r.mark("x")
		r.hold.Add(batch(t, 1, "10.0.0.1"))
		r.hold.Add(batch(t, 2, "10.0.0.2"))
		time.Sleep(100 * time.Millisecond)
		if err := r.hold.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		r.expect("4s 2 pending 1", "4s 1 late 1", "4s 2 late 2")
		r.hold.Add(batch(t, 3, "10.0.0.1"))
		if err := r.hold.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		r.expect("4s 3 late 1")
		stop()
		r.hold.Add(batch(t, 4, "10.0.0.1"))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := r.hold.Drain(ctx); err == nil {
			t.Error("drained without anybody running")
		}
		want := map[string]float64{
			"taken_rows_total": 4, "rows": 1, "left_rows_total late": 2, "left_rows_total pending": 1,
			"pending_taken_rows_total": 1, "pending_left_rows_total late": 1, "late_rows_total shutdown": 3,
		}
		got := r.books()
		delete(got, "bytes")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}
