package app

import (
	"testing"
	"time"

	"tributary/exporter/budget"
	"tributary/exporter/config"
	"tributary/service/testenv"
)

func TestLimits(t *testing.T) {
	d := config.Default().Budget
	for _, c := range []struct {
		name   string
		budget config.Budget
		cpus   float64
		memory uint64
		want   budget.Limits
	}{
		{"a small host", d, 2, 0, budget.Limits{Cores: 0.15, MemoryBytes: 64 << 20, SampleMost: 1}},
		{"a large host", d, 64, 0, budget.Limits{Cores: 3.2, MemoryBytes: 64 << 20, SampleMost: 1}},
		{"a sidecar with a tenth of a processor", d, 0.1, 48 << 20, budget.Limits{Cores: 0.1, MemoryBytes: 48 << 20, SampleMost: 1}},
		{"no bounds", config.Budget{SampleRate: 64}, 4, 1 << 30, budget.Limits{SampleMost: 64}},
	} {
		if got := limitsOf(c.budget, c.cpus, c.memory); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSettingsUnderTheBudget(t *testing.T) {
	set := config.Capture{SampleRate: 4, ActiveEvery: 30 * time.Second}
	for step, want := range map[budget.Step]config.Capture{
		budget.Everything:    set,
		budget.SlowActive:    {SampleRate: 4, ActiveEvery: 2 * time.Minute},
		budget.SampleTwo:     {SampleRate: 4, ActiveEvery: 2 * time.Minute},
		budget.SampleTwo + 3: {SampleRate: 16, ActiveEvery: 2 * time.Minute},
	} {
		if got := underBudget(set, step); got.SampleRate != want.SampleRate || got.ActiveEvery != want.ActiveEvery {
			t.Errorf("step %d: %+v, want %+v", step, got, want)
		}
	}
	rare := config.Capture{SampleRate: 1, ActiveEvery: 30 * time.Minute}
	if got := underBudget(rare, budget.SlowActive); got.Check() != nil {
		t.Errorf("a step makes settings that are refused: %v", got.Check())
	}
}

// Each step does what it says on a running exporter, what it leaves out is counted, and a user's change meanwhile stays.
func TestStepsTakeEffect(t *testing.T) {
	testenv.NeedRoot(t)
	c := startCollector(t)
	a, stop := runApp(t, testConfig(t, c.address))
	ease := func(s budget.Step) {
		t.Helper()
		if err := a.ease(s); err != nil {
			t.Fatal(err)
		}
	}
	skipped := func() uint64 { return a.names.nat.Stats().Skipped }

	ease(budget.NoExtras)
	before := skipped()
	exchange(t, "127.0.0.1:0", 20)
	a.drain()
	if n := skipped() - before; n < 2 {
		t.Errorf("without extras %d questions about translations were left out", n)
	}
	if w := a.wire(); w.Budget != budget.NoExtras.String() || *w.ActiveEvery != "30s" {
		t.Errorf("it says budget %q, active_every %s", w.Budget, *w.ActiveEvery)
	}

	const n = 400
	ease(budget.SampleTwo + 2) // one of 8
	sampled := a.wire().Records["sampled_out"]
	port := exchange(t, "127.0.0.1:0", n)
	weaker := func(c *config.Capture) error { c.SampleRate = 2; return nil } // than what the budget asks for
	if err := a.Change(weaker); err != nil {
		t.Fatal(err)
	}
	if out := a.wire().Records["sampled_out"] - sampled; out < n || out > 2*n-20 {
		t.Errorf("of %d ends %d were left out by one in 8", 2*n, out)
	}
	ease(budget.Everything)
	if w := a.wire(); w.Budget != "" || *w.SampleRate != 2 {
		t.Errorf("afterwards it says %q, sample_rate %d", w.Budget, *w.SampleRate)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	kept := 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.rows {
		if r.remotePort == port || r.localPort == port {
			kept++
			if r.sampleRate != 8 {
				t.Fatalf("a row stands for %d connections, want 8", r.sampleRate)
			}
		}
	}
	if kept < 20 || kept > n {
		t.Errorf("%d of %d ends have rows", kept, 2*n)
	}
}

// The meter's readings grow with use.
func TestMeter(t *testing.T) {
	testenv.NeedRoot(t)
	c := startCollector(t)
	a, _ := runApp(t, testConfig(t, c.address))
	m := &meter{app: a, perEnd: perEndAtFirst}
	first, err := m.read()
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, "127.0.0.1:0", 100)
	second, err := m.read()
	if err != nil {
		t.Fatal(err)
	}
	if used := second.CPU - first.CPU; used < 200*perEndAtFirst || second.MemoryBytes < 4<<20 {
		t.Errorf("200 ends took %v, %d bytes", used, second.MemoryBytes)
	}
}
