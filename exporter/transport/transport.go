package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	"tributary/exporter/spool"
	"tributary/proto/flowv1"
	"tributary/service/log"
)

// Config says where the collector is and who speaks.
type Config struct {
	Address     string                           // HOST:PORT of the collector
	Credentials credentials.TransportCredentials // required; insecure.NewCredentials() for plain text
	Spool       *spool.Spool                     // keeps the batches; required
	// Dial opens a connection to the address. nil: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	ExporterID string
	Host       string
	BootID     string
	Version    string

	Claims Claims // required
	// Counters returns the exporter's cumulative counters for Health messages. Required.
	Counters func() []*flowv1.Counter
}

const (
	// windowBytes is the flow-control window of each stream and half of the connection's: fixed, because grown windows held
	// 7.5 MB a blocked stream.
	windowBytes  = 512 << 10
	maxRecvBytes = 256 << 10 // responses are small

	retryFirst = 100 * time.Millisecond
	retryMost  = 5 * time.Second
	steady     = 5 * time.Second // a stream that lived so long was a success: the next retry is a first one

	drainMost = 10 * time.Second // how long acknowledgements are awaited on a stream that drains
)

// Transport is the exporter's side of the wire. Its methods are safe for concurrent use.
type Transport struct {
	config   Config
	window   *window
	link     *link
	books    *books
	refusals *refusals
	log      *slog.Logger
	lastAdd  atomic.Int64 // when the last batch came, ns since 1970
}

// New returns a transport that hands batches to the spool but sends nothing until Run.
func New(config Config, registerer prometheus.Registerer, logger *slog.Logger) (*Transport, error) {
	logger = log.Limited(logger.With(log.Component, "transport"), 10*time.Second)
	t := &Transport{config: config, window: newWindow(config.ExporterID), books: newBooks(), log: logger}
	t.link = newLink(config.Address, logger)
	var err error
	if t.refusals, err = newRefusals(logger); err != nil {
		return nil, err
	}
	if err := registerer.Register(&collector{t}); err != nil {
		return nil, fmt.Errorf("register the transport's metrics: %w", err)
	}
	return t, nil
}

// Add takes a sealed batch over: the spool keeps its bytes from here on. Batches come in the order of batch_seq.
func (t *Transport) Add(b *flowv1.Batch) {
	t.lastAdd.Store(time.Now().UnixNano())
	body, err := proto.Marshal(b)
	if err != nil {
		body = nil // the spool counts what it cannot keep
		t.log.Error("a batch cannot be encoded", "batch_seq", b.GetBatchSeq(), "error", err)
	}
	t.config.Spool.Append(b.GetBatchSeq(), b.GetRows(), body)
}

// Stats returns the books of this moment.
func (t *Transport) Stats() Stats { return t.window.snapshot() }

// Connected reports whether a collector has answered on the present connection, and whether one ever did.
func (t *Transport) Connected() (now, ever bool) { return t.link.state() }

// errDrained ends a session whose collector asked for it.
var errDrained = errors.New("the collector asked to connect again")

// Run keeps both streams open until ctx ends. Call it once.
func (t *Transport) Run(ctx context.Context) error {
	var wait retry
	for ctx.Err() == nil {
		began := time.Now()
		if err := t.session(ctx); err != nil && !errors.Is(err, errDrained) && ctx.Err() == nil {
			return err
		}
		pause(ctx, wait.next(time.Since(began)))
	}
	return nil
}

// session is the life of one connection: until ctx ends or the collector drains it.
func (t *Transport) session(ctx context.Context) error {
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // closing a connection twice is the only error
	ctx, cancel := context.WithCancel(ctx)
	client := flowv1.NewCollectorClient(conn)
	var control sync.WaitGroup
	control.Go(func() {
		t.keep(ctx, conn, streamControl, func(ctx context.Context) error { return t.control(ctx, client) })
	})
	t.keep(ctx, conn, streamFlows, func(ctx context.Context) error { return t.flows(ctx, client) })
	cancel()
	control.Wait()
	return errDrained
}

func (t *Transport) dial() (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(t.config.Credentials),
		grpc.WithStaticStreamWindowSize(windowBytes),
		grpc.WithStaticConnWindowSize(2 * windowBytes),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: retryFirst, Multiplier: 1.6, Jitter: 0.2, MaxDelay: retryMost},
			MinConnectTimeout: retryMost,
		}),
		grpc.WithDisableRetry(), // a stream that failed is a matter of this room
		grpc.WithIdleTimeout(0),
		grpc.WithUserAgent("tributary-exporter/" + t.config.Version),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxRecvBytes)),
	}
	if t.config.Dial != nil {
		options = append(options, grpc.WithContextDialer(t.config.Dial))
	}
	// passthrough: the host name is looked up again at each dial, not cached.
	conn, err := grpc.NewClient("passthrough:///"+t.config.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("collector address %q: %w", t.config.Address, err)
	}
	return conn, nil
}

// keep opens a stream again and again, until ctx ends or the collector drains it.
func (t *Transport) keep(ctx context.Context, conn *grpc.ClientConn, name streamName, open func(context.Context) error) {
	var wait retry
	for {
		began := time.Now()
		err := open(ctx)
		t.link.down(name)
		if ctx.Err() != nil || errors.Is(err, errDrained) {
			return
		}
		if errors.Is(err, errProtocol) {
			t.books.protocolErrors.Add(1)
		}
		t.books.restarts[name].Add(1)
		t.link.lost(name, err, t.config.Spool.Stats().Pending.Batches)
		lived := time.Since(began)
		if conn.GetState() == connectivity.Ready {
			pause(ctx, wait.next(lived))
			continue
		}
		awaitReady(ctx, conn, wait.next(lived))
	}
}

// awaitReady returns when the connection stands, and after most in any case: then the next attempt tells why it does not.
func awaitReady(ctx context.Context, conn *grpc.ClientConn, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	pause(ctx, min(retryFirst, most)/2)
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (t *Transport) hello() *flowv1.Hello {
	return &flowv1.Hello{
		ExporterId: t.config.ExporterID, Host: t.config.Host, BootId: t.config.BootID, Version: t.config.Version,
		ClockNs: time.Now().UnixNano(),
	}
}
