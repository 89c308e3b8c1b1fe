// Package metrics is the registry of a program and the small HTTP server that shows it: /metrics for Prometheus, /healthz
// (the process serves requests) and /readyz (it can do its work; else 503 and the reasons, one a line).
//
// The registry is the program's own: nothing registers itself from an init function. The server answers GET and HEAD only,
// bounds every request in time and size, and holds nothing that could be lost. It has no TLS and no authentication of
// its own; the program passes a TLS configuration for addresses other than loopback (service/tlsconf.CheckListener).
package metrics

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tributary/service/build"
	"tributary/service/listen"
)

// NewRegistry returns a registry with the Go runtime, the process and <program>_build_info{version,revision,goversion};
// program is tributary_exporter or tributary_collector.
func NewRegistry(program string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := build.Current()
	buildInfo := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        program + "_build_info",
		Help:        "1, with the build that is running in the labels.",
		ConstLabels: prometheus.Labels{"version": info.Version, "revision": info.Revision, "goversion": info.GoVersion},
	})
	buildInfo.Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo,
	)
	return registry
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Listen   string              // address; port 0 takes any free one
	Flag     string              // the flag that sets Listen, for error sentences; empty means --metrics-listen
	Registry prometheus.Gatherer // required
	Ready    func() []string     // why the program is not ready, nothing when it is; nil means always ready; called at each request
	TLS      *tls.Config         // nil means plain HTTP
	Log      *slog.Logger        // required
}

// Server serves the three pages. Start it once; Stop is safe before Start, after it and twice.
type Server struct {
	config ServerConfig
	http   *http.Server

	mu       sync.Mutex
	listener net.Listener
	stopped  bool
	done     chan struct{} // closed when the serving goroutine has ended
}

// NewServer returns a server that does nothing yet.
func NewServer(config ServerConfig) *Server {
	if config.Flag == "" {
		config.Flag = "--metrics-listen"
	}
	s := &Server{config: config, done: make(chan struct{})}
	mux := http.NewServeMux()
	// A scrape takes milliseconds; more than a few at once are a mistake or an attack.
	mux.Handle("GET /metrics", promhttp.HandlerFor(config.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	s.http = &http.Server{
		Handler:           mux,
		TLSConfig:         config.TLS,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(config.Log.With("component", "metrics").Handler(), slog.LevelDebug),
	}
	return s
}

// Start opens the listener and serves in the background. A server that was stopped does not start any more.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.listener != nil {
		return errors.New("the metrics server was started or stopped before")
	}
	listener, err := listen.TCP(ctx, s.config.Flag, s.config.Listen)
	if err != nil {
		return err
	}
	s.listener = listener
	go s.serve(listener)
	return nil
}

func (s *Server) serve(listener net.Listener) {
	defer close(s.done)
	if s.config.TLS != nil {
		listener = tls.NewListener(listener, s.config.TLS)
	}
	if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		s.config.Log.Error("metrics server ended", "component", "metrics", "error", err)
	}
}

// Addr returns the address that is served, or "" before Start.
func (s *Server) Addr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Stop closes the listener, waits for running requests until ctx ends, and cuts those that are left.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	started := s.listener != nil
	s.stopped = true
	s.mu.Unlock()
	if !started {
		return nil
	}
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("stop the metrics server: %w", errors.Join(err, s.http.Close()))
	}
	<-s.done
	return err
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	var reasons []string
	if s.config.Ready != nil {
		reasons = s.config.Ready()
	}
	if len(reasons) > 0 {
		answer(w, http.StatusServiceUnavailable, strings.Join(reasons, "\n")+"\n")
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone: nobody to tell
}
