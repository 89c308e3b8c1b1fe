package e2e

import (
	"flag"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/collector/embedded"
	"tributary/deploy/dev/ports"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/testenv"
)

var (
	pairsFor  = flag.Duration("pairs.for", 2*time.Second, "how long connections are made")
	pairsRate = flag.Int("pairs.rate", 500, "connections a second")
)

// TestPairsAcrossNodes: two collectors, a real Kafka and one store; the two ends of each connection are reported to different collectors, the server's
// up to two seconds later. Every record must be joined with its peer's, and Kafka be told. With -v it prints how long that took; benchmarks/README.md
// has a long run.
func TestPairsAcrossNodes(t *testing.T) {
	f := newFleet(t)
	testenv.NeedFile(t, engine(t), "run make engine")
	f.sql = ports.Address(t)
	a, b := f.collector("a"), f.collector("b")
	a.store = []string{"--clickhouse", "embedded", "--embedded-listen", f.sql, "--embedded-library", engine(t)}
	a.up()
	credential, err := embedded.ReadCredential(filepath.Join(f.dir, a.name))
	if err != nil {
		t.Fatal(err)
	}
	b.store = []string{"--clickhouse", (&url.URL{Scheme: "http", Host: f.sql, User: url.UserPassword(credential.User, credential.Password)}).String()}
	b.up()
	f.exporters[0], f.exporters[1] = f.exporter(0, a), f.exporter(1, b)
	clients, servers := f.reporter(a, f.exporters[0].id), f.reporter(b, f.exporters[1].id)
	joined := f.watchPairs()
	var met []time.Time // when the second record of each connection was reported
	late := map[time.Time][][2]int{}
	const tick = 100 * time.Millisecond
	end := time.Now().Add(*pairsFor)
	for next := time.Now(); next.Before(end) || len(late) > 0; next = next.Add(tick) {
		time.Sleep(time.Until(next))
		if next.Before(end) {
			from, to := len(met), len(met)+*pairsRate/int(time.Second/tick)
			clients.report(from, to, flow.RoleClient)
			at := next.Add(time.Duration(f.rng.IntN(20)) * tick)
			late[at] = append(late[at], [2]int{from, to})
			met = append(met, make([]time.Time, to-from)...)
		}
		for _, ids := range late[next] {
			servers.report(ids[0], ids[1], flow.RoleServer)
			for i := ids[0]; i < ids[1]; i++ {
				met[i] = time.Now()
			}
		}
		delete(late, next)
	}
	delays := joined.wait(t, met)
	if n := f.number("SELECT count() FROM disagreements"); n > 0 {
		t.Errorf("%d disagreements", n)
	}
	at := func(share float64) time.Duration {
		return delays[min(len(delays)-1, int(share*float64(len(delays))))].Round(100 * time.Millisecond)
	}
	t.Logf("%d pairs joined: half within %s, 90 %% %s, 99 %% %s, the last after %s", len(delays), at(.5), at(.9), at(.99), at(1))
	f.kafkaKnows(len(met))
	f.oneLife(a, b)
}

// watch notes when both records of a connection were first seen joined. Others look at the store at the same time, so it asks once a second.
type watch struct {
	mu   sync.Mutex
	seen map[uint64]time.Time // by flow_id
}

func (f *fleet) watchPairs() *watch {
	w := &watch{seen: map[uint64]time.Time{}}
	go func() {
		for tick := time.NewTicker(time.Second); f.ctx.Err() == nil; <-tick.C {
			rows, err := f.sqlRows("SELECT flow_id FROM flows WHERE peer_observed = 'yes' AND remote_evidence = 'mirror' GROUP BY flow_id HAVING count() = 2")
			if err != nil {
				continue // it is asked again
			}
			now := time.Now()
			w.mu.Lock()
			for _, row := range rows {
				id, _ := strconv.ParseUint(row[0], 10, 64) // a number, or nothing waits for it
				if _, known := w.seen[id]; !known {
					w.seen[id] = now
				}
			}
			w.mu.Unlock()
		}
	}()
	return w
}

