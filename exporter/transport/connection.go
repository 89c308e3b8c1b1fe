package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"

	"tributary/proto/flowv1"
)

// flowsStream and controlStream are the two streams, whatever carries them. After an error of Send, Recv has the reason.
type (
	flowsStream interface {
		Send(*flowv1.FlowsRequest) error
		Recv() (*flowv1.FlowsResponse, error)
	}
	controlStream interface {
		Send(*flowv1.ControlRequest) error
		Recv() (*flowv1.ControlResponse, error)
	}
)

// connection opens the streams of one session.
type connection interface {
	flows(ctx context.Context) (flowsStream, error)
	control(ctx context.Context) (controlStream, error)
	// await returns when another attempt makes sense, and after most in any case: then the attempt tells why it does not.
	await(ctx context.Context, most time.Duration)
	// probe reports whether a collector can be reached. It greets nobody, so that streams elsewhere stay the present ones.
	probe(ctx context.Context) error
	way() Way
	close()
}

// connect prepares a connection of the way; it dials when it is used.
func (c *Config) connect(way Way) (connection, error) {
	if way == HTTPS {
		return newHTTPS(c)
	}
	return dialGRPC(c)
}

// Probe reports whether a collector can be reached on a way, and if not why. It needs no more of the configuration than where to and how. Of UDP it says
// only whether datagrams can be sent: that they arrive needs a key.
func (c *Config) Probe(ctx context.Context, way Way) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if way == UDP {
		return c.probeUDP(ctx)
	}
	conn, err := c.connect(way)
	if err != nil {
		return err
	}
	defer conn.close()
	return conn.probe(ctx)
}

func (c *Config) probeUDP(ctx context.Context) error {
	conn, err := new(net.Dialer).DialContext(ctx, "udp", c.Datagrams.Address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// grpcConnection carries both streams on one HTTP/2 connection.
type grpcConnection struct {
	conn   *grpc.ClientConn
	client flowv1.CollectorClient
}

func dialGRPC(c *Config) (*grpcConnection, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(c.Credentials),
		grpc.WithStaticStreamWindowSize(windowBytes),
		grpc.WithStaticConnWindowSize(2 * windowBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMost},
			MinConnectTimeout: retryMost,
		}),
		grpc.WithDisableRetry(), // a stream that failed is a matter of this room
		grpc.WithIdleTimeout(0),
		grpc.WithUserAgent("tributary-exporter/" + c.Version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRecvBytes)),
	}
	if c.Dial != nil {
		options = append(options, grpc.WithContextDialer(c.Dial))
	}
	// passthrough: the host name is looked up again at each dial, not cached.
	conn, err := grpc.NewClient("passthrough:///"+c.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("collector address %q: %w", c.Address, err)
	}
	return &grpcConnection{conn, flowv1.NewCollectorClient(conn)}, nil
}

func (g *grpcConnection) flows(ctx context.Context) (flowsStream, error) { return g.client.Flows(ctx) }

func (g *grpcConnection) control(ctx context.Context) (controlStream, error) {
	return g.client.Control(ctx)
}

func (g *grpcConnection) await(ctx context.Context, most time.Duration) {
	if g.conn.GetState() == connectivity.Ready {
		pause(ctx, most)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	pause(ctx, min(retryFirst, most)/2)
	g.ready(ctx)
}

// ready dials until the connection stands or ctx ends.
func (g *grpcConnection) ready(ctx context.Context) bool {
	g.conn.Connect()
	for state := g.conn.GetState(); state != connectivity.Ready; state = g.conn.GetState() {
		if !g.conn.WaitForStateChange(ctx, state) {
			return false
		}
		g.conn.Connect()
	}
	return true
}

func (g *grpcConnection) probe(ctx context.Context) error {
	g.conn.Connect()
	for state := g.conn.GetState(); ; state = g.conn.GetState() {
		switch {
		case state == connectivity.Ready:
			return nil
		case state != connectivity.TransientFailure && g.conn.WaitForStateChange(ctx, state):
			continue
		}
		stream, err := g.client.Control(ctx) // knows why
		if err == nil {
			_, err = stream.Recv()
		}
		return errors.New(reasonOf(err))
	}
}

func (g *grpcConnection) way() Way { return GRPC }

func (g *grpcConnection) close() { _ = g.conn.Close() } // closing a connection twice is the only error
