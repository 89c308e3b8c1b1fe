package transport

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
	"tributary/service/spool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCollector is a real gRPC server that does what a test tells it.
type fakeCollector struct {
	flowv1.UnimplementedCollectorServer
	address string
	server  *grpc.Server

	flows   func(n int, stream flowv1.Collector_FlowsServer) error // n counts streams from 1
	control func(n int, stream flowv1.Collector_ControlServer) error

	mu       sync.Mutex
	streams  int
	controls int
	got      []*flowv1.Batch // in the order of arrival, of all streams
}

func (f *fakeCollector) Flows(stream flowv1.Collector_FlowsServer) error {
	f.mu.Lock()
	f.streams++
	n := f.streams
	f.mu.Unlock()
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if r.GetHello().GetExporterId() != "exp-1" {
		return nil
	}
	return f.flows(n, stream)
}

func (f *fakeCollector) Control(stream flowv1.Collector_ControlServer) error {
	f.mu.Lock()
	f.controls++
	n := f.controls
	f.mu.Unlock()
	return f.control(n, stream)
}

// take receives one batch and notes it.
func (f *fakeCollector) take(stream flowv1.Collector_FlowsServer) (*flowv1.Batch, error) {
	r, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, r.GetBatch())
	return r.GetBatch(), nil
}

func (f *fakeCollector) batches() []*flowv1.Batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*flowv1.Batch(nil), f.got...)
}

func (f *fakeCollector) seqs() []uint64 {
	var seqs []uint64
	for _, b := range f.batches() {
		seqs = append(seqs, b.GetBatchSeq())
	}
	return seqs
}

func ack(first, last uint64) *flowv1.FlowsResponse {
	return &flowv1.FlowsResponse{ExporterId: "exp-1", ReceivedSeq: last, Acked: []*flowv1.SeqRange{{First: first, Last: last}}}
}

// ackAll acknowledges everything until the stream ends.
func (f *fakeCollector) ackAll(_ int, stream flowv1.Collector_FlowsServer) error {
	for {
		b, err := f.take(stream)
		if err != nil {
			return err
		}
		if err := stream.Send(ack(b.GetBatchSeq(), b.GetBatchSeq())); err != nil {
			return err
		}
	}
}

// welcome answers the hello and then only listens.
func welcome(_ int, stream flowv1.Collector_ControlServer) error {
	if err := stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{Welcome: &flowv1.Welcome{CollectorId: "c1"}}}); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// serve starts the collector on address, "" for a free port.
func (f *fakeCollector) serve(t *testing.T, address string, options ...grpc.ServerOption) {
	t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	if f.flows == nil {
		f.flows = f.ackAll
	}
	if f.control == nil {
		f.control = welcome
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.server = grpc.NewServer(options...)
	flowv1.RegisterCollectorServer(f.server, f)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = f.server.Serve(listener)
	}()
	t.Cleanup(func() {
		f.server.Stop()
		<-served
	})
}

// fakeClaims is a source of claims whose subscribers' channels the test writes.
type fakeClaims struct {
	full []*flowv1.Claim

	mu       sync.Mutex
	channels []chan *flowv1.Ownership
	verified func(now int64) int64
}

func (c *fakeClaims) Subscribe(context.Context) Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	changes := make(chan *flowv1.Ownership, 1024)
	c.channels = append(c.channels, changes)
	return NewSubscription(c.full, changes, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

func (c *fakeClaims) VerifiedTo(now int64) int64 {
	if c.verified != nil {
		return c.verified(now)
	}
	return now
}

func (c *fakeClaims) change(o *flowv1.Ownership) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.channels[len(c.channels)-1] <- o
}

func (c *fakeClaims) subscribed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.channels)
}

// running is a transport under test.
type running struct {
	*Transport
	spool    *spool.Spool
	registry *prometheus.Registry
	log      *logBuffer
	stop     func() // ends Run and waits for it
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(s))
}

// newSpool keeps batches in memory.
func newSpool(t *testing.T) *spool.Spool {
	t.Helper()
	c := spool.Default()
	c.Run, c.Host = "exp-1", "h"
	s, err := spool.New(c, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keeper is a spool on disk whose Run is under way.
type keeper struct {
	*spool.Spool
	stop func()
}

func spoolOn(t *testing.T, dir, exporterID string) *keeper {
	t.Helper()
	c := spool.Default()
	c.FS, c.Run, c.Host = spool.Dir(dir), exporterID, "h"
	s, err := spool.New(c, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	eventually(t, "the spool is on disk", func() bool { return s.Stats().State == spool.DiskOK })
	return &keeper{s, stop}
}

func run(t *testing.T, address string, change func(*Config)) *running {
	t.Helper()
	config := Config{
		Address: address, Credentials: insecure.NewCredentials(), Spool: newSpool(t), ExporterID: "exp-1", Host: "h", BootID: "b",
		Claims: &fakeClaims{}, Counters: func() []*flowv1.Counter { return []*flowv1.Counter{{Name: "x", Value: 1}} },
	}
	if change != nil {
		change(&config)
	}
	r := &running{spool: config.Spool, registry: prometheus.NewRegistry(), log: new(logBuffer)}
	var err error
	if r.Transport, err = New(config, r.registry, slog.New(slog.NewTextHandler(r.log, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// batch returns a sealed batch of 10 rows whose payload has size bytes.
func batch(seq uint64, size int) *flowv1.Batch {
	payload := bytes.Repeat([]byte{byte(seq)}, size)
	return &flowv1.Batch{ExporterId: "exp-1", BatchSeq: seq, Rows: 10, Payload: payload, ColumnsBytes: uint32(size)}
}

func wire(t *testing.T, b *flowv1.Batch) string {
	t.Helper()
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func flush(t *testing.T, r *running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.spool.Flush(ctx); err != nil {
		t.Fatalf("flush: %v; %+v", err, r.spool.Stats())
	}
}