// wait waits until every connection is joined and returns, in order, how long after its second record each was.
func (w *watch) wait(t *testing.T, met []time.Time) []time.Duration {
	t.Helper()
	count := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.seen)
	}
	for end := time.Now().Add(soon); count() < len(met); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d pairs are joined", count(), len(met))
		}
	}
	delays := make([]time.Duration, len(met))
	for i := range met {
		delays[i] = w.seen[uint64(i+1)].Sub(met[i])
	}
	slices.Sort(delays)
	return delays
}

// kafkaKnows waits until Kafka has the newest version of both records of every connection.
func (f *fleet) kafkaKnows(connections int) {
	f.t.Helper()
	type key struct {
		exporter string
		flow     uint64
	}
	b := new(flow.Batch)
	var observed int
	for end := time.Now().Add(soon); observed < 2*connections; time.Sleep(500 * time.Millisecond) {
		version, yes := map[key]uint32{}, map[key]bool{}
		for _, value := range f.messages(f.flowsTopic()) {
			if err := f.decoder.Decode(value, b); err != nil {
				f.t.Fatal(err)
			}
			for i := range b.Rows {
				k := key{b.ExporterID, b.Get64(flow.FlowID, i)}
				if v := b.Get32(flow.Version, i); v >= version[k] {
					version[k], yes[k] = v, b.Get32(flow.PeerObserved, i) == flow.PeerYes
				}
			}
		}
		observed = 0
		for _, y := range yes {
			if y {
				observed++
			}
		}
		if time.Now().After(end) {
			f.t.Fatalf("Kafka knows of the peers of %d of %d records", observed, 2*connections)
		}
	}
}

// reporter sends batches as an exporter does.
type reporter struct {
	f      *fleet
	stream grpc.BidiStreamingClient[flowv1.FlowsRequest, flowv1.FlowsResponse]
	id     string
	seq    uint64
}

func (f *fleet) reporter(at *member, exporter string) *reporter {
	f.t.Helper()
	conn, err := grpc.NewClient(at.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	stream, err := flowv1.NewCollectorClient(conn).Flows(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	r := &reporter{f: f, stream: stream, id: exporter}
	hello := &flowv1.Hello{ExporterId: exporter, Host: "host-" + exporter, BootId: "b", Version: "test", ClockNs: time.Now().UnixNano()}
	if err := stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello}}); err != nil {
		f.t.Fatal(err)
	}
	go func() {
		for { // acknowledgements
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	}()
	return r
}

// report sends one end of the connections with these numbers, all of which ended just now.
func (r *reporter) report(from, to int, role uint32) {
	r.f.t.Helper()
	w := flow.NewBuilder(to - from)
	now := time.Now().UnixNano()
	for id := from; id < to; id++ {
		client, server := addressOf(0, id%fleetInstances), addressOf(1, id/fleetInstances%fleetInstances)
		port, own := uint32(20000+id/(fleetInstances*fleetInstances)), workloadOf(0, id%fleetInstances)
		addFlow(w, uint64(id+1), server, now)
		w.SetAddr(flow.LocalAddr, client)
		w.Set32(flow.LocalPort, port)
		w.Set32(flow.Role, role)
		if role == flow.RoleServer {
			w.SetAddr(flow.LocalAddr, server)
			w.SetAddr(flow.RemoteAddr, client)
			w.Set32(flow.LocalPort, 443)
			w.Set32(flow.RemotePort, port)
			own = workloadOf(1, id/fleetInstances%fleetInstances)
		}
		w.SetText(flow.LocalWorkload, own)
		w.SetText(flow.LocalInstance, strings.ReplaceAll(own, "/", "-"))
		w.Set32(flow.LocalEvidence, flow.EvidenceAddress)
		w.Set64(flow.StartTimeNs, uint64(now-int64(3*time.Second)))
		w.Set64(flow.IntervalStartNs, uint64(now-int64(3*time.Second)))
	}
	columns, rows := w.Seal(nil)
	r.seq++
	if err := r.stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: &flowv1.Batch{
		ExporterId: r.id, BatchSeq: r.seq, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns, Host: "host-" + r.id,
	}}}); err != nil {
		r.f.t.Fatal(err)
	}
}
