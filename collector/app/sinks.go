package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tributary/collector/config"
	"tributary/collector/embedded"
	"tributary/collector/history"
	"tributary/collector/ledger"
	"tributary/collector/listeners"
	"tributary/collector/pairs"
	"tributary/collector/reachability"
	"tributary/collector/renames"
	"tributary/collector/rollup"
	"tributary/collector/schema"
	"tributary/collector/sink"
	"tributary/collector/sink/backlog"
	"tributary/collector/sink/clickhouse"
	"tributary/collector/sink/kafka"
)

// sinks are what the configuration asks for; each may be nil.
type sinks struct {
	clickhouse *clickhouse.Sink
	kafka      *kafka.Sink
	// the logs before those that nobody waits for; nil: the sink is required
	clickhouseLog, kafkaLog *backlog.Backlog
	schema                  schemaState
	collector               string         // the name under which this run computes edges
	life                    life           // of the embedded store
	server                  *schema.Server // that is not embedded; nil: there is none
}

func (s *sinks) all() []sink.Sink {
	var all []sink.Sink
	switch {
	case s.clickhouseLog != nil:
		all = append(all, s.clickhouseLog)
	case s.clickhouse != nil:
		all = append(all, s.clickhouse)
	}
	if bus := s.bus(); bus != nil {
		all = append(all, bus)
	}
	return all
}

// bus is what takes rows for Kafka; nil: nothing does.
func (s *sinks) bus() sink.Sink {
	switch {
	case s.kafkaLog != nil:
		return s.kafkaLog
	case s.kafka != nil:
		return s.kafka
	}
	return nil
}

// stops says that a sink did not take a batch because it stops: the batch comes again. Any other error is of one that it will never take.
func stops(err error) bool {
	return errors.Is(err, clickhouse.ErrClosed) || errors.Is(err, kafka.ErrStopped)
}

// unready returns a sentence for each required sink that does not work.
func (s *sinks) unready() []string {
	var out []string
	if s.clickhouse != nil && s.clickhouseLog == nil {
		if err := s.schema.get(); err != nil {
			out = append(out, "clickhouse: "+err.Error())
		} else if err := s.clickhouse.Ready(); err != nil {
			out = append(out, "clickhouse: "+err.Error())
		}
	}
	if s.kafka != nil && s.kafkaLog == nil {
		if err := s.kafka.Ready(); err != nil {
			out = append(out, "kafka: "+err.Error())
		}
	}
	return out
}

// optionalMost is how long a stop waits for a sink whose log keeps what it does not have.
const optionalMost = time.Second

// close flushes the sinks side by side, until ctx ends.
func (s *sinks) close(ctx context.Context, log *slog.Logger) {
	done := make(chan error, 2)
	end := func(close func(context.Context) error, kept *backlog.Backlog) {
		if kept != nil {
			short, cancel := context.WithTimeout(ctx, optionalMost)
			defer cancel()
			_ = close(short) // what it does not take is in its log
			done <- nil
			return
		}
		done <- close(ctx)
	}
	nothing := func(context.Context) error { return nil }
	closeKafka, closeClickHouse := nothing, nothing
	if s.kafka != nil {
		closeKafka = s.kafka.Close
	}
	if s.clickhouse != nil {
		closeClickHouse = s.clickhouse.Close
	}
	go end(closeKafka, s.kafkaLog)
	go end(closeClickHouse, s.clickhouseLog)
	if err := errors.Join(<-done, <-done); err != nil {
		log.Warn("a sink was not flushed", "reason", err)
	}
}

