package rollup

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

const noon = uint64(1_790_000_000_000_000_000)

// random makes a batch of rows of all kinds; flows are unique by their first number.
func random(t testing.TB, rng *rand.Rand, seq uint64, rows int) spool.Batch {
	t.Helper()
	w := flow.NewBuilder(rows)
	for i := range rows {
		w.AddRow()
		w.Set64(flow.FlowID, seq*100_000+uint64(i))
		w.Set32(flow.RecordSeq, rng.Uint32N(3))
		w.Set32(flow.Kind, 1+rng.Uint32N(3))
		w.Set32(flow.Role, rng.Uint32N(3))
		w.Set32(flow.StartObserved, rng.Uint32N(2))
		w.Set32(flow.CloseReason, rng.Uint32N(8))
		w.Set32(flow.SampleRate, 1+rng.Uint32N(2))
		if rng.IntN(4) == 0 {
			w.Set32(flow.Failures, 1)
		}
		for _, f := range sums32 {
			w.Set32(f, rng.Uint32N(1<<20))
		}
		w.Set64(flow.TxBytes, rng.Uint64N(1<<40))
		w.Set64(flow.RxBytes, rng.Uint64N(1<<40))
		start := noon + rng.Uint64N(150)*1_000_000_000
		w.Set64(flow.StartTimeNs, start)
		w.Set64(flow.IntervalStartNs, start+rng.Uint64N(1_000_000_000))
		w.Set64(flow.EndTimeNs, start+1_000_000_000+rng.Uint64N(60_000_000_000))
		w.Set32(flow.LocalPort, 1000+rng.Uint32N(3))
		w.Set32(flow.RemotePort, 443+rng.Uint32N(2))
		w.SetAddr(flow.LocalAddr, [16]byte{15: byte(1 + rng.IntN(2))})
		w.SetAddr(flow.RemoteAddr, [16]byte{15: byte(10 + rng.IntN(3))})
		w.SetText(flow.Network, "lab")
		w.SetText(flow.LocalWorkload, []string{"", "shop/web", "shop/api"}[rng.IntN(3)])
		w.SetText(flow.LocalInstance, fmt.Sprint(rng.IntN(2)))
		w.SetText(flow.LocalZone, "z")
	}
	columns, n := w.Seal(nil)
	m := &flowv1.Batch{
		ExporterId: "e1", Host: "h", BootId: "b", BatchSeq: seq, Rows: uint32(n), ColumnsBytes: uint32(len(columns)), Payload: columns, SealedTimeNs: int64(noon + seq),
		Counters: []*flowv1.Counter{{Name: "ring.read", Value: seq}},
	}
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return spool.Batch{Run: "e1", Seq: seq, Rows: uint32(n), Body: body}
}

func open(t testing.TB, kept spool.Batch) *flow.Batch {
	t.Helper()
	opener, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	m, b := new(flowv1.Batch), new(flow.Batch)
	if err := proto.Unmarshal(kept.Body, m); err != nil {
		t.Fatal(err)
	}
	if err := opener.Open(m, b); err != nil {
		t.Fatal(err)
	}
	if b.Seq != kept.Seq || b.ExporterID != kept.Run || b.Rows != int(kept.Rows) {
		t.Fatalf("%+v in %+v", b.Header, kept.Seq)
	}
	return b
}

// total is what must stay the same in a group.
type total struct {
	connections, failures, tx, rx uint64
	sums                          [len(sums32)]uint64
}

type rowKey struct {
	flow uint64
	seq  uint32
}

// totals sums rows up by what tells groups apart, in a way of its own.
func totals(t testing.TB, batches []spool.Batch) (map[string]total, map[rowKey]int, int) {
	t.Helper()
	out, keys, rows := map[string]total{}, map[rowKey]int{}, 0
	for _, kept := range batches {
		b := open(t, kept)
		rows += b.Rows
		for i := range b.Rows {
			role, local, remote := b.Get32(flow.Role, i), b.Get32(flow.LocalPort, i), b.Get32(flow.RemotePort, i)
			if role == flow.RoleClient {
				local = 0
			} else if role == flow.RoleServer {
				remote = 0
			}
			k := fmt.Sprint(b.Text(flow.LocalWorkload, i), b.Text(flow.Network, i), b.Addr(flow.RemoteAddr, i), role, local, remote, b.Get64(flow.EndTimeNs, i)/60e9, b.Get32(flow.SampleRate, i))
			s := out[k]
			if b.Get32(flow.StartObserved, i) != 0 && b.Get32(flow.RecordSeq, i) == 0 {
				s.connections += uint64(b.Get32(flow.Connections, i))
			} else if b.Get32(flow.Kind, i) == flow.KindRollup && b.Get32(flow.Connections, i) != 0 {
				t.Errorf("connections of a row that opened none")
			}
			s.failures += uint64(b.Get32(flow.Failures, i))
			s.tx += b.Get64(flow.TxBytes, i)
			s.rx += b.Get64(flow.RxBytes, i)
			for j, f := range sums32 {
				s.sums[j] += uint64(b.Get32(f, i))
			}
			out[k] = s
			keys[rowKey{b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i)}]++
		}
	}
	return out, keys, rows
}

