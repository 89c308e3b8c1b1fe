package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/attribute"
	"tributary/collector/config"
	"tributary/collector/history"
	"tributary/collector/hold"
	"tributary/collector/ingest"
	"tributary/collector/ledger"
	"tributary/collector/listeners"
	"tributary/collector/ownership"
	"tributary/collector/ownership/feed"
	"tributary/collector/ownership/session"
	"tributary/collector/region"
	"tributary/collector/schema"
	"tributary/collector/settings"
	"tributary/collector/sink"
	"tributary/proto/flow"
	"tributary/service/listen"
	"tributary/service/log"
	"tributary/service/metrics"
	"tributary/service/tlsconf"
)

// lastWords is how long the last acknowledgements have to get out.
const lastWords = 300 * time.Millisecond

// aloneAfter is when a collector whose Kafka nobody waits for is ready although it cannot hear the other nodes.
const aloneAfter = 3 * time.Second

// quietAfterStart is how long after the start nothing is called no_evidence: the exporters are still connecting.
const quietAfterStart = 10 * time.Second

// collector is a running collector.
type collector struct {
	cfg      *config.Config
	log      *slog.Logger
	limited  *slog.Logger // for what can repeat as fast as input arrives
	registry *prometheus.Registry
	failed   chan error // a part that ended by itself

	id         string          // of this run
	tls        *tlsconf.Server // nil without TLS, like its metrics
	tlsMetrics *tlsconf.Metrics
	table      *ownership.Table
	book       *session.Book
	feed       *feed.Feed // nil without Kafka
	feeding    bool       // it has been started
	sinks      sinks
	ledger     *ledger.Ledger // nil without ClickHouse, like listeners and history
	listeners  *listeners.Store
	history    *history.Writer
	hold       *hold.Hold
	attributor *attribute.Attributor
	regions    *region.Resolver // nil without other regions
	settings   *settings.Settings
	ingest     *ingest.Server
	began      time.Time
	started    atomic.Bool             // all of the above is there
	stops      []func(context.Context) // in the order of starting; run in reverse
}

// Serve runs a collector until ctx ends or a part of it fails for good.
func Serve(ctx context.Context, cfg *config.Config, logger *slog.Logger) error {
	c := &collector{
		cfg: cfg, id: randomID(), log: logger, limited: log.Limited(logger, 10*time.Second),
		registry: metrics.NewRegistry("tributary_collector"), failed: make(chan error, 8), began: time.Now(),
	}
	defer c.stop()
	if err := c.start(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		logger.Info("stopping")
		return nil
	case err := <-c.failed:
		return err
	}
}

// start builds and starts everything. Whatever it started before an error is stopped by stop.
func (c *collector) start(ctx context.Context) error {
	if err := c.prepareTLS(); err != nil {
		return err
	}
	// Listeners first: a port in use must be said before anything is touched.
	grpcListener, err := listen.TCP(ctx, "--listen", c.cfg.Listen)
	if err != nil {
		return err
	}
	c.stops = append(c.stops, func(context.Context) { _ = grpcListener.Close() })
	var httpsListener net.Listener
	if c.cfg.HTTPSListen != "" {
		if httpsListener, err = listen.TCP(ctx, "--https-listen", c.cfg.HTTPSListen); err != nil {
			return err
		}
		c.stops = append(c.stops, func(context.Context) { _ = httpsListener.Close() })
	}
	datagrams, err := c.openDatagrams(ctx)
	if err != nil {
		return err
	}
	if err := c.startMetrics(ctx); err != nil {
		return err
	}
	if err := c.startSinks(ctx); err != nil {
		return err
	}
	if err := c.openOwnership(time.Now()); err != nil {
		return err
	}
	if err := c.startPipeline(); err != nil {
		return err
	}
	c.started.Store(true)
	assignments, err := c.startAssignments()
	if err != nil {
		return err
	}
	if err := c.startAPI(ctx, assignments); err != nil {
		return err
	}
	c.serve(grpcListener, httpsListener, datagrams)
	c.log.Info("ready for exporters", "listen", grpcListener.Addr().String(), "https_listen", c.cfg.HTTPSListen, "udp_listen", c.cfg.UDPListen, "tls", c.tls != nil)
	return nil
}

