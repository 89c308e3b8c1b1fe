package pairs

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/collector/schema/schematest/records"
	"tributary/proto/flow"
)

// localAddress is the version of a record whose local end is named by its address and whose remote end by nothing.
const localAddress = 4<<24 | 1

func TestMain(m *testing.M) { schematest.Main(m) }

// badClock writes what history has of an exporter whose clock is off.
func badClock(t *testing.T, s schema.Server, exporter string, off time.Duration) {
	t.Helper()
	client := schema.NewClient(s, 1)
	defer client.Close()
	now := time.Now().UTC()
	const layout = "2006-01-02 15:04:05.000000000"
	row := `{"event": "watermark", "exporter_id": "` + exporter + `", "received_ns": "` + now.Format(layout) + `", "marked_ns": "` + now.Format(layout) + `", "clock_ns": "` + now.Add(off).Format(layout) + `"}`
	if err := client.Exec(t.Context(), schema.Statement{Text: "INSERT INTO " + s.Database + ".ownership FORMAT JSONEachRow", Data: strings.NewReader(row)}); err != nil {
		t.Fatal(err)
	}
}

// TestPairs: each end is named by what the other says of itself; what only looks like a pair is none.
func TestPairs(t *testing.T) {
	s := schematest.Migrated(t)
	t0 := time.Now().Add(-time.Minute).Truncate(time.Second)
	client := func(id uint64, port, remote, workload string, start float64) records.Record {
		return records.Record{
			Exporter: "x", Flow: id, Version: localAddress, Kind: flow.KindClosed, Role: flow.RoleClient, Local: "10.0.0.1:" + port, Remote: remote,
			Names: [2]string{"shop/web", workload}, Start: start, End: start + 1, Tx: 10, Rx: 20, Reason: flow.CloseFinLocal, Observed: true,
		}
	}
	server := func(id uint64, local, port, workload string, start float64) records.Record {
		return records.Record{
			Exporter: "y", Flow: id, Version: localAddress, Kind: flow.KindClosed, Role: flow.RoleServer, Local: local, Remote: "10.0.0.1:" + port,
			Names: [2]string{workload, ""}, Why: flow.WhyNoEvidence, Start: start, End: start + 1, Tx: 20, Rx: 10, Reason: flow.CloseFinRemote, Observed: true,
		}
	}
	unnamed := client(1, "4001", "10.0.0.2:80", "", 10)
	unnamed.Why = flow.WhyPending
	earlier := client(4, "4004", "10.0.0.2:80", "", 10)
	earlier.Why = flow.WhyNoEvidence
	twice := client(6, "4006", "10.0.0.2:80", "", 10)
	twice.Why = flow.WhyNoEvidence
	shifted := client(9, "4009", "10.0.0.3:80", "", 10)
	shifted.Why = flow.WhyClock
	late := server(9, "10.0.0.3:80", "4009", "shop/late", 5) // at the same time, by a clock that is five seconds behind
	late.Exporter = "z"
	badClock(t, s, "z", -5*time.Second)
	out := client(10, "4010", "10.0.0.2:80", "", 10) // a container behind a masquerade
	out.Local, out.Known, out.Why = "172.17.0.2:33000", "10.0.0.1:4010", flow.WhyNoEvidence
	in := server(11, "172.17.0.3:8080", "4011", "shop/in", 10) // and one behind a port of its host
	in.Known = "10.0.0.4:80"
	toIn := client(11, "4011", "10.0.0.4:80", "", 10)
	toIn.Why = flow.WhyNoEvidence
	forged := client(8, "4008", "10.0.0.2:80", "", 10)
	forged.Why = flow.WhyNoEvidence
	liar := server(8, "10.0.0.2:80", "4008", "shop/api", 10)
	liar.Version = 1 // its exporter may not name its local end
	records.Load(t, s, t0, []records.Record{
		unnamed, client(2, "4002", "10.0.0.2:80", "shop/api", 10), client(3, "4003", "10.0.0.2:80", "shop/wrong", 10), earlier,
		client(5, "4005", "10.0.0.2:80", "shop/alone", 10), twice, forged, shifted, out, toIn,
	})
	records.Load(t, s, t0, []records.Record{late})
	records.Load(t, s, t0, []records.Record{
		server(1, "10.0.0.2:80", "4001", "shop/api", 10), server(2, "10.0.0.2:80", "4002", "shop/api", 10.05), server(3, "10.0.0.2:80", "4003", "shop/api", 10),
		server(4, "10.0.0.2:80", "4004", "shop/api", 20), // another connection on the same ports
		server(6, "10.0.0.2:80", "4006", "shop/api", 10), server(7, "10.0.0.2:80", "4006", "shop/other", 10), liar, server(10, "10.0.0.2:80", "4010", "shop/api", 10), in,
	})
	reg := prometheus.NewRegistry()
	j := New(Config{}, s, reg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err := j.look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	got := schematest.Query(t, s, "SELECT exporter_id, flow_id, remote_workload, remote_evidence, remote_why, peer_observed, tx_bytes FROM "+s.Database+".flows ORDER BY 1, 2")
	want := `x	1	shop/api	mirror	named	yes	10
x	2	shop/api	mirror	named	yes	10
x	3	shop/api	mirror	named	yes	10
x	4		none	no_evidence	unknown	10
x	5	shop/alone	none	named	unknown	10
x	6		none	no_evidence	unknown	10
x	8		none	no_evidence	unknown	10
x	9	shop/late	mirror	named	yes	10
x	10	shop/api	mirror	named	yes	10
x	11	shop/in	mirror	named	yes	10
y	1	shop/web	mirror	named	yes	20
y	2	shop/web	mirror	named	yes	20
y	3	shop/web	mirror	named	yes	20
y	4		none	no_evidence	unknown	20
y	6	shop/web	mirror	named	yes	20
y	7	shop/web	mirror	named	yes	20
y	8	shop/web	mirror	named	yes	20
y	10	shop/web	mirror	named	yes	20
y	11	shop/web	mirror	named	yes	20
z	9	shop/web	mirror	named	yes	20
`
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("rows (-want +got):\n%s", d)
	}
	books := `
# HELP tributary_collector_pairs_rows_total Records joined with their peer's in the store: the name agreed, disagreed (must stay 0), or there was none.
# TYPE tributary_collector_pairs_rows_total counter
tributary_collector_pairs_rows_total{result="agreed"} 1
tributary_collector_pairs_rows_total{result="alone"} 13
tributary_collector_pairs_rows_total{result="disagreed"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(books), "tributary_collector_pairs_rows_total"); err != nil {
		t.Error(err)
	}
	if got := schematest.Query(t, s, "SELECT exporter_id, flow_id, was_workload, peer_workload, network, remote_addr, remote_port, peer_exporter_id FROM "+s.Database+".disagreements"); got !=
		"x\t3\tshop/wrong\tshop/api\tdefault\t::ffff:10.0.0.2\t80\ty\n" {
		t.Errorf("disagreements: %q", got)
	}
	// A second look finds nothing new, and another collector rests meanwhile.
	rows := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".renames")
	if err := j.look(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := New(Config{}, s, prometheus.NewRegistry(), j.log).Step(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if again := schematest.Query(t, s, "SELECT count() FROM "+s.Database+".renames"); again != rows {
		t.Errorf("%s renames after a second look, %s before", again, rows)
	}
}
