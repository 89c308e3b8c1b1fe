package main

import (
	"net"
	"sync/atomic"

	"google.golang.org/grpc"

	"tributary/proto/flowv1"
)

// The flow-control windows of collector/ingest.
const streamWindow, connectionWindow = 128 << 10, 256 << 10

// collector acknowledges every batch at once, so that what the exporter uses is its own.
type collector struct {
	flowv1.UnimplementedCollectorServer
	address string
	rows    atomic.Uint64
}

func startCollector() (c *collector, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	c = &collector{address: listener.Addr().String()}
	// The windows stand still, as the real collector's do: a server that grows them answers each message with a ping, which the exporter would pay for.
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow))
	flowv1.RegisterCollectorServer(server, c)
	go func() { _ = server.Serve(listener) }()
	return c, server.Stop, nil
}

// Flows implements flowv1.CollectorServer.
func (c *collector) Flows(stream flowv1.Collector_FlowsServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		b := m.GetBatch()
		if b == nil {
			continue
		}
		c.rows.Add(uint64(b.GetRows()))
		seq := b.GetBatchSeq()
		if err := stream.Send(&flowv1.FlowsResponse{ReceivedSeq: seq, Acked: []*flowv1.SeqRange{{First: seq, Last: seq}}}); err != nil {
			return err
		}
	}
}

// Control implements flowv1.CollectorServer.
func (c *collector) Control(stream flowv1.Collector_ControlServer) error {
	welcome := &flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{Welcome: &flowv1.Welcome{CollectorId: "overhead"}}}
	if err := stream.Send(welcome); err != nil {
		return err
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}