// datagramBuffer is what the kernel may keep of datagrams of a socket that are not read yet, where net.core.rmem_max allows it.
const datagramBuffer = 8 << 20

// openDatagrams opens a UDP socket for each processor, none where datagrams are not asked for.
func (c *collector) openDatagrams(ctx context.Context) ([]*net.UDPConn, error) {
	if c.cfg.UDPListen == "" {
		return nil, nil
	}
	conns, err := listen.UDP(ctx, "--udp-listen", c.cfg.UDPListen, runtime.GOMAXPROCS(0))
	if err != nil {
		return nil, err
	}
	for _, conn := range conns {
		if err := conn.SetReadBuffer(datagramBuffer); err != nil {
			c.log.Warn("the receive buffer for datagrams is as it was", "reason", err)
		}
		c.stops = append(c.stops, func(context.Context) { _ = conn.Close() })
	}
	return conns, nil
}

func (c *collector) prepareTLS() (err error) {
	if c.cfg.TLSCert == "" {
		return nil
	}
	c.tlsMetrics = tlsconf.NewMetrics(c.registry, "tributary_collector")
	c.tls, err = tlsconf.NewServer(
		tlsconf.ServerFiles{Cert: c.cfg.TLSCert, Key: c.cfg.TLSKey, ClientCA: c.cfg.TLSClientCA},
		tlsconf.Options{Use: "ingest", Log: c.log, Metrics: c.tlsMetrics})
	return err
}

func (c *collector) startMetrics(ctx context.Context) error {
	if c.cfg.MetricsListen == "" {
		return nil
	}
	conf := metrics.ServerConfig{
		Listen: c.cfg.MetricsListen, Flag: "--metrics-listen", Registry: c.registry, Ready: c.ready, Log: c.log,
	}
	if c.tls != nil && tlsconf.CheckListener("", c.cfg.MetricsListen, false, false) != nil {
		conf.TLS = c.tls.Config()
	}
	s := metrics.NewServer(conf)
	if err := s.Start(ctx); err != nil {
		return err
	}
	c.stops = append(c.stops, func(ctx context.Context) { _ = s.Stop(ctx) })
	return nil
}

// ready returns what stands in the way of storing flows.
func (c *collector) ready() []string {
	if !c.started.Load() {
		return []string{"the collector is still starting"}
	}
	out := c.sinks.unready()
	if c.feed != nil {
		alone := c.sinks.kafkaLog != nil && time.Since(c.began) > aloneAfter
		if err := c.feed.Ready(); err != nil && (!alone || errors.Is(err, feed.ErrReplaying)) {
			out = append(out, "ownership: "+err.Error())
		}
	}
	return out
}

