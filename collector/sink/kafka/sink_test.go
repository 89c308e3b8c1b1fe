package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestCloseEarlyLateAndTwice(t *testing.T) {
	cfg := testConfig(t, "127.0.0.1:1")
	ctx := context.Background()
	s, reg := newSink(t, cfg)
	var d dones
	s.Write(makeBatch(t, "x", 1, 5), d.done)
	for range 2 {
		if err := s.Close(ctx); err != nil {
			t.Errorf("Close before Start: %v", err)
		}
	}
	s.Start(ctx)
	ended := make(chan error, 1)
	s.Write(makeBatch(t, "x", 2, 5), func(err error) { ended <- err })
	if err := <-ended; !errors.Is(err, ErrStopped) {
		t.Errorf("done after Close: %v", err)
	}
	if len(d.errs) != 1 || !errors.Is(d.errs[0], ErrStopped) {
		t.Errorf("done of what was pending: %v", d.errs)
	}
	checkBooks(t, reg, map[string]float64{"rows_in_total": 10, "rows_dropped_total{stopped}": 10, "unready": 1})
}

func TestWriteBlocksAtItsBoundAndLeavesNothingBehind(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cfg := testConfig(t, "127.0.0.1:1")
	cfg.QueueBytes = 1 << 20
	ctx, cancel := context.WithCancel(context.Background())
	s, _ := newSink(t, cfg)
	s.Start(ctx)
	var d dones
	written := make(chan int)
	go func() {
		defer close(written)
		for i := range 100 {
			s.Write(makeBatch(t, "x", uint64(i+1), 1000), d.done)
			written <- i
		}
	}()
	n := 0
	for idle := false; !idle; {
		select {
		case <-written:
			n++
		case <-time.After(500 * time.Millisecond):
			idle = n > 0
		}
	}
	if n == 0 || n == 100 || s.Pending() > int64(cfg.QueueBytes) {
		t.Errorf("%d of 100 batches went in, %d bytes pending, bound %d", n, s.Pending(), cfg.QueueBytes)
	}
	cancel()
	for range written { // what waited comes back
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"brokers: at least one":     func(c *Config) { c.Brokers = nil },
		`"kafka" is not host:port`:  func(c *Config) { c.Brokers = []string{"kafka"} },
		"not a topic name":          func(c *Config) { c.Topic = "a b" },
		"neither protobuf nor json": func(c *Config) { c.Format = "avro" },
		"none of none, gzip":        func(c *Config) { c.Compression = "brotli" },
		"kafka_partitions: 0":       func(c *Config) { c.Partitions = 0 },
		"kafka_replicas: 0":         func(c *Config) { c.Replicas = 0 },
		"nothing could be written":  func(c *Config) { c.Replicas, c.MinInsync = 2, 3 },
		"less than a minute":        func(c *Config) { c.Retention = time.Second },
		"max_message_bytes: 10":     func(c *Config) { c.MaxMessageBytes = 10 },
		"batch_bytes":               func(c *Config) { c.BatchBytes = 1 << 30 },
		"batch_timeout":             func(c *Config) { c.BatchTimeout = time.Minute },
		"queue_bytes":               func(c *Config) { c.QueueBytes = 1 },
		"write_timeout":             func(c *Config) { c.WriteTimeout = 1 },
		"but no mechanism":          func(c *Config) { c.SASL.Password = "hidden" },
		`mechanism "gssapi"`:        func(c *Config) { c.SASL.Mechanism = "gssapi" },
		"needs a username":          func(c *Config) { c.SASL.Mechanism = "scram-sha-256" },
	} {
		cfg := testConfig(t, "127.0.0.1:1")
		change(&cfg)
		_, err := New(cfg, nil, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(io.Discard, nil)))
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("error %v, want %q", err, name)
		}
	}
}

func TestNewTakesEverySecurity(t *testing.T) {
	for _, mechanism := range []string{"", "none", "plain", "scram-sha-256", "scram-sha-512"} {
		cfg := testConfig(t, "127.0.0.1:1")
		cfg.SASL.Mechanism = mechanism
		if mechanism != "" && mechanism != "none" {
			cfg.SASL.Username, cfg.SASL.Password = "collector", "pass"
		}
		if _, err := New(cfg, &tls.Config{MinVersion: tls.VersionTLS12}, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
			t.Errorf("%q: %v", mechanism, err)
		}
	}
}