// startLogs puts a log before each sink that nobody waits for.
func (c *collector) startLogs() (err error) {
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	start := func(name, delivery string, behind sink.Sink) (*backlog.Backlog, error) {
		if delivery != config.Optional {
			return nil, nil
		}
		kept, err := backlog.New(backlog.Config{
			Name: name, Dir: filepath.Join(c.cfg.Data, "best_effort", name), Run: c.id, MaxBytes: c.cfg.BestEffort.MaxBytes, MaxAge: c.cfg.BestEffort.MaxAge,
			Refused: func(err error) bool { return !stops(err) },
		}, behind, c.registry, c.limited)
		if err == nil {
			running.Go(func() { kept.Run(ctx) })
		}
		return kept, err
	}
	c.stops = append(c.stops, func(context.Context) { // the sinks are closed
		cancel()
		running.Wait()
	})
	if c.sinks.clickhouse != nil {
		if c.sinks.clickhouseLog, err = start("clickhouse", c.cfg.BestEffort.ClickHouse, c.sinks.clickhouse); err != nil {
			return err
		}
	}
	if c.sinks.kafka != nil {
		c.sinks.kafkaLog, err = start("kafka", c.cfg.BestEffort.Kafka, c.sinks.kafka)
	}
	return err
}

// startSinks opens the store and the bus. A sink that cannot be reached does not stop the start: it keeps trying, /readyz says so, and
// exporters keep what is not acknowledged.
func (c *collector) startSinks(ctx context.Context) error {
	c.sinks.collector = randomID()
	if c.cfg.Kafka != "none" {
		tlsConfig, err := busTLS(c.cfg)
		if err != nil {
			return err
		}
		if c.sinks.kafka, err = kafka.New(c.cfg.KafkaConfig(), tlsConfig, c.registry, c.limited); err != nil {
			return err
		}
	}
	if c.cfg.ClickHouse == "none" {
		return c.startBus()
	}
	server, err := c.openStore(ctx)
	if err != nil {
		return err
	}
	if c.cfg.ClickHouse != "embedded" {
		c.sinks.server = &server
	}
	c.sinks.clickhouse, err = clickhouse.New(clickhouse.Config{
		Server: server, BlockRows: c.cfg.Store.BlockRows, BlockAge: c.cfg.Store.BlockAge,
		Compression: clickhouse.Compression(c.cfg.Store.Compression),
	}, c.registry, c.limited)
	if err != nil {
		return err
	}
	c.sinks.schema.set(errors.New("the schema is being brought up to date"))
	if err := c.startBus(); err != nil {
		return err
	}
	c.startStore(server)
	return nil
}

func (c *collector) startBus() error {
	if c.sinks.kafka != nil {
		c.sinks.kafka.Start(context.Background())
	}
	return c.startLogs()
}

// openStore returns the configured server, starting the embedded one where that is asked for.
func (c *collector) openStore(ctx context.Context) (schema.Server, error) {
	if c.cfg.ClickHouse != "embedded" {
		return RemoteServer(c.cfg)
	}
	if err := os.MkdirAll(c.cfg.Data, 0o750); err != nil {
		return schema.Server{}, fmt.Errorf("data directory: %w; choose another with --data", err)
	}
	var err error
	if c.sinks.life, err = beginLife(c.cfg.Data); err != nil {
		c.log.Warn("whether the store was stopped in order will not be known", "reason", err)
	}
	store, err := embedded.New(embedded.Config{
		DataDir: c.cfg.Data, Listen: c.cfg.Store.EmbeddedListen, LibraryPath: libraryPath(c.cfg), MemoryBytes: c.cfg.Store.EmbeddedMemory,
		Life: c.sinks.life.name, Logger: c.log, Registerer: c.registry,
	})
	if err != nil {
		return schema.Server{}, err
	}
	if err := store.Start(ctx); err != nil {
		return schema.Server{}, err
	}
	c.stops = append(c.stops, func(context.Context) {
		store.Stop()
		c.sinks.life.end()
	})
	credential := store.Credential()
	return schema.Server{URL: store.URL(), Database: schema.DefaultDatabase, User: credential.User, Password: credential.Password}, nil
}

// libraryPath looks for the engine beside the program where nothing is configured.
func libraryPath(cfg *config.Config) string {
	if cfg.Store.EmbeddedLibrary != "" {
		return cfg.Store.EmbeddedLibrary
	}
	program, err := os.Executable()
	if err != nil {
		return "libchdb.so"
	}
	return filepath.Join(filepath.Dir(program), "libchdb.so")
}

