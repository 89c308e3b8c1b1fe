// Package records writes small worlds of flow records into a real store, through the real sink.
package records

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/sink/clickhouse"
	"tributary/proto/flow"
)

// Record is one flow record. Its numbers are those of proto/flow.
type Record struct {
	Exporter      string
	Flow          uint64
	Seq           uint32
	Version       uint32
	Kind, Role    uint32
	Local, Remote string    // address:port
	Known         string    // what the remote end calls the local one; "" the same
	Names         [2]string // workloads of the local and the remote end
	Why           uint32    // why the remote end has none
	Start, End    float64   // seconds after the world's beginning
	Tx, Rx        uint64
	Reason, State uint32
	Observed      bool
	Replay        bool
	Last          string // remote_last_workload
	Sampled       uint32 // sample_rate; 0 is 1
	Stands, Fell  uint32 // of a rollup: connections and failures
}

func batch(t0 time.Time, rows []Record) *flow.Batch {
	b := &flow.Batch{Rows: len(rows), Strings: []string{"", "default"}, AttrStrings: []string{""}, Addrs: [][16]byte{{}}}
	b.ExporterID, b.Seq, b.ReceivedTimeNs = rows[0].Exporter, 1, t0.UnixNano()
	for f := range flow.NumU32 {
		b.Make32(f)
	}
	for f := range flow.NumU64 {
		b.Make64(f)
	}
	for i, r := range rows {
		local, remote := netip.MustParseAddrPort(r.Local), netip.MustParseAddrPort(r.Remote)
		localAt := uint32(len(b.Addrs))
		b.Addrs = append(b.Addrs, local.Addr().As16(), remote.Addr().As16())
		b.Strings, b.AttrStrings = append(b.Strings, r.Names[0]), append(b.AttrStrings, r.Names[1], r.Last)
		for f, v := range map[flow.U32]uint32{
			flow.RecordSeq: r.Seq, flow.Version: r.Version, flow.Network: 1, flow.Kind: r.Kind, flow.Role: r.Role, flow.CloseReason: r.Reason, flow.LastState: r.State,
			flow.SampleRate: max(1, r.Sampled), flow.Connections: 1, flow.LocalAddr: localAt, flow.RemoteAddr: localAt + 1,
			flow.LocalPort: uint32(local.Port()), flow.RemotePort: uint32(remote.Port()), flow.LocalWorkload: uint32(i + 2),
			flow.RemoteWorkload: uint32(2*i + 1), flow.RemoteLastWorkload: uint32(2*i + 2), flow.RemoteWhy: r.Why, flow.SrttUs: 500, flow.ConnectUs: 300,
		} {
			b.U32[f][i] = v
		}
		if r.Known != "" {
			known := netip.MustParseAddrPort(r.Known)
			b.Addrs = append(b.Addrs, known.Addr().As16())
			b.U32[flow.NatLocalAddr][i], b.U32[flow.NatLocalPort][i] = uint32(len(b.Addrs)-1), uint32(known.Port())
		}
		switch r.Kind {
		case flow.KindFailed:
			b.U32[flow.Failures][i] = 1
		case flow.KindRollup:
			b.U32[flow.Connections][i], b.U32[flow.Failures][i] = r.Stands, r.Fell
		}
		if r.Observed {
			b.U32[flow.StartObserved][i] = 1
		}
		if r.Replay {
			b.U32[flow.Replay][i] = 1
		}
		at := func(s float64) uint64 { return uint64(t0.Add(time.Duration(s * 1e9)).UnixNano()) }
		b.U64[flow.FlowID][i] = r.Flow
		b.U64[flow.StartTimeNs][i], b.U64[flow.IntervalStartNs][i], b.U64[flow.EndTimeNs][i] = at(r.Start), at(r.Start), at(r.End)
		b.U64[flow.TxBytes][i], b.U64[flow.RxBytes][i] = r.Tx, r.Rx
	}
	return b
}

// Load writes the records of a world that began at t0, as the collector does: one batch for each exporter.
func Load(t testing.TB, s schema.Server, t0 time.Time, rows []Record) {
	t.Helper()
	sink, err := clickhouse.New(clickhouse.Config{Server: s, BlockAge: time.Millisecond}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	byExporter := map[string][]Record{}
	for _, r := range rows {
		byExporter[r.Exporter] = append(byExporter[r.Exporter], r)
	}
	for _, rows := range byExporter {
		sink.Write(batch(t0, rows), func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
