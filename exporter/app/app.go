package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/batch"
	"tributary/exporter/budget"
	"tributary/exporter/clock"
	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/filter"
	"tributary/exporter/listeners"
	"tributary/exporter/probe"
	"tributary/exporter/ring"
	"tributary/exporter/rollup"
	"tributary/exporter/transport"
	"tributary/service/build"
	"tributary/service/log"
	"tributary/service/metrics"
	"tributary/service/spool"
	"tributary/service/tlsconf"
)

const (
	program   = "tributary_exporter"
	walkEvery = time.Second
	keepAcked = time.Minute // what a store may forget when it is not ended in order
)

// App is one exporter. New builds it, Run runs it once.
type App struct {
	config    config.Config
	log       *slog.Logger
	host      host
	clock     *clock.Clock
	names     *names
	local     namer
	claims    transport.Claims
	replay    bool
	reduces   bool // gives up privileges once capture is attached; for good, so not inside another program
	pipeline  *pipeline
	spool     *spool.Spool
	listeners *listeners.Set // nil in a replay
	transport *transport.Transport
	source    *source
	books     *books
	budget    *budget.Governor // nil in a replay
	metrics   *metrics.Server

	eased    atomic.Uint32 // the budget.Step in force
	applying sync.Mutex
	applied  config.Capture

	drainMost time.Duration // the wait for the ring before settings change
}

// New builds an exporter that does nothing yet. It reads the files that the configuration names, so an error is one a user can
// mend before the start; --check does no more than this.
func New(c config.Config, logger *slog.Logger) (*App, error) {
	a := &App{config: c, log: logger.With(log.Component, "app"), applied: c.Capture, drainMost: drainMost}
	registry := metrics.NewRegistry(program)
	var err error
	if a.host, err = readHost(); err != nil {
		return nil, err
	}
	options, err := probeOptions(c)
	if err != nil {
		return nil, err
	}
	a.clock, err = clock.New(clock.Options{Step: func(by time.Duration) {
		a.log.Warn("the wall clock was set: records before and after differ", "by", by)
	}})
	if err != nil {
		return nil, err
	}
	if a.source, err = newSource(c, options, a.log); err != nil {
		return nil, err
	}
	if a.names, err = newNames(c, a.host, registry, logger); err != nil {
		return nil, err
	}
	a.local, a.claims = a.names.local, a.names
	if err := a.buildListeners(registry, logger); err != nil {
		return nil, err
	}
	if err := a.buildBudget(registry); err != nil {
		return nil, err
	}
	if err := a.buildDelivery(registry, logger); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *App) buildListeners(registry *prometheus.Registry, logger *slog.Logger) (err error) {
	comms := comms{}
	a.listeners, err = listeners.New(listeners.Config{
		Read: func() ([]probe.Listener, error) { return a.source.get().Listeners() }, Moved: func() (uint64, error) { return a.source.get().ListensMoved() },
		Overflows: probe.ReadOverflows, Wall: a.clock.Wall,
		Name: func(l *probe.Listener) listeners.Name {
			return a.names.listener(l, comms.of(&event.Event{Comm: l.Comm}), time.Now().UnixNano())
		},
	}, registry, logger)
	return err
}

// buildDelivery builds what comes behind the names: batches, the spool, the transport, and the books of all.
func (a *App) buildDelivery(registry *prometheus.Registry, logger *slog.Logger) error {
	c := a.config
	certificates := tlsconf.NewMetrics(registry, program)
	to, err := waysOf(c, tlsconf.Options{Use: "collector", Log: logger, Metrics: certificates})
	if err != nil {
		return err
	}
	roller, err := rollup.New()
	if err != nil {
		return err
	}
	kept := spoolConfig(c.Spool, a.host)
	kept.Shrink, kept.Unsealed = roller.Roll, c.BatchAge+ring.Poll
	if a.spool, err = spool.New(kept, registry, logger); err != nil {
		return err
	}
	books := &books{source: a.source.get, spool: a.spool.Stats, nat: a.names.translations, budget: a.budget.Stats, entries: entries()}
	a.books = books
	to.Spool, to.Claims, to.Counters, to.Settings = a.spool, a.claims, books.counters, newSettings(a).apply
	to.ExporterID, to.Host, to.BootID, to.Version = a.host.exporterID, a.host.name, a.host.bootID, build.Current().Version
	if a.listeners != nil {
		to.Listeners = a.listeners.Subscribe
	}
	if a.transport, err = transport.New(to, registry, logger); err != nil {
		return err
	}
	books.datagrams = a.transport.Datagrams
	batcher, err := batch.New(batch.Config{
		ExporterID: a.host.exporterID, Host: a.host.name, BootID: a.host.bootID, Rows: c.BatchRows,
		Compress: c.Compression == config.CompressionZstd, Replay: a.replay, Counters: books.counters, Most: a.transport.BatchMost, Emit: a.transport.Add,
	}, registry)
	if err != nil {
		return err
	}
	judge, err := filter.New(a.captureSettings().Filter())
	if err != nil {
		return err
	}
	a.pipeline = newPipeline(batcher, a.clock, a.local, judge, c.BatchAge, sweepAfter(c.Capture.ActiveEvery, walkEvery))
	books.p = a.pipeline
	if err := registry.Register(books); err != nil {
		return fmt.Errorf("register the books: %w", err)
	}
	server := metrics.ServerConfig{Listen: c.MetricsListen, Registry: registry, Ready: a.unready, Log: logger}
	if c.MetricsTLS() {
		files, err := tlsconf.NewServer(tlsconf.ServerFiles{Cert: c.TLS.Cert, Key: c.TLS.Key},
			tlsconf.Options{Use: "metrics", Log: logger, Metrics: certificates})
		if err != nil {
			return err
		}
		server.TLS = files.Config()
	}
	a.metrics = metrics.NewServer(server)
	return nil
}

