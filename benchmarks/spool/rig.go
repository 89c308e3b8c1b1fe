package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

const rowsOfBatch = 1000

// sealed is a batch as an exporter seals it. The spool and the transport do not look into the payload.
func (p payload) sealed(exporterID string, seq uint64) *flowv1.Batch {
	return &flowv1.Batch{
		ExporterId: exporterID, BatchSeq: seq, Rows: rowsOfBatch, Codec: flowv1.Codec_CODEC_ZSTD, ColumnsBytes: p.columnsBytes,
		Payload: p.bytes, Host: "bench", SealedTimeNs: time.Now().UnixNano(),
	}
}

type payload struct {
	bytes        []byte
	columnsBytes uint32
}

// samplePayload is one payload of the size that real ones have.
func samplePayload() (payload, error) {
	w := flow.NewBuilder(rowsOfBatch)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range rowsOfBatch {
		w.AddRow()
		w.Set64(flow.FlowID, random.Uint64())
		at := uint64(1_795_000_000_000_000_000) + uint64(i)*uint64(time.Millisecond) + random.Uint64N(1_000_000)
		w.Set64(flow.StartTimeNs, at)
		w.Set64(flow.IntervalStartNs, at)
		w.Set64(flow.EndTimeNs, at+random.Uint64N(uint64(time.Second)))
		w.Set64(flow.SockCookie, random.Uint64N(1<<40))
		w.Set64(flow.TxBytes, random.Uint64N(1<<20))
		w.Set64(flow.RxBytes, random.Uint64N(1<<24))
		for _, f := range []flow.U32{flow.LocalPort, flow.RemotePort, flow.SrttUs, flow.MinRttUs, flow.ConnectUs, flow.TxSegs, flow.RxSegs} {
			w.Set32(f, random.Uint32N(1<<15))
		}
	}
	columns, _ := w.Seal(nil)
	sealer, err := flow.NewSealer()
	if err != nil {
		return payload{}, err
	}
	return payload{sealer.Compress(nil, columns), uint32(len(columns))}, nil
}

// collector acknowledges everything, behind the last unacked batches, and notes when the first one of each stream came.
type collector struct {
	flowv1.UnimplementedCollectorServer
	address string
	server  *grpc.Server
	first   chan time.Time
	gate    sync.RWMutex // held: nothing is read
}

const unacked = 64

func startCollector() (*collector, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &collector{address: listener.Addr().String(), first: make(chan time.Time, 1)}
	// Windows as those of a real collector: what it has not read is not the spool's.
	c.server = grpc.NewServer(grpc.StaticStreamWindowSize(512<<10), grpc.StaticConnWindowSize(1<<20))
	flowv1.RegisterCollectorServer(c.server, c)
	go func() { _ = c.server.Serve(listener) }() // it ends when the server is stopped
	return c, nil
}

// Flows implements flowv1.CollectorServer.
func (c *collector) Flows(stream grpc.BidiStreamingServer[flowv1.FlowsRequest, flowv1.FlowsResponse]) error {
	var waiting []*flowv1.Batch
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		b := m.GetBatch()
		if b == nil {
			continue // the hello
		}
		c.gate.RLock()
		select {
		case c.first <- time.Now():
		default:
		}
		b.Payload = nil
		c.gate.RUnlock()
		waiting = append(waiting, b)
		// The last batches of a round are few: they are acknowledged at once, by the row count that the sender gave them.
		for len(waiting) > 0 && (len(waiting) > unacked || b.GetSealedTimeNs() == lastOfRound) {
			w := waiting[0]
			waiting = waiting[1:]
			seq := w.GetBatchSeq()
			if err := stream.Send(&flowv1.FlowsResponse{
				ExporterId: w.GetExporterId(), ReceivedSeq: seq, CreditBytes: 8 << 20, Acked: []*flowv1.SeqRange{{First: seq, Last: seq}},
			}); err != nil {
				return err
			}
		}
	}
}

// lastOfRound in sealed_time_ns marks the last batch of a round.
const lastOfRound = 1

// Control implements flowv1.CollectorServer.
func (c *collector) Control(stream grpc.BidiStreamingServer[flowv1.ControlRequest, flowv1.ControlResponse]) error {
	if err := stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{Welcome: &flowv1.Welcome{CollectorId: "bench"}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// exporter is the delivering half of one.
type exporter struct {
	id        string
	spool     *spool.Spool
	transport *transport.Transport
	stop      func()
}

// startExporter starts a spool, in memory if dir is "", and a transport unless address is "".
func startExporter(id, dir, address string) (*exporter, error) {
	c := spool.Default()
	c.Run, c.Host = id, "bench"
	if dir != "" {
		c.FS = spool.Dir(dir)
	}
	quiet, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	e := &exporter{id: id}
	var err error
	if e.spool, err = spool.New(c, registry, quiet); err != nil {
		return nil, err
	}
	e.transport, err = transport.New(transport.Config{
		Address: address, Credentials: insecure.NewCredentials(), Spool: e.spool, ExporterID: id, Host: "bench",
		Claims: noClaims{}, Counters: func() []*flowv1.Counter { return nil },
	}, registry, quiet)
	if err != nil {
		return nil, err
	}
	sending, endSending := context.WithCancel(context.Background())
	keeping, endKeeping := context.WithCancel(context.Background())
	var sends, keeps sync.WaitGroup
	keeps.Go(func() { e.spool.Run(keeping) })
	if address != "" {
		sends.Go(func() { _ = e.transport.Run(sending) }) // it ends when it is told to
	}
	e.stop = func() {
		endSending()
		sends.Wait()
		endKeeping()
		keeps.Wait()
	}
	return e, nil
}

// onDisk waits until the directory is in use.
func (e *exporter) onDisk(ctx context.Context) error {
	for e.spool.Stats().State != spool.DiskOK {
		if ctx.Err() != nil {
			return fmt.Errorf("the spool is not on disk: %w", e.spool.Stats().Err)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

type noClaims struct{}

func (noClaims) Subscribe(context.Context) transport.Subscription {
	return transport.NewSubscription(nil, make(chan *flowv1.Ownership), func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

func (noClaims) VerifiedTo(int64) int64 { return 0 }
