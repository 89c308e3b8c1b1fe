package query

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/sink/clickhouse"
	"tributary/proto/flow"
)

// unmigrated returns the engine with an empty database tributary: the embedded store shows readers no other, so tests take turns with it.
func unmigrated(t *testing.T) schema.Server {
	t.Helper()
	s := schematest.Server(t)
	s.Database = schema.DefaultDatabase
	t.Cleanup(func() {
		for _, name := range []string{"edges", "flows", "flows_raw", "schema_migrations"} {
			schematest.Query(t, s, "DROP TABLE IF EXISTS tributary."+name)
		}
	})
	return s
}

func migrated(t *testing.T) schema.Server {
	t.Helper()
	s := unmigrated(t)
	if err := schema.Migrate(t.Context(), s, schema.Options{}, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	return s
}

var t0 = time.Now().UTC().Truncate(time.Second).Add(-10 * time.Minute)

func clock() time.Time { return t0.Add(10 * time.Minute) }

// record is one flow record of the tests' world.
type record struct {
	exporter      string
	flow          uint64
	seq           uint32
	kind, role    uint32
	local, remote string // address:port
	names         [2]string
	why           uint32
	start, end    float64 // seconds after t0
	tx, rx        uint64
	reason, state uint32
	observed      bool
}

// world is a client and a server that both have an exporter, a client without a server's exporter, a caller from outside that only the
// server saw, a path that refuses and one that does not answer.
func world() []record {
	both := func(i uint64, port string, start float64) []record {
		return []record{
			{exporter: "a", flow: i, kind: flow.KindActive, role: flow.RoleClient, local: "10.0.0.1:" + port, remote: "10.0.0.2:80", names: [2]string{"shop/web", "shop/api"}, start: start, end: start + 5, tx: 100, rx: 1000, state: 1, observed: true},
			{exporter: "a", flow: i, seq: 1, kind: flow.KindClosed, role: flow.RoleClient, local: "10.0.0.1:" + port, remote: "10.0.0.2:80", names: [2]string{"shop/web", "shop/api"}, start: start, end: start + 9, tx: 10, rx: 100, reason: flow.CloseFinLocal, observed: true},
			{exporter: "b", flow: i, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "10.0.0.1:" + port, names: [2]string{"shop/api", "shop/web"}, start: start + 0.001, end: start + 9, tx: 1100, rx: 110, reason: flow.CloseFinRemote, observed: true},
		}
	}
	rows := append(both(1, "40000", 0), both(2, "40001", 1)...)
	return append(rows, append(both(3, "40000", 60), // the port again, later
		record{exporter: "b", flow: 10, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "10.0.0.1:40000", names: [2]string{"shop/api", "shop/web"}, start: 200, end: 201, tx: 7, rx: 3, observed: true}, // its client's record is lost
		record{exporter: "b", flow: 11, kind: flow.KindClosed, role: flow.RoleServer, local: "10.0.0.2:80", remote: "203.0.113.9:5555", names: [2]string{"shop/api", ""}, why: flow.WhyExternal, start: 20, end: 21, tx: 50, rx: 5, observed: true},
		record{exporter: "a", flow: 20, kind: flow.KindFailed, role: flow.RoleClient, local: "10.0.0.1:41000", remote: "10.0.0.3:5432", names: [2]string{"shop/web", "shop/db"}, start: 30, end: 30.001, reason: flow.CloseRefused, observed: true},
		record{exporter: "a", flow: 21, kind: flow.KindActive, role: flow.RoleClient, local: "[fd00::1]:41001", remote: "[fd00::9]:9", names: [2]string{"shop/web", ""}, why: flow.WhyNoEvidence, start: 40, end: 43, state: 2, observed: true},
		record{exporter: "a", flow: 30, kind: flow.KindActive, role: flow.RoleUnknown, local: "10.0.0.1:1", remote: "10.0.0.2:2", names: [2]string{"shop/web", "shop/api"}, start: 50, end: 51},
	)...)
}

func batch(rows []record) *flow.Batch {
	b := &flow.Batch{Rows: len(rows), Strings: []string{"", "default"}, AttrStrings: []string{""}, Addrs: [][16]byte{{}}}
	b.ExporterID, b.Seq, b.ReceivedTimeNs = rows[0].exporter, 1, t0.UnixNano()
	for f := range flow.NumU32 {
		b.Make32(f)
	}
	for f := range flow.NumU64 {
		b.Make64(f)
	}
	for i, r := range rows {
		local, remote := netip.MustParseAddrPort(r.local), netip.MustParseAddrPort(r.remote)
		b.Addrs = append(b.Addrs, local.Addr().As16(), remote.Addr().As16())
		b.Strings, b.AttrStrings = append(b.Strings, r.names[0]), append(b.AttrStrings, r.names[1])
		for f, v := range map[flow.U32]uint32{
			flow.RecordSeq: r.seq, flow.Network: 1, flow.Kind: r.kind, flow.Role: r.role, flow.CloseReason: r.reason, flow.LastState: r.state,
			flow.SampleRate: 1, flow.Connections: 1, flow.LocalAddr: uint32(2*i + 1), flow.RemoteAddr: uint32(2*i + 2),
			flow.LocalPort: uint32(local.Port()), flow.RemotePort: uint32(remote.Port()), flow.LocalWorkload: uint32(i + 2),
			flow.RemoteWorkload: uint32(i + 1), flow.RemoteWhy: r.why, flow.SrttUs: 500, flow.ConnectUs: 300,
		} {
			b.U32[f][i] = v
		}
		if r.kind == flow.KindFailed {
			b.U32[flow.Failures][i] = 1
		}
		if r.observed {
			b.U32[flow.StartObserved][i] = 1
		}
		at := func(s float64) uint64 { return uint64(t0.Add(time.Duration(s * 1e9)).UnixNano()) }
		b.U64[flow.FlowID][i] = r.flow
		b.U64[flow.StartTimeNs][i], b.U64[flow.IntervalStartNs][i], b.U64[flow.EndTimeNs][i] = at(r.start), at(r.start), at(r.end)
		b.U64[flow.TxBytes][i], b.U64[flow.RxBytes][i] = r.tx, r.rx
	}
	return b
}

// load writes rows as the collector does, one batch for each exporter.
func load(t *testing.T, s schema.Server, rows []record) {
	t.Helper()
	sink, err := clickhouse.New(clickhouse.Config{Server: s, BlockAge: time.Millisecond}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	byExporter := map[string][]record{}
	for _, r := range rows {
		byExporter[r.exporter] = append(byExporter[r.exporter], r)
	}
	for _, rows := range byExporter {
		sink.Write(batch(rows), func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := sink.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
