package kafka

import (
	"fmt"
	"net/netip"
	"testing"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const testTime = 1_790_000_000_000_000_000 // 2026-09-21

// makeBatch is a batch as ingest and attribute leave it: decoded, with its sealed payload, and attributed.
func makeBatch(t testing.TB, exporter string, seq uint64, rows int) *flow.Batch {
	t.Helper()
	w := flow.NewBuilder(rows)
	for i := range rows {
		w.AddRow()
		w.Set64(flow.FlowID, seq*100_000+uint64(i))
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set32(flow.Role, flow.RoleClient)
		w.Set32(flow.CloseReason, flow.CloseFinLocal)
		w.Set64(flow.StartTimeNs, testTime+uint64(i)*1e6)
		w.Set64(flow.IntervalStartNs, testTime+uint64(i)*1e6)
		w.Set64(flow.EndTimeNs, testTime+uint64(i)*1e6+5e6)
		w.Set64(flow.TxBytes, 1000+uint64(i))
		w.Set64(flow.RxBytes, uint64(i)*7919)
		w.Set32(flow.LocalPort, 30_000+uint32(i)%20_000)
		w.Set32(flow.RemotePort, 443)
		w.SetAddr(flow.LocalAddr, netip.MustParseAddr("10.77.0.12").As16())
		w.SetAddr(flow.RemoteAddr, netip.MustParseAddr(fmt.Sprintf("fd77::%x", i%50+1)).As16())
		w.SetText(flow.LocalWorkload, "shop/web")
		w.Set32(flow.StartObserved, 1)
	}
	columns, n := w.Seal(nil)
	return attributed(t, &flowv1.Batch{
		ExporterId: exporter, BatchSeq: seq, Rows: uint32(n), ColumnsBytes: uint32(len(columns)), Payload: columns,
		Host: "node-1", BootId: "b0", SealedTimeNs: testTime, Counters: []*flowv1.Counter{{Name: "probe.ring_full", Value: 3}},
	})
}

func attributed(t testing.TB, m *flowv1.Batch) *flow.Batch {
	t.Helper()
	opener, err := flow.NewOpener()
	if err != nil {
		t.Fatal(err)
	}
	b := new(flow.Batch)
	if err := opener.Open(m, b); err != nil {
		t.Fatalf("open the batch: %v", err)
	}
	b.ReceivedTimeNs = testTime + 7e9
	b.AttrStrings = append(b.AttrStrings[:0], "", "shop/api", `odd "name"\`)
	version, workload := b.Make32(flow.Version), b.Make32(flow.RemoteWorkload)
	evidence := b.Make32(flow.RemoteEvidence)
	for i := range b.Rows {
		version[i], workload[i], evidence[i] = 9<<20, 1+uint32(i)%2, flow.EvidenceClaim
	}
	return b
}

// rowsOf lists the rows by row key; the value is what a consumer would compare.
func rowsOf(b *flow.Batch) map[string]string {
	rows := make(map[string]string, b.Rows)
	for i := range b.Rows {
		key := fmt.Sprintf("%s/%d/%d", b.ExporterID, b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i))
		rows[key] = fmt.Sprintf("%d %d %d %s %s %s %d", b.Get64(flow.EndTimeNs, i), b.Get64(flow.TxBytes, i), b.Get64(flow.RxBytes, i),
			netip.AddrFrom16(b.Addr(flow.RemoteAddr, i)), b.Text(flow.LocalWorkload, i), b.Text(flow.RemoteWorkload, i), b.Get32(flow.Version, i))
	}
	return rows
}

func decode(t testing.TB, value []byte) (*flow.Batch, error) {
	t.Helper()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	b := new(flow.Batch)
	return b, d.Decode(value, b)
}
