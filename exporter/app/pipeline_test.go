package app

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/batch"
	"tributary/exporter/budget"
	"tributary/exporter/clock"
	"tributary/exporter/event"
	"tributary/exporter/filter"
	"tributary/exporter/probe"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// closedRecord is a connection's end as the kernel tells it: start observed and established.
func closedRecord(sock uint64) event.Record {
	return event.Record{
		Sock: sock, OpenedNs: 1e9, StartNs: 1e9, EndNs: 2e9, SockCookie: sock, Kind: uint8(event.KindClosed), Role: uint8(event.RoleClient),
		LastState: uint8(event.StateLastAck), Flags: 1 | 2, FirstFin: 2, TxBytes: 10, RxBytes: 20, NetnsInum: 4026531840, PID: 7,
		LocalAddr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 1}, RemoteAddr: [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: 2},
		LocalPort: 40000, RemotePort: 80, Comm: [16]byte{'c', 'u', 'r', 'l'},
	}
}

func testPipeline(t testing.TB, rows int, age time.Duration, compress bool, emit func(*flowv1.Batch)) *pipeline {
	t.Helper()
	batcher, err := batch.New(batch.Config{ExporterID: "x", Rows: rows, Compress: compress, Emit: emit}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	now := int64(1_790_000_000_000_000_000)
	c, err := clock.New(clock.Options{Read: func() (clock.Reading, error) { return clock.Reading{Before: 3e9, Wall: now, After: 3e9}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	name := func(*event.Event, string, int64) batch.Local { return batch.Local{Network: "default", Workload: "a/b"} }
	all, err := filter.New(filter.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return newPipeline(batcher, c, name, all, age, 120)
}

func TestBatchesAreSealedBySizeAgeAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []uint32
		var at []time.Duration
		began := time.Now()
		p := testPipeline(t, 3, 500*time.Millisecond, false, func(b *flowv1.Batch) {
			sizes, at = append(sizes, b.GetRows()), append(at, time.Since(began))
		})
		give := func(n int) {
			for range n {
				r := closedRecord(uint64(len(sizes) + 1))
				if err := p.record(r.Encode()); err != nil {
					t.Fatal(err)
				}
			}
		}
		wait := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		give(3) // full at once
		wait(time.Second)
		give(1)
		wait(100 * time.Millisecond)
		give(1)
		wait(time.Second) // the next multiple of the age, at most the age after the first row
		rows := uint32(0)
		for _, n := range sizes[1:] {
			rows += n
		}
		if rows != 2 || at[1] <= time.Second || at[len(at)-1] > 1600*time.Millisecond {
			t.Errorf("rows of 1 s and 1.1 s: batches of %v at %v", sizes[1:], at[1:])
		}
		give(2)
		stopped := time.Since(began)
		p.stop()
		wait(time.Second)
		if last := len(sizes) - 1; sizes[0] != 3 || at[0] != 0 || sizes[last] != 2 || at[last] != stopped {
			t.Errorf("batches of %v rows at %v", sizes, at)
		}
	})
}

// What the kernel has recorded when a batch's time comes is in it.
func TestABatchHasTheLastRecordsOfItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sizes []uint32
		p := testPipeline(t, 10, time.Second, false, func(b *flowv1.Batch) { sizes = append(sizes, b.GetRows()) })
		give := func(n uint64) {
			r := closedRecord(n)
			if err := p.record(r.Encode()); err != nil {
				t.Error(err)
			}
		}
		began, until := clock.Boot(), []time.Duration{}
		more := true
		var fails atomic.Bool
		drain := func(context.Context) error {
			if more {
				give(2)
			}
			more = false
			if fails.Load() {
				return context.DeadlineExceeded
			}
			return nil
		}
		p.begin(drain, func(at time.Duration) {
			if len(sizes) != 1 {
				t.Errorf("sealed, with %d batches", len(sizes))
			}
			until = append(until, at)
		})
		give(1)
		wait := func() {
			time.Sleep(time.Second)
			synctest.Wait()
		}
		wait()
		wait() // and that there was nothing more
		said := len(until)
		fails.Store(true)
		wait()
		if said < 2 || len(until) != said {
			t.Errorf("said %d times what was sealed, then %d times after a drain that failed", said, len(until)-said)
		}
		p.stop()
		if len(sizes) != 1 || sizes[0] != 2 {
			t.Errorf("batches of %v rows, want one of 2", sizes)
		}
		if uint64(until[0]) < began || !slices.IsSorted(until) || uint64(until[len(until)-1]) > clock.Boot() {
			t.Errorf("sealed until %v, of a beginning at %d", until, began)
		}
	})
}

