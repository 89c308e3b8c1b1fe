package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Pipeline takes batches on their way. Add must not block.
type Pipeline interface {
	Add(b *flow.Batch)
}

// Book is where claims and watermarks go to.
type Book interface {
	// Open begins an exporter's Control stream; its older ones end.
	Open(hello *flowv1.Hello, now int64, by session.Peer) (*session.Stream, error)
	// Check returns an error if an exporter_id belongs to somebody else, here or at another node.
	Check(exporter string, who session.Identity) error
	// Seen notes that an exporter is there: until its first watermark nothing is called no_evidence.
	Seen(exporter, host string, clockNs, now int64) error
}

// Ledger takes what exporters say about themselves. It must not keep counters, and not block.
type Ledger interface {
	Note(exporter, host string, at int64, counters []flow.Counter)
}

// Listeners takes what exporters say about listening sockets. It may keep them, and must not block.
type Listeners interface {
	Note(exporter, host string, listeners []*flowv1.Listener)
}

// Settings are what exporters are told to do differently. Its methods must not block.
type Settings interface {
	Connect(exporter, host string) // a Control stream begins
	Disconnect(exporter string)    // and ends
	// For returns what to tell the exporters of a host, nil for nothing, and what is closed when that may have changed.
	For(host string) (*flowv1.Settings, <-chan struct{})
	// Answered takes what an exporter made of it.
	Answered(exporter string, m *flowv1.Applied, now time.Time)
}

// Config sets the limits of the front door. Zero values mean the defaults.
type Config struct {
	CollectorID    string
	StoreEpoch     string // "": not known yet, see NewEpoch
	PendingBytes   int64  // 256 MiB: batches taken in and not yet in the sinks, over all exporters
	CreditBytes    int64  // 8 MiB: payload one exporter may have under way beyond what was received
	MaxExporters   int    // 65536: runs of exporters whose acknowledgements are remembered
	MaxStreams     uint32
	MaxConnections int                              // 8192, of each listener; more are closed as they come
	StreamLife     time.Duration                    // a Flows stream is drained after once to twice this; 0: never
	Credentials    credentials.TransportCredentials // nil: no TLS
	Ledger         Ledger                           // nil: nobody asks
	Listeners      Listeners                        // nil: nobody asks
	Grants         session.Grants                   // what the owners of certificates may claim; none: everything
	Settings       Settings                         // nil: there are none
	Services       func(grpc.ServiceRegistrar)      // adds what else is answered on the same listener; nil: nothing
	Datagrams      bool                             // keys are handed out: ServeDatagrams will be called
}

// Window sizes are static: grpc-go's own growth let 60 blocked streams hold 453 MB.
const (
	streamWindow     = 128 << 10
	connectionWindow = 256 << 10
	readBuffer       = 8 << 10 // of each connection, for as long as it is open: most are idle most of the time
	maxMessageBytes  = flow.MaxPayloadBytes + 256<<10
	rowBytes         = 512 // memory of an opened row beside its payload
	pingTimeout      = 10 * time.Second
)

func (c Config) withDefaults() Config {
	if c.PendingBytes <= 0 {
		c.PendingBytes = 64 << 20
	}
	if c.CreditBytes <= 0 {
		c.CreditBytes = 8 << 20
	}
	if c.MaxExporters <= 0 {
		c.MaxExporters = 64 << 10
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 16
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 8 << 10
	}
	return c
}

// Server is the front door: gRPC, and HTTP where it is asked for.
type Server struct {
	flowv1.UnimplementedCollectorServer
	cfg       Config
	log       *slog.Logger
	book      Book
	pipeline  Pipeline
	wake      func()
	metrics   *metrics
	exporters *exporters
	tickets   tickets
	room      *semaphore.Weighted
	batches   sync.Pool
	small     sync.Pool // batches of datagrams
	openers   sync.Pool
	datagrams *datagrams.Server
	grpc      *grpc.Server
	door      *door
	epoch     epoch
	flowing   atomic.Int64  // streams of batches
	quiet     chan struct{} // closed by Quiesce: exporters are asked to go elsewhere
	shut      chan struct{} // closed by Quiesce: nothing more is taken in
	stopping  sync.Once
}

// New makes an inert server. Batches go to pipeline, claims to book; wake is called after evidence has arrived.
func New(cfg Config, book Book, pipeline Pipeline, wake func(), reg prometheus.Registerer, log *slog.Logger) (*Server, error) {
	cfg = cfg.withDefaults()
	known, err := newExporters(cfg.MaxExporters)
	if err != nil {
		return nil, fmt.Errorf("exporters: %w", err)
	}
	if _, err := flow.NewOpener(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, book: book, pipeline: pipeline, wake: wake, metrics: newMetrics(reg), exporters: known,
		tickets: tickets{open: make(map[*flow.Batch]ticket)}, room: semaphore.NewWeighted(cfg.PendingBytes),
		quiet: make(chan struct{}), shut: make(chan struct{}), epoch: epoch{name: cfg.StoreEpoch, changed: make(chan struct{})},
	}
	if s.datagrams, err = datagrams.New(s.takeDatagram, reg, log); err != nil {
		return nil, fmt.Errorf("datagrams: %w", err)
	}
	s.batches.New = func() any { return new(flow.Batch) }
	s.small.New = s.batches.New
	s.openers.New = func() any {
		o, err := flow.NewOpener()
		if err != nil {
			panic(err) // New proved that it works
		}
		return o
	}
	s.grpc = grpc.NewServer(s.options()...)
	flowv1.RegisterCollectorServer(s.grpc, s)
	if cfg.Services != nil {
		cfg.Services(s.grpc)
	}
	s.door = newDoor(s)
	return s, nil
}

func (s *Server) options() []grpc.ServerOption {
	opts := []grpc.ServerOption{
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connectionWindow),
		grpc.MaxRecvMsgSize(maxMessageBytes), grpc.MaxConcurrentStreams(s.cfg.MaxStreams),
		grpc.ReadBufferSize(readBuffer), grpc.WriteBufferSize(16 << 10), grpc.MaxHeaderListSize(16 << 10),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: pingTimeout, MaxConnectionIdle: time.Minute}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if s.cfg.Credentials != nil {
		opts = append(opts, grpc.Creds(s.cfg.Credentials))
	}
	return opts
}

// Serve answers on the listener until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(s.limit(l, "grpc")) }

// leaveMost is how long what exporters had sent before they read that they are to go elsewhere is still taken in.
const leaveMost = 2 * time.Second

// Quiesce makes the server take no more batches: exporters are asked to go elsewhere and new ones are refused. What they send before they
// have read that is taken in, until all have left or leaveMost is over; then what comes stays unread on its stream, while acknowledgements, claims
// and watermarks still flow. It returns when everything that was taken in is done, or ctx ends. Datagrams are taken until then: exporters
// that are asked to go elsewhere send no more.
func (s *Server) Quiesce(ctx context.Context) {
	s.stopping.Do(func() {
		close(s.quiet)
		leaving, cancel := context.WithTimeout(ctx, leaveMost)
		defer cancel()
		waitUntil(leaving, func() bool { return s.flowing.Load() == 0 })
		close(s.shut)
	})
	defer s.datagrams.Close()
	waitUntil(ctx, func() bool { return s.tickets.count() == 0 })
}

// waitUntil looks until it is so or ctx ends.
func waitUntil(ctx context.Context, so func() bool) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Stop ends all streams: at once new ones, and the open ones when ctx ends or they have ended by themselves.
func (s *Server) Stop(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	s.door.stop(ctx)
	s.datagrams.Close()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
}