// RemoteServer returns the ClickHouse server that the configuration names.
func RemoteServer(cfg *config.Config) (schema.Server, error) {
	server, err := schema.ParseServer(cfg.ClickHouse)
	if err != nil {
		return server, fmt.Errorf("clickhouse: %w", err)
	}
	if cfg.Store.CA != "" {
		if server.TLS, err = tlsWithCA(cfg.Store.CA); err != nil {
			return server, fmt.Errorf("clickhouse_ca: %w", err)
		}
	}
	return server, nil
}

func busTLS(cfg *config.Config) (*tls.Config, error) {
	if !cfg.Bus.TLS {
		return nil, nil
	}
	if cfg.Bus.CA == "" {
		return &tls.Config{MinVersion: tls.VersionTLS12}, nil
	}
	conf, err := tlsWithCA(cfg.Bus.CA)
	if err != nil {
		return nil, fmt.Errorf("kafka_ca: %w", err)
	}
	return conf, nil
}

func tlsWithCA(path string) (*tls.Config, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate in PEM", path)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// startStore starts the sink, and what else reads and writes the store, when the schema is there.
func (c *collector) startStore(server schema.Server) {
	c.ledger = ledger.New(ledger.Config{}, server, c.registry, c.limited)
	c.listeners = listeners.New(listeners.Config{}, server, c.registry, c.limited)
	judge := c.newJudge(server)
	c.history = history.NewWriter(c.id, server, c.registry, c.limited)
	edges := rollup.New(rollup.Config{Collector: c.sinks.collector, RawTTL: c.cfg.Store.RawTTL}, server, c.registry, c.limited)
	known := pairs.Config{Tolerance: c.cfg.Hold.Tolerance}
	var teller *renames.Teller
	if bus := c.sinks.bus(); bus != nil {
		teller = renames.New(renames.Config{Dropped: func(err error) bool { return errors.Is(err, kafka.ErrDropped) }}, server, bus, c.registry, c.limited)
		known.Renamed = teller.Wake
	}
	peers := pairs.New(known, server, c.registry, c.limited)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if c.migrateAndInsert(ctx, server) {
			var all sync.WaitGroup
			all.Go(func() { c.ledger.Run(ctx) })
			all.Go(func() { c.listeners.Run(ctx) })
			all.Go(func() { c.history.Run(ctx) })
			all.Go(func() { peers.Run(ctx) })
			if teller != nil {
				all.Go(func() { teller.Run(ctx) })
			}
			all.Go(func() { edges.Run(ctx) })
			if judge != nil {
				all.Go(func() { judge.Run(ctx) })
			}
			all.Wait()
		}
	}()
	c.stops = append(c.stops, func(context.Context) {
		cancel()
		<-ended
	})
}

// newJudge returns what watches the paths, nil where nothing is to.
func (c *collector) newJudge(server schema.Server) *reachability.Judge {
	r := c.cfg.Reachability
	if r.Every == 0 {
		return nil
	}
	return reachability.New(reachability.Config{
		Collector: c.sinks.collector, Every: r.Every, OpenAfter: r.OpenAfter, CloseAfter: r.CloseAfter,
		Alerts: reachability.AlertConfig{Alertmanagers: r.Alertmanagers(), Webhook: r.Webhook, Runbook: r.Runbook, Every: r.RepeatEvery, GroupWait: r.GroupWait},
	}, server, c.registry, c.log)
}

// migrateAndInsert tries until the schema is there, then starts the sink; false if that cannot be. A database that is newer than this program stays an error for
// /readyz: nothing that could harm it is sent.
func (c *collector) migrateAndInsert(ctx context.Context, server schema.Server) bool {
	options := schema.Options{RawTTL: c.cfg.Store.RawTTL}
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := schema.Migrate(ctx, server, options, c.log)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		c.sinks.schema.set(err)
		c.limited.Error("schema not ready; trying again", "reason", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
	if err := c.sinks.clickhouse.Start(context.WithoutCancel(ctx)); err != nil {
		c.sinks.schema.set(err)
		return false
	}
	c.sinks.schema.set(nil)
	c.log.Info("storing flows", "clickhouse", server.URL, "database", server.Database)
	return true
}