func TestProgramNamesAreKeptWithinABound(t *testing.T) {
	c := make(comms)
	for i := range maxComms * 2 {
		if e := (event.Event{Comm: [16]byte{'c', 'a' + byte(i%26), 'a' + byte(i>>4%26), byte(i>>8) | 0x20, byte(i) | 0x20}}); c.of(&e) == "" {
			t.Fatal("a name is empty")
		}
	}
	if len(c) > maxComms || c.of(&event.Event{}) != "" {
		t.Errorf("%d names are kept", len(c))
	}
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	p := testPipeline(t, 10, time.Second, false, func(*flowv1.Batch) {})
	defer p.stop()
	r := closedRecord(1)
	for _, b := range [][]byte{nil, r.Encode()[1:], bytes.Repeat([]byte{0xff}, event.RecordSize)} {
		if p.record(b) == nil {
			t.Errorf("%d bytes were understood", len(b))
		}
	}
	if p.decoded[event.KindClosed].Load() != 0 || p.batcher.Rows() != 0 {
		t.Error("a refused record left a trace")
	}
}

func TestOwnConnectionsAreTributarys(t *testing.T) {
	own := ownProcess{pid: 7, name: batch.Local{Workload: ownWorkload}}
	e := event.Event{PID: 7}
	if local, ok := own.local(&e, "default"); !ok || local.Workload != ownWorkload || local.Network != "default" {
		t.Errorf("%+v, %v", local, ok)
	}
	for _, e := range []event.Event{{PID: 8}, {}} {
		if _, ok := own.local(&e, "default"); ok {
			t.Errorf("process %d is taken for our own", e.PID)
		}
	}
	if _, ok := new(ownProcess).local(&event.Event{}, "default"); ok {
		t.Error("an unknown process is taken for our own")
	}
}

func TestBooksTravelUnderFixedNames(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range entries() {
		if e.wire != "" && (seen[e.wire] || strings.ToLower(e.wire) != e.wire || !strings.Contains(e.wire, ".")) {
			t.Errorf("counter name %q", e.wire)
		}
		seen[e.wire] = true
	}
	p := testPipeline(t, 10, time.Second, false, func(*flowv1.Batch) {})
	b := &books{
		entries: entries(),
		source:  func() capturer { return &tracing{Probe: probe.New(probe.Options{})} }, p: p, spool: func() spool.Stats { return spool.Stats{} },
		datagrams: func() transport.DatagramStats { return transport.DatagramStats{} }, nat: (*names)(nil).translations, budget: (*budget.Governor)(nil).Stats,
	}
	if n := len(b.counters()); n != len(seen)-1 {
		t.Errorf("%d counters travel, %d have names", n, len(seen)-1)
	}
}

