package budget

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// load is a made-up exporter: what it uses at each step.
type load struct {
	t      *testing.T
	step   Step
	cores  func(Step) float64
	memory func(Step) uint64

	used  time.Duration
	at    time.Time
	steps []Step
	fail  error
}

func (l *load) usage() (Usage, error) {
	now := time.Now()
	l.used += time.Duration(float64(now.Sub(l.at)) * l.cores(l.step))
	l.at = now
	return Usage{l.used, l.memory(l.step)}, l.fail
}

func (l *load) apply(s Step) error {
	l.step = s
	l.steps = append(l.steps, s)
	return nil
}

func of[T any](v T) func(Step) T { return func(Step) T { return v } }

// byStep has a value for each step, the last one for those behind.
func byStep[T any](values ...T) func(Step) T {
	return func(s Step) T { return values[min(int(s), len(values)-1)] }
}

// run lets a governor run for a while of made-up time.
func (l *load) run(limits Limits, d time.Duration) *Governor {
	l.t.Helper()
	registry := prometheus.NewRegistry()
	g, err := New(Config{Limits: limits, Usage: l.usage, Apply: l.apply}, registry, slog.New(slog.DiscardHandler))
	if err != nil {
		l.t.Fatal(err)
	}
	l.at = time.Now()
	ctx, cancel := context.WithTimeout(l.t.Context(), d)
	defer cancel()
	if err := g.Run(ctx); err != nil {
		l.t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		l.t.Errorf("metrics: %v, %v", problems, err)
	}
	return g
}

func TestSteps(t *testing.T) {
	const mib = 1 << 20
	limits := Limits{Cores: 0.15, MemoryBytes: 64 * mib, SampleMost: 1}
	sampling := limits
	sampling.SampleMost = 8
	for _, c := range []struct {
		name   string
		limits Limits
		cores  func(Step) float64
		memory func(Step) uint64
		lasts  time.Duration
		want   []Step
	}{
		{"within", limits, of(0.14), of(uint64(60 * mib)), time.Hour, nil},
		{"over for ever, sampling forbidden", limits, of(0.2), of(uint64(0)), time.Hour, []Step{1, 2}},
		{"over for ever, sampling allowed", sampling, of(0.2), of(uint64(0)), time.Hour, []Step{1, 2, 3, 4, 5}},
		{"no limit", Limits{}, of(99.0), of(uint64(1 << 40)), time.Hour, nil},
		{"memory", limits, of(0.0), of(uint64(65 * mib)), 70 * time.Second, []Step{1}},
		{"the first step helps, but not enough to go back", limits, byStep(0.2, 0.12), of(uint64(0)), time.Hour, []Step{1}},
		{"half the records would be enough, and twice as many not", sampling, byStep(1, 0.5, 0.4, 0.2, 0.1), of(uint64(0)), time.Hour, []Step{1, 2, 3, 4}},
		{"a minute is needed for each step", limits, of(0.2), of(uint64(0)), 65 * time.Second, []Step{1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &load{t: t, cores: c.cores, memory: c.memory}
				g := l.run(c.limits, c.lasts)
				if !slices.Equal(l.steps, c.want) {
					t.Errorf("steps %v, want %v", l.steps, c.want)
				}
				if got := g.Stats(); int(got.Downs) != len(c.want) || got.Ups != 0 {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

// A burst of half a minute that is less than twice the limit is nobody's business; afterwards it goes back step by step.
func TestBurstsAndTheWayBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{t: t, memory: of(uint64(0))}
		began := time.Now()
		l.cores = func(Step) float64 {
			switch since := time.Since(began); {
			case since < 30*time.Second:
				return 0.25
			case since > 10*time.Minute && since < 13*time.Minute:
				return 0.5
			}
			return 0.01
		}
		l.run(Limits{Cores: 0.15, SampleMost: 1}, 9*time.Minute)
		if len(l.steps) != 0 {
			t.Errorf("a burst of half a minute: steps %v", l.steps)
		}
		g := l.run(Limits{Cores: 0.15, SampleMost: 2}, time.Hour)
		if want := []Step{1, 2, 3, 2, 1, 0}; !slices.Equal(l.steps, want) {
			t.Errorf("steps %v, want %v", l.steps, want)
		}
		if got := g.Stats(); got != (Stats{Everything, 3, 3}) {
			t.Errorf("%+v", got)
		}
	})
}

// What cannot be read or applied changes nothing and is told.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{t: t, cores: of(1.0), memory: of(uint64(0)), fail: errors.New("no such file")}
		if g := l.run(Limits{Cores: 0.1}, time.Hour); g.Stats() != (Stats{}) || l.steps != nil {
			t.Errorf("unread: %+v, steps %v", g.Stats(), l.steps)
		}
	})
	g, err := New(Config{Limits: Limits{Cores: 0.1}, Apply: func(Step) error { return errors.New("refused") }}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range readings {
		g.judge(reading{cores: 1})
	}
	if g.failed != 1 || g.step != Everything || g.Stats().Downs != 0 {
		t.Errorf("refused: %d failed, step %d", g.failed, g.step)
	}
}

func TestStepsSpeak(t *testing.T) {
	if Everything.SampleRate() != 1 || NoExtras.SampleRate() != 1 || SampleTwo.SampleRate() != 2 || (SampleTwo+2).SampleRate() != 8 {
		t.Error("sample rates of the steps")
	}
	for s := Everything; s < SampleTwo+3; s++ {
		if text := s.String(); text == "" || s >= SampleTwo != strings.Contains(text, "one of") {
			t.Errorf("step %d: %q", s, text)
		}
	}
}

func TestLimitsOfCgroups(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("fs/pod/cpu.max", "150000 100000\n")
	write("fs/pod/memory.max", "1073741824\n")
	write("fs/pod/one/cpu.max", "max 100000\n")
	write("fs/pod/one/memory.max", "max\n")
	write("fs/pod/two/cpu.max", "20000 100000\n")
	write("fs/pod/two/memory.max", "67108864\n")
	write("fs/odd/cpu.max", "-1 0\n")
	for _, c := range []struct {
		cgroups []string
		cpus    float64
		memory  uint64
	}{
		{[]string{"pod/one", "pod", ""}, 1.5, 1 << 30},
		{[]string{"pod/two", "pod", ""}, 0.2, 64 << 20},
		{[]string{""}, 8, 0},
		{[]string{"odd", ""}, 8, 0},
		{nil, 8, 0},
	} {
		var dirs []string
		for _, dir := range c.cgroups {
			dirs = append(dirs, filepath.Join(root, "fs", dir))
		}
		if got := cpusIn(dirs, 8); got != c.cpus {
			t.Errorf("%q: %v processors, want %v", c.cgroups, got, c.cpus)
		}
		if got := MemoryBytes(dirs); got != c.memory {
			t.Errorf("%q: %d bytes, want %d", c.cgroups, got, c.memory)
		}
	}
	if CPUs(nil) <= 0 {
		t.Error("this process has no processor")
	}
}
