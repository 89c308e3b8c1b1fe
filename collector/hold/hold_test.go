package hold

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/attribute"
	"tributary/collector/ownership"
)

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
