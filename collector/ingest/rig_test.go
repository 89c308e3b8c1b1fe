package ingest

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

const base = uint64(1_795_000_000_000_000_000)

// pipeline collects what the server lets through.
type pipeline struct {
	mu    sync.Mutex
	taken []*flow.Batch
}

func (p *pipeline) Add(b *flow.Batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = append(p.taken, b)
}

func (p *pipeline) wait(t *testing.T, n int) []*flow.Batch {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		p.mu.Lock()
		if len(p.taken) >= n {
			defer p.mu.Unlock()
			return p.taken
		}
		p.mu.Unlock()
	}
	t.Fatalf("fewer than %d batches came through", n)
	return nil
}

type rig struct {
	server   *Server
	pipeline *pipeline
	table    *ownership.Table
	client   flowv1.CollectorClient
	registry *prometheus.Registry
	woken    chan struct{}
}

func start(t *testing.T, cfg Config) *rig {
	t.Helper()
	r := &rig{
		pipeline: new(pipeline), table: ownership.New(ownership.Config{}), registry: prometheus.NewRegistry(),
		woken: make(chan struct{}, 1000),
	}
	wake := func() { r.woken <- struct{}{} }
	book, err := session.New(1000, r.table, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.server, err = New(cfg, book, r.pipeline, wake, r.registry, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.client = flowv1.NewCollectorClient(conn)
	t.Cleanup(func() {
		conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

type flowsStream = grpc.BidiStreamingClient[flowv1.FlowsRequest, flowv1.FlowsResponse]

func (r *rig) flows(t *testing.T, exporter string) flowsStream {
	t.Helper()
	s, err := r.client.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello(exporter)}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func hello(exporter string) *flowv1.Hello {
	return &flowv1.Hello{ExporterId: exporter, Host: "h1", BootId: "b", Version: "test"}
}

func (r *rig) control(t *testing.T, exporter string) grpc.BidiStreamingClient[flowv1.ControlRequest, flowv1.ControlResponse] {
	t.Helper()
	s, err := r.client.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: hello(exporter)}}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetWelcome() == nil {
		t.Fatalf("no welcome: %v, %v", m, err)
	}
	return s
}

func batch(exporter string, seq uint64, rows int) *flowv1.Batch {
	w := flow.NewBuilder(rows)
	for i := range rows {
		w.AddRow()
		w.Set64(flow.FlowID, seq*1000+uint64(i))
		w.Set32(flow.Kind, flow.KindClosed)
		for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
			w.Set64(f, base)
		}
	}
	columns, n := w.Seal(nil)
	return &flowv1.Batch{ExporterId: exporter, BatchSeq: seq, Rows: uint32(n), ColumnsBytes: uint32(len(columns)), Payload: columns}
}

func send(t *testing.T, s flowsStream, b *flowv1.Batch) {
	t.Helper()
	if err := s.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: b}}); err != nil {
		t.Fatal(err)
	}
}

// told reads answers until all the named batches are acknowledged or rejected, and returns which.
func told(t *testing.T, s flowsStream, n int) (acked map[uint64]bool, rejected map[uint64]*flowv1.Rejected) {
	t.Helper()
	acked, rejected = map[uint64]bool{}, map[uint64]*flowv1.Rejected{}
	for len(acked)+len(rejected) < n {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("after %v and %v: %v", acked, rejected, err)
		}
		for _, r := range m.GetAcked() {
			for seq := r.GetFirst(); seq <= r.GetLast(); seq++ {
				acked[seq] = true
			}
		}
		for _, r := range m.GetRejected() {
			rejected[r.GetBatchSeq()] = r
		}
	}
	return acked, rejected
}

// values returns the sums of all metrics of the room that are not 0, by name and label.
func (r *rig) until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (r *rig) values(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "tributary_collector_ingest_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			if v := m.GetCounter().GetValue() + m.GetGauge().GetValue(); v != 0 {
				out[name] = v
			}
		}
	}
	return out
}

// end reads a stream to its end and says how that came.
func end(s flowsStream) codes.Code {
	for {
		if _, err := s.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func claim(addr byte, workload string, from uint64) *flowv1.Claim {
	return &flowv1.Claim{
		Network: "default", Addr: []byte{10: 0xff, 11: 0xff, 12: 10, 15: addr}, Workload: workload, Instance: workload + "-1", FromNs: int64(from),
	}
}

func sendOwnership(t *testing.T, s grpc.BidiStreamingClient[flowv1.ControlRequest, flowv1.ControlResponse], m *flowv1.Ownership) {
	t.Helper()
	if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: m}}); err != nil {
		t.Fatal(err)
	}
}