// TestSumsStay: connections, failures, bytes and segments of each group are what they were, to the byte, and every row has a key of its own, of a record in it.
func TestSumsStay(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var in []spool.Batch
		for seq := range uint64(10) {
			in = append(in, random(t, rng, seq*3+1, 1+rng.IntN(1000)))
		}
		r, err := New()
		if err != nil {
			t.Fatal(err)
		}
		out, err := r.Roll(in)
		if err != nil {
			t.Fatal(err)
		}
		want, had, before := totals(t, in)
		got, has, after := totals(t, out)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(total{})); diff != "" {
			t.Fatalf("seed %d (-before +after):\n%s", seed, diff)
		}
		for k, n := range has {
			if n != 1 || had[k] != 1 {
				t.Fatalf("row key %v: %d times, %d before", k, n, had[k])
			}
		}
		if len(got) != after || after > before {
			t.Errorf("%d rows made %d of %d groups", before, after, len(got))
		}
		last := open(t, out[len(out)-1])
		if len(last.Counters) != 1 || last.Counters[0].Value != 28 || out[0].Seq != in[0].Seq {
			t.Errorf("%+v", last.Header)
		}
		for i := range last.Rows {
			if z := last.Text(flow.LocalZone, i); z != "z" || last.Get32(flow.Kind, i) != flow.KindRollup {
				t.Fatalf("zone %q", z)
			}
		}
	}
}

// TestOverflowBeginsAnotherRow: a sum of 32 bits never wraps.
func TestOverflowBeginsAnotherRow(t *testing.T) {
	w := flow.NewBuilder(10)
	for i := range 10 {
		w.AddRow()
		w.Set64(flow.FlowID, uint64(i+1))
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set32(flow.BusyUs, 1<<31)
		for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
			w.Set64(f, noon)
		}
	}
	columns, n := w.Seal(nil)
	body, err := proto.Marshal(&flowv1.Batch{ExporterId: "e1", BatchSeq: 1, Rows: uint32(n), ColumnsBytes: uint32(len(columns)), Payload: columns})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Roll([]spool.Batch{{Run: "e1", Seq: 1, Rows: 10, Body: body}})
	if err != nil {
		t.Fatal(err)
	}
	b, sum := open(t, out[0]), uint64(0)
	for i := range b.Rows {
		sum += uint64(b.Get32(flow.BusyUs, i))
	}
	if b.Rows != 10 || sum != 10<<31 {
		t.Errorf("%d rows, sum %d", b.Rows, sum)
	}
	if _, err := r.Roll([]spool.Batch{{Run: "e1", Seq: 1, Body: []byte("no batch")}}); err == nil {
		t.Error("what is no batch was rolled up")
	}
}

func BenchmarkRoll(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 0))
	var in []spool.Batch
	for seq := range uint64(50) {
		in = append(in, random(b, rng, seq+1, 1000))
	}
	r, err := New()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.Roll(in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50_000, "ns/row")
}

// A spool rolls up what is in memory and what is on disk at the same time.
func TestRollFromSeveralGoroutines(t *testing.T) {
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	var in []spool.Batch // compressed, as batches are
	for seq := uint64(1); seq < 5; seq += 2 {
		one, err := r.Roll([]spool.Batch{random(t, rng, seq, 200), random(t, rng, seq+1, 200)})
		if err != nil {
			t.Fatal(err)
		}
		in = append(in, one...)
	}
	want, _ := r.Roll(in)
	var rolling sync.WaitGroup
	for range 4 {
		rolling.Go(func() {
			for range 5 {
				if got, err := r.Roll(in); err != nil || len(got) != len(want) || !bytes.Equal(got[0].Body, want[0].Body) {
					t.Errorf("another result, error %v", err)
					return
				}
			}
		})
	}
	rolling.Wait()
}
