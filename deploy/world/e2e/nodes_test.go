package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/collector/sink/kafka"
	"tributary/deploy/dev/kafkatest"
	"tributary/deploy/dev/ports"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/testenv"
)

const (
	fleetExporters = 200
	fleetInstances = 100 // of each
)

// TestNodesShareAFleet: two collectors and a real Kafka, 20,000 instances whose exporters are split between them. One is killed and starts again: it is
// ready within 10 s and at once names what the other's exporters claim. An address that was handed on meanwhile is never named wrong.
func TestNodesShareAFleet(t *testing.T) {
	f := newFleet(t)
	a, b := f.collector("a"), f.collector("b")
	a.up()
	b.up()
	for i := range f.exporters {
		f.exporters[i] = f.exporter(i, []*member{a, b}[i%2])
	}
	f.ask(a, "first of a", 0, 200)
	f.ask(b, "first of b", 0, 200)

	b.program.kill()
	const moving = 5 // instance 5 of exporter 0 stops; its address goes to exporter 2; both speak with a
	from, to := f.exporters[0], f.exporters[2]
	before := time.Now().Add(-2 * time.Second).UnixNano()
	from.drop(moving)
	to.add(addressOf(0, moving), "fleet/new")
	after := time.Now().Add(time.Second).UnixNano()

	started := time.Now()
	b.up()
	took := time.Since(started)
	t.Logf("ready after %s among %d instances", took.Round(time.Millisecond), fleetExporters*fleetInstances)
	if took > 10*time.Second { // fifty times what it takes
		t.Errorf("ready after %s", took)
	}
	f.ask(b, "at once", 0, 200)
	f.asked(b, "before the hand-over", addressOf(0, moving), before, workloadOf(0, moving))
	f.asked(b, "after it", addressOf(0, moving), after, "fleet/new")
	f.ask(a, "a, all the same", 0, 200)
	f.ask(a, "a, of those who came back", 1, 100)

	b.program.end(t)
	b.up()
	f.ask(b, "after a stop", 0, 200)
}

// fleet is two collectors without ClickHouse, and simulated exporters.
type fleet struct {
	*rig
	decoder   *kafka.Decoder
	exporters [fleetExporters]*simulated
	seq       uint64
	rng       *rand.Rand
}

// member is one collector of the fleet.
type member struct {
	f                     *fleet
	name, listen, metrics string
	store                 []string // arguments
	program               *program
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	testenv.NeedRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	t.Cleanup(cancel)
	f := &fleet{rig: &rig{t: t, ctx: ctx, dir: t.TempDir(), kafka: kafkatest.Start(t), ingest: ports.Address(t)}, rng: rand.New(rand.NewPCG(5, 4))}
	var err error
	if f.decoder, err = kafka.NewDecoder(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) collector(name string) *member {
	m := &member{f: f, name: name, listen: ports.Address(f.t), metrics: ports.Address(f.t), store: []string{"--clickhouse", "none"}}
	f.t.Cleanup(func() {
		if m.program != nil {
			m.program.end(f.t)
		}
	})
	return m
}

func (f *fleet) flowsTopic() string { return "flows." + f.ownershipTopic() }

func (m *member) up() {
	m.f.t.Helper()
	m.program = m.f.start("tributary-collector", append([]string{
		"serve", "--data", filepath.Join(m.f.dir, m.name), "--kafka", m.f.kafka, "--kafka-topic", m.f.flowsTopic(), "--kafka-ownership-topic", m.f.ownershipTopic(),
		"--listen", m.listen, "--metrics-listen", m.metrics, "--api-listen", "",
	}, m.store...)...)
	m.f.ready(m.program, m.metrics)
}

// addressOf is that of an instance.
func addressOf(exporter, instance int) [16]byte {
	return netip.AddrFrom4([4]byte{10, byte(100 + exporter/256), byte(exporter), byte(instance + 1)}).As16()
}

func workloadOf(exporter, instance int) string {
	return fmt.Sprintf("fleet/w%d", (exporter*fleetInstances+instance)%600)
}

// simulated is an exporter that claims, sends watermarks, and connects again when its collector was away.
type simulated struct {
	f    *fleet
	id   string
	at   *member
	mu   sync.Mutex
	held map[[16]byte]*flowv1.Claim
	send chan *flowv1.Ownership
}

func (f *fleet) exporter(number int, at *member) *simulated {
	s := &simulated{f: f, id: fmt.Sprintf("run-%d", number), at: at, held: map[[16]byte]*flowv1.Claim{}, send: make(chan *flowv1.Ownership, 10)}
	from := time.Now().Add(-time.Minute).UnixNano()
	for i := range fleetInstances {
		s.hold(addressOf(number, i), workloadOf(number, i), from)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(f.ctx)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			s.speak(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	f.t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func (s *simulated) hold(addr [16]byte, workload string, from int64) *flowv1.Claim {
	c := &flowv1.Claim{
		Network: "default", Addr: addr[:], Workload: workload, Instance: fmt.Sprintf("%s-%d", workload, binary.BigEndian.Uint32(addr[12:])), FromNs: from,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[addr] = c
	return c
}

func (s *simulated) add(addr [16]byte, workload string) {
	s.send <- &flowv1.Ownership{Claims: []*flowv1.Claim{s.hold(addr, workload, time.Now().UnixNano())}}
}

func (s *simulated) drop(instance int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, c := range s.held {
		if addr[15] == byte(instance+1) {
			delete(s.held, addr)
			s.send <- &flowv1.Ownership{Releases: []*flowv1.Release{{Network: c.GetNetwork(), Addr: c.GetAddr(), AtNs: time.Now().UnixNano()}}}
		}
	}
}

func (s *simulated) whole() *flowv1.Ownership {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &flowv1.Ownership{Full: true}
	for _, c := range s.held {
		m.Claims = append(m.Claims, c)
	}
	return m
}

// speak is one Control stream.
func (s *simulated) speak(ctx context.Context) {
	conn, err := grpc.NewClient(s.at.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return
	}
	defer conn.Close()
	stream, err := flowv1.NewCollectorClient(conn).Control(ctx)
	if err != nil {
		return
	}
	_ = stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: s.hello()}})
	if _, err := stream.Recv(); err != nil {
		return
	}
	own := func(m *flowv1.Ownership) {
		_ = stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: m}})
	}
	own(s.whole())
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		now := time.Now().UnixNano()
		mark := &flowv1.Watermark{VerifiedToNs: now, ClockNs: now}
		if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: mark}}); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case m := <-s.send:
			own(m)
		case <-tick.C:
		}
	}
}

