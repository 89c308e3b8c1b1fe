package ways

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/deploy/dev/ports"
	"tributary/exporter/rollup"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// sums are what no overload may change.
type sums struct {
	Connections, Failures, Tx, Rx uint64
}

// summing adds up what comes, by workload and service port, each row key once.
type summing struct {
	mu      sync.Mutex
	by      map[string]sums
	seen    map[string]bool
	rollups int
	twice   int
}

func (s *summing) add(b *flow.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range b.Rows {
		key := fmt.Sprint(b.Get64(flow.FlowID, i), "/", b.Get32(flow.RecordSeq, i))
		if s.seen[key] {
			s.twice++
			continue
		}
		s.seen[key] = true
		name := fmt.Sprint(b.Text(flow.LocalWorkload, i), b.Get32(flow.RemotePort, i))
		sum := s.by[name]
		if b.Get32(flow.StartObserved, i) != 0 && b.Get32(flow.RecordSeq, i) == 0 {
			sum.Connections += uint64(b.Get32(flow.Connections, i))
		}
		sum.Failures += uint64(b.Get32(flow.Failures, i))
		sum.Tx += b.Get64(flow.TxBytes, i)
		sum.Rx += b.Get64(flow.RxBytes, i)
		s.by[name] = sum
		if b.Get32(flow.Kind, i) == flow.KindRollup {
			s.rollups++
		}
	}
}

// busy seals a batch of a busy client of three services, and notes what is in it.
func (e *exporter) busy(truth map[string]sums) {
	e.seq++
	w := flow.NewBuilder(500)
	now := uint64(time.Now().UnixNano())
	for i := range 500 {
		w.AddRow()
		id := e.seq*1000 + uint64(i)
		w.Set64(flow.FlowID, id)
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set32(flow.Role, flow.RoleClient)
		w.Set32(flow.StartObserved, 1)
		workload, port := fmt.Sprint("shop/", i%2), uint32(443+i%3)
		w.SetText(flow.LocalWorkload, workload)
		w.SetAddr(flow.RemoteAddr, [16]byte{10: 0xff, 11: 0xff, 12: 10, 15: byte(i % 5)})
		w.Set32(flow.RemotePort, port)
		w.Set32(flow.LocalPort, uint32(20000+id%40000))
		w.Set64(flow.SockCookie, id*0x9e3779b97f4a7c15)
		w.Set64(flow.TxBytes, id*7919)
		w.Set64(flow.RxBytes, id*104729)
		sum := truth[workload+fmt.Sprint(port)]
		if i%50 == 0 {
			w.Set32(flow.Kind, flow.KindFailed)
			w.Set32(flow.Failures, 1)
			sum.Failures++
		}
		for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
			w.Set64(f, now)
		}
		sum.Connections++
		sum.Tx += id * 7919
		sum.Rx += id * 104729
		truth[workload+fmt.Sprint(port)] = sum
	}
	columns, count := w.Seal(nil)
	e.Add(&flowv1.Batch{
		ExporterId: "e-" + e.t.Name(), Host: "h", BatchSeq: e.seq, Rows: uint32(count), ColumnsBytes: uint32(len(columns)), Payload: columns, SealedTimeNs: int64(now),
	})
}

// TestOverload: no collector, and a spool that cannot hold what comes: it is summed up, and when a collector is there the sums are what they would have been, to the
// byte; nothing was dropped.
func TestOverload(t *testing.T) {
	address := ports.Address(t)
	roller, err := rollup.New()
	if err != nil {
		t.Fatal(err)
	}
	e := exportWith(t, address, func(c *spool.Config) { c.MaxBytes, c.Shrink = 2<<20, roller.Roll }, func(*transport.Config) {})
	truth := map[string]sums{}
	for range 300 { // some 4 MB
		e.busy(truth)
	}
	eventually(t, "all is on disk", func() bool { return e.spool.Stats().InMemory.Batches == 0 })
	s := e.spool.Stats()
	if s.RolledUp.Rows < 50_000 || s.DiskBytes > 2<<20 {
		t.Errorf("%+v", s)
	}
	got := &summing{by: map[string]sums{}, seen: map[string]bool{}}
	openWith(t, nil, listen(t, address), nil, got.add)
	e.flush()
	got.mu.Lock()
	defer got.mu.Unlock()
	if diff := cmp.Diff(truth, got.by); diff != "" {
		t.Errorf("sums (-truth +stored):\n%s", diff)
	}
	s = e.spool.Stats()
	if got.rollups == 0 || got.twice != 0 || uint64(got.rollups) != s.Rollups.Rows || s.Acked.Rows != s.Appended.Rows-s.RolledUp.Rows+s.Rollups.Rows {
		t.Errorf("%d rollups, %d rows twice; %+v", got.rollups, got.twice, s)
	}
}