func spoolConfig(c config.Spool, h host) spool.Config {
	s := spool.Default()
	s.MaxBytes, s.MaxAge, s.MemoryBytes = c.MaxBytes, c.MaxAge, c.MemoryBytes
	s.KeepAcked = keepAcked
	s.Run, s.Host, s.BootID = h.exporterID, h.name, h.bootID
	if c.Dir != "" {
		s.FS = spool.Dir(c.Dir)
	}
	return s
}

// unready says why the exporter is not ready: it must be attached, and must have met a collector once.
func (a *App) unready() []string {
	var reasons []string
	if !a.source.running.Load() {
		reasons = append(reasons, "the probe is not attached")
	}
	if _, ever := a.transport.Connected(); !ever {
		reasons = append(reasons, "no collector has answered at "+a.config.Collector+" yet")
	}
	return reasons
}

// Run captures until ctx ends and then delivers what it has. An error says why the exporter could not start or go on.
func (a *App) Run(ctx context.Context) error {
	if err := a.metrics.Start(ctx); err != nil {
		return err
	}
	defer a.stopMetrics()
	defer a.keep(ctx)() // the spool outlives all that fills and empties it
	// The rooms outlive ctx: they are stopped one by one, in reverse.
	lasting, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var rooms sync.WaitGroup
	defer rooms.Wait()
	defer end(nil)
	background := func(room string, run func(context.Context) error) {
		rooms.Go(func() {
			if err := run(lasting); err != nil && lasting.Err() == nil {
				end(fmt.Errorf("%s: %w", room, err))
			}
		})
	}
	background("clock", a.clock.Run)
	background("names", a.names.run)
	background("transport", a.transport.Run)

	a.spool.Sealed(time.Duration(clock.Boot())) // of what is recorded from now on nothing is sealed yet
	if err := a.source.start(); err != nil {
		return err
	}
	defer a.closeSource()
	a.books.began.Store(time.Now().UnixNano())
	if missing := a.source.get().Missing(); missing != nil {
		a.log.Warn("not all of capture is possible here", "error", missing)
	}
	background("listeners", a.listeners.Run)
	if missing := a.names.missing(); missing != nil {
		a.log.Warn("addresses are as sockets have them", "error", missing)
	}
	background("socket", a.serveSocket)
	background("budget", onBeat(a.budget.Run))
	if a.reduces {
		a.reduce()
	}
	err := a.capture(ctx, lasting)
	a.deliver()
	return err
}

// onBeat begins a room with the next of the seconds at which the process wakes anyway, so that its ticks fall on them.
func onBeat(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(clock.Beat(time.Second)):
			return run(ctx)
		}
	}
}

// keep runs the spool until the function it returns is called, which waits for what has to be written.
func (a *App) keep(ctx context.Context) (end func()) {
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var room sync.WaitGroup
	room.Go(func() { a.spool.Run(keeping) })
	return func() {
		cancel()
		room.Wait()
	}
}

// capture hands records to the pipeline until ctx or the lasting rooms end, then those of what is left.
func (a *App) capture(ctx, lasting context.Context) error {
	capturing, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(lasting, stop)()
	a.log.Info("capturing", "exporter_id", a.host.exporterID, "scope", a.config.Scope, "mode", a.source.mode(), "collector", a.config.Collector,
		"tls", a.config.Encrypted(), "metrics", a.metrics.Addr())
	a.pipeline.begin(a.source.get().Drain, a.spool.Sealed)
	err := a.source.run(capturing, a.pipeline.record, a.pipeline.swept)
	return errors.Join(context.Cause(lasting), err)
}

// deliver seals what is left and waits until it is acknowledged, at most for the shutdown timeout, and not at all where the next
// start will send it anyway.
func (a *App) deliver() {
	a.pipeline.stop()
	if connected, _ := a.transport.Connected(); !connected && a.spool.Stats().InMemory.Batches == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), a.config.ShutdownTimeout)
	defer cancel()
	a.transport.Settle(ctx)
	if err := a.spool.Flush(ctx); err != nil {
		return // the spool says what is left and what is lost when it ends
	}
	a.log.Info("stopped: the collector has everything that was kept", "rows", a.spool.Stats().Acked.Rows)
}

func (a *App) closeSource() {
	if err := a.source.get().Close(); err != nil {
		a.log.Error("end capture", "error", err)
	}
}

func (a *App) stopMetrics() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := a.metrics.Stop(ctx); err != nil {
		a.log.Warn("stop the metrics server", "error", err)
	}
}