func (s *simulated) hello() *flowv1.Hello {
	return &flowv1.Hello{ExporterId: s.id, Host: "host-" + s.id, BootId: "b", Version: "test", ClockNs: time.Now().UnixNano()}
}

// ask sends a batch of flows to a random choice of the instances of every other exporter, from odd on, and expects each to be named right.
func (f *fleet) ask(m *member, when string, odd, rows int) {
	f.t.Helper()
	at := time.Now().Add(-2 * time.Second).UnixNano()
	w, want := flow.NewBuilder(rows), map[uint64]string{}
	for i := range rows {
		// Those of the other node, and 20 of this one, exporter 0's moving instance apart.
		exporter, instance := 2*f.rng.IntN(fleetExporters/2)+odd, 10+f.rng.IntN(fleetInstances-10)
		want[uint64(i+1)] = workloadOf(exporter, instance)
		addFlow(w, uint64(i+1), addressOf(exporter, instance), at)
	}
	f.judge(m, when, w, want)
}

// asked sends one flow and waits until it is named.
func (f *fleet) asked(m *member, when string, remote [16]byte, at int64, want string) {
	f.t.Helper()
	w := flow.NewBuilder(1)
	addFlow(w, 1, remote, at)
	f.judge(m, when, w, map[uint64]string{1: want})
}

func addFlow(w *flow.Builder, id uint64, remote [16]byte, at int64) {
	w.AddRow()
	w.Set64(flow.FlowID, id)
	w.Set32(flow.Kind, flow.KindClosed)
	w.Set32(flow.Role, flow.RoleClient)
	w.Set32(flow.StartObserved, 1)
	w.SetText(flow.Network, "default")
	w.SetAddr(flow.LocalAddr, netip.MustParseAddr("10.1.1.1").As16())
	w.SetAddr(flow.RemoteAddr, remote)
	w.Set32(flow.LocalPort, 40000)
	w.Set32(flow.RemotePort, 443)
	for _, t := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
		w.Set64(t, uint64(at))
	}
}

// judge sends a batch as an exporter of its own and reads the topic until all rows have their names. A wrong name fails, at any time.
func (f *fleet) judge(m *member, when string, w *flow.Builder, want map[uint64]string) {
	f.t.Helper()
	f.seq++
	sender := &simulated{id: fmt.Sprintf("asker-%d", f.seq)}
	conn, err := grpc.NewClient(m.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := flowv1.NewCollectorClient(conn).Flows(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	columns, rows := w.Seal(nil)
	sent := time.Now()
	_ = stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: sender.hello()}})
	_ = stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: &flowv1.Batch{
		ExporterId: sender.id, BatchSeq: 1, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns, Host: "host-" + sender.id,
	}}})
	for acked := false; !acked; {
		answer, err := stream.Recv()
		if err != nil || len(answer.GetRejected()) > 0 {
			f.t.Fatalf("%s: %v %v", when, err, answer)
		}
		acked = len(answer.GetAcked()) > 0
	}
	f.t.Logf("%s: %d rows written after %s, unnamed: %v", when, len(want), time.Since(sent).Round(time.Millisecond), f.compare(when, sender.id, want))
	for end := time.Now().Add(soon); ; time.Sleep(200 * time.Millisecond) {
		unnamed := f.compare(when, sender.id, want)
		if len(unnamed) == 0 {
			f.t.Logf("%s: all named after %s", when, time.Since(sent).Round(time.Millisecond))
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%s: unnamed: %v", when, unnamed)
		}
	}
}

// compare reads the whole topic and says why rows of the sender are not named.
func (f *fleet) compare(when, sender string, want map[uint64]string) map[string]int {
	f.t.Helper()
	names, why, version := map[uint64]string{}, map[uint64]string{}, map[uint64]uint32{}
	b := new(flow.Batch)
	for _, value := range f.messages(f.flowsTopic()) {
		if err := f.decoder.Decode(value, b); err != nil {
			f.t.Fatal(err)
		}
		for i := range b.Rows {
			id := b.Get64(flow.FlowID, i)
			if v := b.Get32(flow.Version, i); b.ExporterID == sender && v >= version[id] {
				version[id], names[id], why[id] = v, b.Text(flow.RemoteWorkload, i), flow.WhyNames[b.Get32(flow.RemoteWhy, i)]
			}
		}
	}
	unnamed := map[string]int{}
	for id, w := range want {
		switch names[id] {
		case w:
		case "":
			unnamed[why[id]]++
		default:
			f.t.Errorf("%s: flow %d is named %s, not %s", when, id, names[id], w)
		}
	}
	return unnamed
}
