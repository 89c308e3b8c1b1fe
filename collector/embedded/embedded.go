package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Pauses before the child is started again: doubled from the first to the last, and back to the first once a run lasted.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
	longRun    = 30 * time.Second
)

// Store is the embedded engine as the collector sees it.
type Store struct {
	cfg        Config
	credential Credential
	restarts   prometheus.Counter
	up         prometheus.Gauge

	mu       sync.Mutex
	stop     context.CancelFunc // nil before Start and after Stop
	finished chan struct{}      // closed when the supervisor has ended

	lock     *os.File
	listener *os.File
	lifeline *os.File // read end, inherited by every child
	alive    *os.File // write end: held, never written
	address  string
}

// New checks the configuration's form; it starts nothing and touches no file.
func New(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	if cfg.DataDir == "" {
		return nil, errors.New("embedded store: no data directory")
	}
	var err error
	if cfg.DataDir, err = filepath.Abs(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	if cfg.LibraryPath, err = filepath.Abs(cfg.LibraryPath); err != nil {
		return nil, fmt.Errorf("embedded store: %w", err)
	}
	address, err := netip.ParseAddrPort(cfg.Listen)
	if err != nil || !address.Addr().IsLoopback() {
		return nil, fmt.Errorf("embedded store: %q is no loopback address with a port, and the embedded store listens on nothing else", cfg.Listen)
	}
	if len(cfg.Command) == 0 {
		program, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("embedded store: find this program: %w", err)
		}
		cfg.Command = []string{program, "embedded-child"}
	}
	s := &Store{cfg: cfg}
	s.restarts = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tributary_collector_embedded_restarts_total",
		Help: "Times the embedded ClickHouse engine's process ended by itself and was started again.",
	})
	s.up = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "tributary_collector_embedded_up", Help: "1 while the embedded ClickHouse engine's process runs.",
	})
	if cfg.Registerer != nil {
		for _, metric := range []prometheus.Collector{s.restarts, s.up} {
			if err := cfg.Registerer.Register(metric); err != nil {
				return nil, fmt.Errorf("embedded store: %w", err)
			}
		}
	}
	return s, nil
}

// URL of the HTTP interface, without credentials. Valid after Start.
func (s *Store) URL() string { return "http://" + s.address }

// Credential of the writers. Valid after Start.
func (s *Store) Credential() Credential { return s.credential }

// Start takes the data directory and the port, starts the child and returns when it answers queries, or says in one sentence why not.
// The child then lives until Stop; ctx bounds only the start.
func (s *Store) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		return errors.New("embedded store: started twice")
	}
	if err := s.takeResources(); err != nil {
		s.releaseResources()
		return err
	}
	first, err := startProcess(s.cfg, s.lifeline, s.listener)
	if err != nil {
		s.releaseResources()
		return err
	}
	supervised, stop := context.WithCancel(context.Background())
	s.stop, s.finished = stop, make(chan struct{})
	ended := make(chan string, 1)
	go s.supervise(supervised, first, ended)
	if err := s.awaitReady(ctx, ended); err != nil {
		s.end()
		return err
	}
	return nil
}

// Stop ends the child and waits for it. It may be called at any time, more than once.
func (s *Store) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end()
}

func (s *Store) end() {
	if s.stop == nil {
		return
	}
	s.stop()
	<-s.finished
	s.stop = nil
	s.releaseResources()
}

// dyingMost is how long the child of a parent that was killed may take to be gone; it has the socket for as long.
const dyingMost = 2 * time.Second

// listen waits for such a child to go.
func listen(address string) (net.Listener, error) {
	for end := time.Now().Add(dyingMost); ; time.Sleep(20 * time.Millisecond) {
		l, err := net.Listen("tcp", address)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			return l, err
		}
	}
}

// takeResources checks and opens everything that can be wrong from outside, so that each gets its own sentence.
func (s *Store) takeResources() (err error) {
	if _, err := os.Stat(s.cfg.LibraryPath); err != nil {
		return fmt.Errorf("the ClickHouse engine is missing at %s: run make engine, or give a server with --clickhouse URL", s.cfg.LibraryPath)
	}
	if err := os.MkdirAll(filepath.Join(s.cfg.DataDir, "clickhouse"), 0o700); err != nil {
		return fmt.Errorf("the data directory cannot be used: %w", err)
	}
	if s.lock, err = lockDirectory(s.cfg.DataDir); err != nil {
		return err
	}
	if s.credential, err = EnsureCredential(s.cfg.DataDir); err != nil {
		return err
	}
	listener, err := listen(s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("the embedded store cannot listen on %s (is another collector or ClickHouse running?): %w", s.cfg.Listen, err)
	}
	defer listener.Close() // the duplicate below stays
	s.address = listener.Addr().String()
	if s.listener, err = listener.(*net.TCPListener).File(); err != nil {
		return fmt.Errorf("embedded store: %w", err)
	}
	if s.lifeline, s.alive, err = os.Pipe(); err != nil {
		return fmt.Errorf("embedded store: %w", err)
	}
	return nil
}

func (s *Store) releaseResources() {
	for _, f := range []**os.File{&s.listener, &s.lifeline, &s.alive, &s.lock} {
		if *f != nil {
			_ = (*f).Close()
			*f = nil
		}
	}
}

// lockDirectory makes sure that one collector alone uses the directory. The kernel frees the lock with the process.
func lockDirectory(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "embedded.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory cannot be written: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("another collector uses the data directory %s: stop it, or give this one another --data", dir)
	}
	return lock, nil
}

// supervise keeps a child running until ctx ends. It reports in ended why the first one ended.
func (s *Store) supervise(ctx context.Context, p *process, ended chan<- string) {
	defer close(s.finished)
	pause := firstPause
	for {
		started := time.Now()
		if p != nil {
			s.up.Set(1)
			select {
			case <-ctx.Done():
				p.stop(s.cfg.StopTimeout)
				s.up.Set(0)
				return
			case <-p.exited:
			}
			s.up.Set(0)
			s.restarts.Inc()
			select {
			case ended <- p.why():
			default:
			}
			s.cfg.Logger.Error("engine's process ended, starting it again", "why", p.why(), "ran", time.Since(started).Round(time.Millisecond), "pause", pause)
		}
		if time.Since(started) > longRun {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
		var err error
		if p, err = startProcess(s.cfg, s.lifeline, s.listener); err != nil {
			s.cfg.Logger.Error("engine's process cannot be started", "error", err, "pause", pause)
		}
	}
}

// awaitReady waits until a SELECT works. A child that ended on the way is tried again by the supervisor: a predecessor that was
// killed a moment ago may still hold the engine's own lock.
func (s *Store) awaitReady(ctx context.Context, ended <-chan string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StartTimeout)
	defer cancel()
	ready := make(chan struct{})
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
		for !selectOne(ctx, client, s.URL()) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		close(ready)
	}()
	why := "it does not answer"
	for failures := 0; failures < 3; {
		select {
		case <-ready:
			return nil
		case why = <-ended:
			failures++
		case <-ctx.Done():
			return fmt.Errorf("the ClickHouse engine does not start in time: %s", why)
		}
	}
	return fmt.Errorf("the ClickHouse engine does not start: %s", why)
}

func selectOne(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("SELECT 1"))
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16))
	return err == nil && string(text) == "1\n"
}
