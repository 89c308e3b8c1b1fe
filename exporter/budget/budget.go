package budget

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/service/log"
)

const (
	readEvery = 10 * time.Second
	readings  = 6 // that are judged together
	// calm is how far below the limit the use must be for a step up, calmSampling where that doubles the records.
	calm, calmSampling = 0.7, 0.45
)

// Step is how far the exporter has stepped down.
type Step uint32

// The steps. SampleTwo records one of two connections, SampleTwo+1 one of four, and so on.
const (
	Everything Step = iota
	SlowActive
	NoExtras
	SampleTwo
)

// SampleRate is one of how many connections are recorded.
func (s Step) SampleRate() uint32 {
	if s < SampleTwo {
		return 1
	}
	return 2 << (s - SampleTwo)
}

// String says what a step leaves out.
func (s Step) String() string {
	switch s {
	case Everything:
		return "nothing is left out"
	case SlowActive:
		return "open connections are recorded a quarter as often"
	case NoExtras:
		return "open connections are recorded a quarter as often, and connection tracking is not asked"
	}
	return fmt.Sprintf("one of %d established connections is recorded, open ones a quarter as often, and connection tracking is not asked", s.SampleRate())
}

// Limits are what may be used.
type Limits struct {
	Cores       float64 // processor time; 0: no limit
	MemoryBytes uint64  // 0: no limit
	SampleMost  uint32  // how far sampling may go; 0 and 1: it may not be used
}

// last is the furthest step that the limits allow.
func (l Limits) last() Step {
	step := NoExtras
	for most := l.SampleMost; most >= 2; most /= 2 {
		step++
	}
	return step
}

// Usage is what has been used up to now.
type Usage struct {
	CPU         time.Duration // since the start
	MemoryBytes uint64        // at this moment
}

// Config is what a Governor needs.
type Config struct {
	Limits Limits
	Usage  func() (Usage, error)
	Apply  func(Step) error // puts a step in force
}

// Governor steps down and up. Run may be called once, the rest from any goroutine.
type Governor struct {
	config Config
	log    *slog.Logger

	mu     sync.Mutex
	past   []reading // the last ones since the last step
	step   Step
	used   reading // the mean that was judged last
	downs  [reasons]uint64
	ups    uint64
	failed uint64
}

// reading is what was used in one interval.
type reading struct {
	cores       float64
	memoryBytes uint64
}

// reason is which limit made it step down.
type reason int

const (
	none reason = iota
	cpu
	memory
	reasons
)

var reasonNames = [reasons]string{"", "cpu", "memory"}

// New returns a governor that has taken no step.
func New(c Config, registerer prometheus.Registerer, logger *slog.Logger) (*Governor, error) {
	g := &Governor{config: c, log: log.Limited(logger.With(log.Component, "budget"), 10*time.Second)}
	if err := registerer.Register(g); err != nil {
		return nil, fmt.Errorf("register the metrics of the budget: %w", err)
	}
	return g, nil
}

// Run judges until ctx ends.
func (g *Governor) Run(ctx context.Context) error {
	ticker := time.NewTicker(readEvery)
	defer ticker.Stop()
	before, err := g.config.Usage()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		var now Usage
		now, nerr := g.config.Usage()
		at := time.Now()
		if err == nil && nerr == nil {
			g.judge(reading{float64(now.CPU-before.CPU) / float64(at.Sub(began)), now.MemoryBytes})
		} else if nerr != nil {
			g.log.Warn("what the exporter uses cannot be read: it is not held to its budget", "error", nerr)
		}
		before, began, err = now, at, nerr
	}
}

// judge takes one more reading and the step that it asks for.
func (g *Governor) judge(r reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.past = append(g.past, r)
	if len(g.past) < readings {
		return
	}
	g.past = g.past[len(g.past)-readings:]
	g.used = mean(g.past)
	next, why := g.next()
	if next == g.step {
		return
	}
	if err := g.config.Apply(next); err != nil {
		g.failed++
		g.log.Error("a step of the budget failed", "error", err)
		return
	}
	g.told(next, why)
	g.step, g.past = next, g.past[:0]
}

// next needs mu.
func (g *Governor) next() (Step, reason) {
	l := g.config.Limits
	over := none
	switch {
	case l.Cores > 0 && g.used.cores > l.Cores:
		over = cpu
	case l.MemoryBytes > 0 && g.used.memoryBytes > l.MemoryBytes:
		over = memory
	}
	if over != none {
		return min(g.step+1, l.last()), over
	}
	share := calm
	if g.step >= SampleTwo {
		share = calmSampling
	}
	quiet := (l.Cores == 0 || g.used.cores < share*l.Cores) && (l.MemoryBytes == 0 || float64(g.used.memoryBytes) < share*float64(l.MemoryBytes))
	if g.step > Everything && quiet {
		return g.step - 1, none
	}
	return g.step, none
}

// told counts and logs a step. It needs mu.
func (g *Governor) told(next Step, why reason) {
	l := g.config.Limits
	attrs := []any{
		"step", int(next), "now", next.String(), "used_cores", g.used.cores, "limit_cores", l.Cores,
		"used_bytes", g.used.memoryBytes, "limit_bytes", l.MemoryBytes,
	}
	if why == none {
		g.ups++
		g.log.Info("the exporter keeps to its budget again: one step up", attrs...)
		return
	}
	g.downs[why]++
	g.log.Warn("the exporter uses more than its budget: one step down", append(attrs, "over", reasonNames[why])...)
}

func mean(past []reading) (m reading) {
	for _, r := range past {
		m.cores += r.cores / float64(len(past))
		m.memoryBytes += r.memoryBytes / uint64(len(past))
	}
	return m
}

// Stats are the counters that travel with batches.
type Stats struct {
	Step       Step // in force now
	Downs, Ups uint64
}

// Stats returns the counters; of no governor, none.
func (g *Governor) Stats() Stats {
	if g == nil {
		return Stats{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return Stats{Step: g.step, Downs: g.downs[cpu] + g.downs[memory], Ups: g.ups}
}