func TestGapBehindTheRunBefore(t *testing.T) {
	kept := time.Unix(1_790_000_000, 0)
	at := func(d time.Duration) uint64 { return uint64(kept.Add(d).UnixNano()) }
	began := int64(at(5 * time.Second))
	for name, c := range map[string]struct {
		before spool.Before
		began  int64
		want   gap
	}{
		"none":               {spool.Before{}, began, gap{}},
		"not capturing yet":  {spool.Before{Run: "a", Kept: kept}, 0, gap{}},
		"killed":             {spool.Before{Run: "a", Kept: kept}, began, gap{at(0), at(5 * time.Second), 1}},
		"stopped":            {spool.Before{Run: "a", Kept: kept, InOrder: true}, began, gap{at(0), at(5 * time.Second), 0}},
		"the clock set back": {spool.Before{Run: "a", Kept: kept.Add(time.Hour), InOrder: true}, began, gap{at(5 * time.Second), at(5 * time.Second), 0}},
	} {
		if got := gapAfter(c.before, c.began); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// TestFiltersLoseAndDoubleNothing switches rules and sampling at random while connections go on, and compares what the rows say with the totals.
func TestFiltersLoseAndDoubleNothing(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	type sums struct {
		tx, rx      uint64
		closed      int
		seqs, count uint64
		stands      map[uint32]bool
	}
	got := map[uint64]*sums{}
	p := testPipeline(t, 100, time.Hour, false, func(b *flowv1.Batch) {
		var rows flow.Batch
		opener, err := flow.NewOpener()
		if err == nil {
			err = opener.Open(b, &rows)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range rows.Rows {
			s := got[rows.Get64(flow.SockCookie, i)]
			if s == nil {
				s = &sums{stands: map[uint32]bool{}}
				got[rows.Get64(flow.SockCookie, i)] = s
			}
			s.tx, s.rx = s.tx+rows.Get64(flow.TxBytes, i), s.rx+rows.Get64(flow.RxBytes, i)
			s.seqs += uint64(rows.Get32(flow.RecordSeq, i)) // rows of a batch are sorted
			s.count++
			s.stands[rows.Get32(flow.SampleRate, i)] = true
			if rows.Get32(flow.Kind, i) == flow.KindClosed {
				s.closed++
			}
		}
	})
	drop := []string{"", "port=80", "state=active", "remote_port=1-79", "local_port=40000-40100", "role=client"}
	type connection struct {
		record event.Record
		told   bool // a record of it passed
	}
	var open []*connection
	want := map[uint64]event.Record{}
	for i := range uint64(4000) {
		if i%10 == 0 {
			s := filter.Settings{SampleRate: uint32(1 + random.IntN(2))}
			if text := drop[random.IntN(len(drop))]; text != "" {
				rule, err := filter.ParseRule(text)
				if err != nil {
					t.Fatal(err)
				}
				s.Drop = []filter.Rule{rule}
			}
			if err := p.filter.Set(s, i); err != nil {
				t.Fatal(err)
			}
		}
		if len(open) < 50 {
			r := closedRecord(i + 1)
			r.LocalPort, r.RemotePort, r.Role = 40000+uint16(i%200), uint16(79+i%3), uint8(event.RoleClient)+uint8(i%2)
			r.OpenedNs, r.StartNs, r.EndNs = i+1, i+1, i+1
			open = append(open, &connection{record: r})
		}
		at := random.IntN(len(open))
		r := &open[at].record
		waits := !open[at].told && random.IntN(4) == 0
		if !waits {
			r.TxBytes, r.RxBytes = r.TxBytes+uint64(random.IntN(1000)), r.RxBytes+7
		}
		r.EndNs++
		if waits {
			r.Kind, r.LastState, r.Flags = uint8(event.KindActive), uint8(event.StateSynSent), 1|8
		} else if random.IntN(4) > 0 {
			r.Kind, r.LastState, r.Flags = uint8(event.KindActive), uint8(event.StateEstablished), 1|2|8
		} else {
			r.Kind, r.LastState, r.Flags = uint8(event.KindClosed), uint8(event.StateLastAck), r.Flags|2
		}
		kept := p.judged[filter.Kept].Load()
		if err := p.record(r.Encode()); err != nil {
			t.Fatal(err)
		}
		open[at].told = open[at].told || p.judged[filter.Kept].Load() > kept
		if r.Kind == uint8(event.KindClosed) {
			if open[at].told {
				want[r.SockCookie] = *r
			}
			open = append(open[:at], open[at+1:]...)
		}
	}
	p.stop()
	if len(want) < 100 {
		t.Fatalf("%d connections were told", len(want))
	}
	for cookie, r := range want {
		if s := got[cookie]; s == nil || s.tx != r.TxBytes || s.rx != r.RxBytes || s.seqs != s.count*(s.count-1)/2 || s.closed != 1 || len(s.stands) != 1 {
			t.Errorf("connection %d: %+v, want %d and %d bytes", cookie, s, r.TxBytes, r.RxBytes)
		}
	}
	judged := uint64(0)
	for i := range p.judged {
		judged += p.judged[i].Load()
	}
	if judged != 4000 || p.judged[filter.Filtered].Load() == 0 || p.judged[filter.SampledOut].Load() == 0 {
		t.Errorf("%d records judged", judged)
	}
}

// BenchmarkRecord is the whole user-space path of a record: decode, number, convert, name, columns, seal, zstd.
func BenchmarkRecord(b *testing.B) {
	p := testPipeline(b, 1000, time.Hour, true, func(*flowv1.Batch) {})
	defer p.stop()
	r := closedRecord(1)
	records := make([][]byte, 4096)
	for i := range records {
		r.Sock, r.SockCookie, r.LocalPort = uint64(i+1), uint64(i+1), uint16(i)
		r.TxBytes, r.RxBytes, r.RemoteAddr[14] = uint64(i*7%5000), uint64(i*13%70000), byte(i)
		records[i] = r.Encode()
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := p.record(records[i%len(records)]); err != nil {
			b.Fatal(err)
		}
	}
}
