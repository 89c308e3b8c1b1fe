package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"tributary/bpf"
)

// ProgramCost is what one kernel program has cost since the statistics were enabled.
type ProgramCost struct {
	Name string
	Runs uint64
	Time time.Duration
}

// EnableStats makes the kernel measure the run time of all BPF programs of the host
// until what it returns is closed. The measuring takes some 30 ns a run. It needs CAP_SYS_ADMIN.
func EnableStats() (io.Closer, error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, fmt.Errorf("enable BPF run-time statistics: %w", err)
	}
	return stats, nil
}

// MeasurePerEnd measures until ctx ends what the programs take of the processors that
// connections run on, for each end; 0 if there was no end. It needs CAP_SYS_ADMIN.
func (p *Probe) MeasurePerEnd(ctx context.Context) (time.Duration, error) {
	stats, err := EnableStats()
	if err != nil {
		return 0, err
	}
	ends, spent, err := p.spent()
	if err == nil {
		<-ctx.Done()
		var endsAfter uint64
		var spentAfter time.Duration
		endsAfter, spentAfter, err = p.spent()
		ends, spent = endsAfter-ends, spentAfter-spent
	}
	if err = errors.Join(err, stats.Close()); err != nil || ends == 0 {
		return 0, err
	}
	return spent / time.Duration(ends), nil
}

// spent is the run time of the programs that connections run themselves, and how many ends they have seen.
func (p *Probe) spent() (ends uint64, spent time.Duration, err error) {
	counters, err := p.Counters()
	if err != nil {
		return 0, 0, err
	}
	costs, err := p.Costs()
	for _, c := range costs[:min(len(costs), inConnections)] {
		spent += c.Time
	}
	return counters.Ends, spent, err
}

// inConnections is how many programs, the first ones of Costs, are run by connections; the rest by the reader.
const inConnections = 5

// Costs returns what each program has cost; zeros unless statistics are enabled
// here or by kernel.bpf_stats_enabled.
func (p *Probe) Costs() ([]ProgramCost, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return nil, ErrClosed
	}
	named := []struct {
		name string
		prog *ebpf.Program
	}{
		{bpf.CaptureProgStateInCall, p.objects.StateInCall},
		{bpf.CaptureProgStateInSoftirq, p.objects.StateInSoftirq},
		{bpf.CaptureProgResetInCall, p.objects.ResetInCall},
		{bpf.CaptureProgResetInSoftirq, p.objects.ResetInSoftirq},
		{bpf.CaptureProgFailedConnect, p.objects.FailedConnect},
		{bpf.CaptureProgReportOpenSockets, p.objects.ReportOpenSockets},
		{bpf.CaptureProgFindSockets, p.objects.FindSockets},
		{bpf.CaptureProgReportListeners, p.objects.ReportListeners},
		{bpf.CaptureProgFindHolders, p.objects.FindHolders},
	}
	costs := make([]ProgramCost, 0, len(named))
	for _, n := range named {
		s, err := n.prog.Stats()
		if err != nil {
			return nil, fmt.Errorf("read statistics of %s: %w", n.name, err)
		}
		costs = append(costs, ProgramCost{n.name, s.RunCount, s.Runtime})
	}
	return costs, nil
}
