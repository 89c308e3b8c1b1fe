// Package log makes the loggers of a program, and keeps an error that repeats from filling the disk.
//
// Lines go to one writer, as text or JSON (one object a line). A component sets its attribute once with
// logger.With(log.Component, "sink"). What can repeat as fast as input arrives is logged through Limited and counted by a
// metric of its own: a limited line is dropped on purpose, and how many were is said by the next one that passes.
package log

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Component is the key of the attribute that names the part of the program that speaks.
const Component = "component"

// Formats of New.
const (
	Text = "text"
	JSON = "json"
)

// New returns a logger that writes lines of at least the named level (debug, info, warn or error; upper case is fine) in
// the named format (text or json; empty means text) to w.
func New(w io.Writer, level, format string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is not debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case Text, "":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case JSON:
		return slog.New(slog.NewJSONHandler(w, options)), nil
	default:
		return nil, fmt.Errorf("log format %q is not text or json", format)
	}
}

// maxKeys bounds the memory of a limited logger. Messages are constants, so a program has far fewer.
const maxKeys = 1024

// Limited returns a logger that passes the same message of the same component and level at most once in every. The next
// line that passes has the number of those that did not in the attribute suppressed; attributes do not make a difference.
func Limited(logger *slog.Logger, every time.Duration) *slog.Logger {
	return slog.New(&limited{next: logger.Handler(), state: &limits{every: every, seen: map[key]*entry{}}})
}

type key struct {
	level     slog.Level
	component string
	message   string
}

type entry struct {
	passed     time.Time
	suppressed uint64
}

// limits is what a limited logger and those derived from it with With and WithGroup share.
type limits struct {
	every time.Duration
	mu    sync.Mutex
	seen  map[key]*entry
}

// pass decides by the time of the record, so it needs no clock.
func (l *limits) pass(k key, now time.Time) (suppressed uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.seen[k]
	if e == nil {
		if len(l.seen) >= maxKeys {
			l.forget(now)
		}
		l.seen[k] = &entry{passed: now}
		return 0, true
	}
	if now.Sub(e.passed) < l.every {
		e.suppressed++
		return 0, false
	}
	suppressed = e.suppressed
	e.passed, e.suppressed = now, 0
	return suppressed, true
}

// forget makes room: entries whose time is over, else all (a few lines too many are better than growth).
func (l *limits) forget(now time.Time) {
	for k, e := range l.seen {
		if now.Sub(e.passed) >= l.every {
			delete(l.seen, k)
		}
	}
	if len(l.seen) >= maxKeys {
		clear(l.seen)
	}
}

type limited struct {
	next      slog.Handler
	component string
	state     *limits
}

// Enabled implements slog.Handler.
func (h *limited) Enabled(ctx context.Context, level slog.Level) bool {
	return h.next.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *limited) Handle(ctx context.Context, record slog.Record) error {
	component := h.component
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == Component {
			component = a.Value.String()
		}
		return true
	})
	suppressed, ok := h.state.pass(key{record.Level, component, record.Message}, record.Time)
	if !ok {
		return nil
	}
	if suppressed > 0 {
		record = record.Clone()
		record.AddAttrs(slog.Uint64("suppressed", suppressed))
	}
	return h.next.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (h *limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	component := h.component
	for _, a := range attrs {
		if a.Key == Component {
			component = a.Value.String()
		}
	}
	return &limited{next: h.next.WithAttrs(attrs), component: component, state: h.state}
}

// WithGroup implements slog.Handler.
func (h *limited) WithGroup(name string) slog.Handler {
	return &limited{next: h.next.WithGroup(name), component: h.component, state: h.state}
}
