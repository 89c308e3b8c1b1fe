package app

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/exporter/budget"
	"tributary/exporter/config"
	"tributary/exporter/identity"
	"tributary/service/spool"
)

const (
	// leastCores is what the exporter may always use: a share of a small host would not carry the load that a small host can make.
	leastCores = 0.15
	// slower is how much rarer open connections are recorded once the budget asks for it.
	slower = 4
	// perEndAtFirst is what the kernel programs take for one end of a connection, until it is measured here (docs/capture.md).
	perEndAtFirst = time.Microsecond
	// measureAfter ends it is worth measuring, for as long as measureFor, and at most every measureEvery.
	measureAfter, measureFor, measureEvery = 10_000, 200 * time.Millisecond, time.Minute
)

// limitsHere are the limits of the configuration for this process.
func limitsHere(c config.Budget) budget.Limits {
	cgroups := identity.OwnCgroups()
	return limitsOf(c, budget.CPUs(cgroups), budget.MemoryBytes(cgroups))
}

// limitsOf are the limits of the configuration on this host, or in this cgroup.
func limitsOf(c config.Budget, cpus float64, memory uint64) budget.Limits {
	l := budget.Limits{MemoryBytes: uint64(c.MemoryBytes), SampleMost: c.SampleRate}
	if c.CPUPercent > 0 {
		l.Cores = min(cpus, max(leastCores, cpus*c.CPUPercent/100))
	}
	if memory > 0 && l.MemoryBytes > 0 {
		l.MemoryBytes = min(l.MemoryBytes, memory)
	}
	return l
}

func (a *App) buildBudget(registry *prometheus.Registry) (err error) {
	meter := &meter{app: a, perEnd: perEndAtFirst}
	a.budget, err = budget.New(budget.Config{
		Limits: limitsHere(a.config.Budget), Usage: meter.read, Apply: a.ease,
	}, registry, a.log)
	return err
}

// ease puts a step of the budget in force, over the settings that are.
func (a *App) ease(step budget.Step) error {
	before := budget.Step(a.eased.Swap(uint32(step)))
	if err := a.Change(func(*config.Capture) error { return nil }); err != nil {
		a.eased.Store(uint32(before))
		return err
	}
	if a.names.nat != nil {
		a.names.nat.Pause(step >= budget.NoExtras)
	}
	return nil
}

// underBudget is what becomes of settings while the exporter has stepped down.
func underBudget(c config.Capture, step budget.Step) config.Capture {
	if step >= budget.SlowActive {
		c.ActiveEvery = max(c.ActiveEvery, min(slower*c.ActiveEvery, config.MaxActiveEvery))
	}
	c.SampleRate = max(c.SampleRate, step.SampleRate())
	return c
}

// meter reads what the exporter uses.
type meter struct {
	app *App

	kernel   time.Duration // of the kernel programs up to ends
	ends     uint64
	perEnd   time.Duration
	measured time.Time
}

func (m *meter) read() (budget.Usage, error) {
	counters, err := m.app.source.get().Counters()
	if err != nil {
		return budget.Usage{}, err
	}
	ended := counters.Ends - m.ends
	if ended >= measureAfter && time.Since(m.measured) >= measureEvery {
		m.measure()
	}
	m.kernel += time.Duration(ended) * m.perEnd
	m.ends = counters.Ends
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return budget.Usage{}, fmt.Errorf("read the processor time of the exporter: %w", err)
	}
	resident, err := residentBytes()
	if err != nil {
		return budget.Usage{}, err
	}
	waiting := waitingBytes(m.app.spool.Stats())
	return budget.Usage{
		CPU:         m.kernel + time.Duration(own.Utime.Nano()+own.Stime.Nano()),
		MemoryBytes: resident - min(resident, waiting),
	}, nil
}

// measure finds out what an end takes on this machine. It needs CAP_SYS_ADMIN; without it the last value stays.
func (m *meter) measure() {
	m.measured = time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), measureFor)
	defer cancel()
	if perEnd, err := m.app.source.get().MeasurePerEnd(ctx); err == nil && perEnd > 0 {
		m.perEnd = perEnd
	}
}

// waitingBytes is the memory of batches that are not acknowledged.
func waitingBytes(s spool.Stats) uint64 { return uint64(max(0, s.MemoryBytes)) }

func residentBytes() (uint64, error) {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("read the memory of the exporter: %w", err)
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0, fmt.Errorf("read the memory of the exporter: %q", statm)
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the memory of the exporter: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
