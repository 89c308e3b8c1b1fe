package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"tributary/exporter/config"
	"tributary/exporter/event"
	"tributary/exporter/probe"
	"tributary/exporter/ring"
	"tributary/exporter/sockdiag"
)

// capturer is a way to see connections.
type capturer interface {
	Start() error
	// Run hands over records until ctx ends, then those of what is open; swept is called when all open connections were looked at.
	Run(ctx context.Context, handle func([]byte) error, swept func()) error
	Drain(ctx context.Context) error
	Close() error

	Missing() error // what it does not see here; nil if nothing
	Readable() error
	Counters() (probe.Counters, error)
	Stats() ring.Stats
	Inventory() (found, unread int)
	Listeners() ([]probe.Listener, error)
	// ListensMoved returns a number that is another one when Listeners has others than before.
	ListensMoved() (uint64, error)
	SetActiveEvery(every time.Duration) error
	MeasurePerEnd(ctx context.Context) (time.Duration, error)
}

// source is the way in which this exporter sees connections: tracing programs or, where the kernel allows none, its lists of sockets.
type source struct {
	log     *slog.Logger
	second  func() (capturer, error) // nil: there is no other way
	chosen  atomic.Pointer[capturer]
	running atomic.Bool
}

func newSource(c config.Config, options probe.Options, logger *slog.Logger) (*source, error) {
	s := &source{log: logger}
	s.choose(&tracing{Probe: probe.New(options), log: logger})
	lists := func() (capturer, error) {
		if options.CgroupID != 0 {
			return nil, errors.New("--scope cgroup needs tracing programs: the kernel's lists of sockets are those of whole network namespaces")
		}
		return sockdiag.New(sockdiag.Options{NetnsInum: options.NetnsInum, OpenSockets: c.OpenSockets, ActiveEvery: options.ActiveEvery, Log: logger}), nil
	}
	switch c.CaptureMode {
	case config.CaptureAuto:
		s.second = lists
	case config.CaptureSockDiag:
		only, err := lists()
		if err != nil {
			return nil, err
		}
		s.choose(only)
	}
	return s, nil
}

func (s *source) choose(c capturer) { s.chosen.Store(&c) }

// get returns the way that is in use, before Start the one that is tried first.
func (s *source) get() capturer { return *s.chosen.Load() }

// mode is the name of the way in use.
func (s *source) mode() string {
	if _, traces := s.get().(*tracing); traces {
		return config.CaptureTracing
	}
	return config.CaptureSockDiag
}

// start starts the first way and, where the kernel does not allow it at all, the second. Missing privileges are no reason for that: a mistake
// would cost most of what is to be seen.
func (s *source) start() error {
	err := s.get().Start()
	if errors.Is(err, probe.ErrPrivilege) && s.second != nil {
		return fmt.Errorf("%w; --capture-mode sock_diag needs neither, and sees less", err)
	}
	if err == nil || s.second == nil || !untraceable(err) {
		return err
	}
	second, serr := s.second()
	if serr == nil {
		serr = second.Start()
	}
	if serr != nil {
		return errors.Join(err, serr)
	}
	s.log.Warn("this kernel allows no tracing programs: connections are taken from its lists of sockets", "error", err)
	s.choose(second)
	return nil
}

// untraceable says whether err is the kernel's nature.
func untraceable(err error) bool {
	return errors.Is(err, probe.ErrNoBTF) || errors.Is(err, probe.ErrOldKernel) || errors.Is(err, probe.ErrNotAllowed)
}

// run hands over records; see capturer.
func (s *source) run(ctx context.Context, handle func([]byte) error, swept func()) error {
	s.running.Store(true)
	return s.get().Run(ctx, handle, swept)
}

// tracing is capture by tracing programs.
type tracing struct {
	*probe.Probe
	log    *slog.Logger
	reader atomic.Pointer[ring.Reader] // nil before Run
}

// Run implements capturer.
func (t *tracing) Run(ctx context.Context, handle func([]byte) error, swept func()) error {
	fd, size, err := t.Ring()
	if err != nil {
		return err
	}
	reader := ring.New(ring.Options{
		FD: fd, Size: size, Rest: t.Rest, Walk: t.Walk, WalkEvery: walkEvery, AfterWalk: swept, RecordSize: event.RecordSize, Log: t.log,
	})
	t.reader.Store(reader)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- reader.Run(reading, handle) }()
	select {
	case <-ctx.Done():
	case err := <-ended:
		return errors.Join(err, t.Detach())
	}
	if derr := t.Detach(); derr != nil { // before the last walk, so that nothing ends unseen after it
		err = fmt.Errorf("detach: %w", derr)
	}
	stop()
	return errors.Join(err, <-ended)
}

// Drain implements capturer; before the ring is read it is ring.ErrNotRunning.
func (t *tracing) Drain(ctx context.Context) error {
	if r := t.reader.Load(); r != nil {
		return r.Drain(ctx)
	}
	return ring.ErrNotRunning
}

// Stats implements capturer.
func (t *tracing) Stats() ring.Stats {
	if r := t.reader.Load(); r != nil {
		return r.Stats()
	}
	return ring.Stats{}
}