// startPipeline builds attribution, hold and front door and starts the hold.
func (c *collector) startPipeline() error {
	regions, err := c.openRegions()
	if err != nil {
		return err
	}
	c.attributor, err = attribute.New(attribute.Config{Tolerance: c.cfg.Hold.Tolerance, Refused: c.book.Refused, Regions: regions}, c.table, c.registry)
	if err != nil {
		return err
	}
	fan := sink.NewFanout(c.sinks.all()...)
	emit := func(b *flow.Batch) { fan.Write(b, func(err error) { c.done(b, err) }) }
	c.hold, err = hold.New(hold.Config{MaxWait: c.cfg.Hold.Wait, MaxBytes: int(c.cfg.Hold.Bytes)}, c.table, c.attributor, emit, c.registry)
	if err != nil {
		return err
	}
	front := ingest.Config{
		CollectorID: c.id, StoreEpoch: c.sinks.life.name, PendingBytes: c.cfg.PendingBytes, CreditBytes: c.cfg.CreditBytes, MaxConnections: c.cfg.MaxConnections, StreamLife: c.cfg.StreamLife,
		Grants: c.cfg.ClaimsAllowed, Datagrams: c.cfg.UDPListen != "",
	}
	if c.ledger != nil {
		front.Ledger, front.Listeners = c.ledger, c.listeners
	}
	if c.settings, err = settings.Open(c.cfg.Data, c.log.With(log.Component, "settings")); err != nil {
		return err
	}
	front.Settings = c.settings
	if c.tls != nil {
		front.Credentials = c.tls.GRPC()
	}
	if front.Services, err = c.answerRegions(); err != nil {
		return err
	}
	door, err := ingest.New(front, c.book, c.hold, c.hold.Wake, c.registry, c.limited.With(log.Component, "ingest"))
	if err != nil {
		return err
	}
	c.ingest = door
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.hold.Run(running)
	}()
	go c.expire(running)
	if c.feed != nil {
		c.feed.Start(c.book, c.hold.Wake)
		c.feeding = true
	}
	if c.sinks.server != nil {
		go watchLife(running, schema.NewClient(*c.sinks.server, 1), lifeEvery, door.NewEpoch)
	}
	c.stops = append(c.stops, func(ctx context.Context) {
		c.drain(ctx)
		cancel()
		<-ended
	})
	return nil
}

// drain empties the pipeline: first by itself, evidence still arriving, then by giving up on evidence, then by closing the sinks. The
// streams live until the acknowledgements are out.
func (c *collector) drain(ctx context.Context) {
	natural, cancel := context.WithTimeout(ctx, c.cfg.StopTimeout/2)
	c.ingest.Quiesce(natural)
	cancel()
	if err := c.hold.Drain(ctx); err != nil {
		c.log.Warn("waiting batches were not all written; their exporters send them again", "reason", err)
	}
	c.sinks.close(ctx, c.log)
	if c.ledger != nil { // the acknowledgements of what was drained wait for it
		written, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
		c.ledger.Flush(written)
		cancel()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	c.ingest.Stop(last)
}

// done acknowledges a batch that all sinks have, and refuses one that a sink will never take. Without either its exporter sends it again.
func (c *collector) done(b *flow.Batch, err error) {
	switch {
	case err == nil && c.ledger != nil && c.sinks.clickhouseLog == nil:
		exporter, sealed := b.ExporterID, b.SealedTimeNs // it is used again
		c.ledger.After(exporter, sealed, c.ingest.Stored(b))
	case err == nil:
		c.ingest.Done(b)
	case stops(err):
		c.limited.Warn("batch not stored", "exporter_id", b.ExporterID, "batch_seq", b.Seq, "reason", err)
	default:
		c.ingest.Refuse(b, err.Error())
	}
}

// expire lets the ownership table forget what is past its retention, a little at a time.
func (c *collector) expire(ctx context.Context) {
	const budget = 10_000 // addresses looked at a second
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.table.Expire(now.UnixNano(), budget)
		}
	}
}

// serve opens the front door; drain closes it.
func (c *collector) serve(grpc, https net.Listener, datagrams []*net.UDPConn) {
	go func() {
		if err := c.ingest.ServeDatagrams(datagrams...); err != nil {
			c.failed <- fmt.Errorf("UDP ingest: %w", err)
		}
	}()
	go func() {
		if err := c.ingest.Serve(grpc); err != nil {
			c.failed <- fmt.Errorf("gRPC ingest: %w", err)
		}
	}()
	if https == nil {
		return
	}
	var config *tls.Config
	if c.tls != nil {
		config = c.tls.Config()
	}
	go func() {
		if err := c.ingest.ServeHTTP(https, config); err != nil {
			c.failed <- fmt.Errorf("HTTPS ingest: %w", err)
		}
	}()
}

// stop ends everything in reverse order.
func (c *collector) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout)
	defer cancel()
	for i := len(c.stops) - 1; i >= 0; i-- {
		c.stops[i](ctx)
	}
	c.stops = nil
}

func randomID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	host, err := os.Hostname()
	if err != nil {
		host = "collector"
	}
	return host + "-" + hex.EncodeToString(b[:])
}
