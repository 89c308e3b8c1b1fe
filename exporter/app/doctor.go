package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/exporter/budget"
	"tributary/exporter/config"
	"tributary/exporter/identity"
	"tributary/exporter/nat"
	"tributary/exporter/probe"
	"tributary/service/findings"
)

// errDoctor says that an exporter cannot run here as configured; why has been printed.
var errDoctor = errors.New("an exporter cannot run on this host as configured")

// Doctor looks at the host without changing it and writes one line a finding. Its error says that an exporter cannot run; a
// collector that is away, or a workload whose address is, is a finding but no error.
func Doctor(ctx context.Context, c config.Config, out io.Writer) error {
	d := doctor{findings.New(out)}
	d.capture(c)
	d.Should(identity.CheckCgroups(), "cgroup v2 is mounted: sockets are named by container, pod and unit")
	d.Should(clockSynchronised(), "the clock is synchronised")
	d.identity(ctx, c)
	d.kubernetes(ctx, c)
	if c.Conntrack {
		d.Should(nat.Check(), "connection tracking answers: connections to virtual addresses (DNAT) show their real servers")
		d.Should(nat.CheckEvents(), "connection tracking tells of new connections: an address that begins to stand for others is claimed for nobody in time")
	}
	d.budget(limitsHere(c.Budget))
	d.spool(c.Spool.Dir)
	d.ways(ctx, c)
	return d.Verdict(errDoctor)
}

type doctor struct {
	*findings.Report
}

// capture says what the kernel allows, and what will be missing.
func (d *doctor) capture(c config.Config) {
	options, err := probeOptions(c)
	if err != nil {
		d.Must(err, "")
		return
	}
	if c.CaptureMode == config.CaptureSockDiag {
		d.lists(c, options)
		return
	}
	fallback := false
	for _, finding := range probe.Survey(options) {
		switch {
		case finding.Grade == probe.Fine:
			d.Line("ok", finding.Text)
		case finding.Grade == probe.Missing:
			d.Line("warn", finding.Text)
		case c.CaptureMode == config.CaptureAuto && untraceable(finding.Err):
			fallback = true
			d.Line("warn", finding.Text)
		default:
			d.Must(finding.Err, "")
		}
	}
	if fallback && !d.Failed() {
		d.lists(c, options)
	}
}

// lists says whether sock_diag works, and what it does not see.
func (d *doctor) lists(c config.Config, options probe.Options) {
	c.CaptureMode = config.CaptureSockDiag
	s, err := newSource(c, options, slog.New(slog.DiscardHandler))
	if err == nil {
		err = errors.Join(s.start(), s.get().Close())
	}
	d.Must(err, "capture by sock_diag works")
	if err == nil {
		d.Line("warn", s.get().Missing().Error())
	}
}

// spool says where batches wait that are not yet acknowledged. It makes nothing: a directory that is missing is looked for further up.
func (d *doctor) spool(dir string) {
	if dir == "" {
		d.Line("warn", "no spool directory (--spool-dir): batches wait in memory, and a kill loses those that are not acknowledged")
		return
	}
	at := filepath.Clean(dir)
	info, err := os.Stat(at)
	for errors.Is(err, os.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		info, err = os.Stat(at)
	}
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no directory", at)
	}
	if err == nil {
		if aerr := unix.Access(at, unix.W_OK|unix.X_OK); aerr != nil {
			err = fmt.Errorf("%s: %w", at, aerr)
		}
	}
	if err != nil {
		d.Line("warn", fmt.Sprintf("the spool directory %s cannot be written (%v): batches wait in memory, and a kill loses them; choose another with --spool-dir", dir, err))
		return
	}
	d.Line("ok", "batches that are not acknowledged wait in "+dir)
}

// budget says how much the exporter will use at most.
func (d *doctor) budget(l budget.Limits) {
	cores, memory := "any part of the processors", "any memory"
	if l.Cores > 0 {
		cores = fmt.Sprintf("%.2f of a core", l.Cores)
	}
	if l.MemoryBytes > 0 {
		memory = fmt.Sprintf("%d MiB beside batches that are not acknowledged", l.MemoryBytes>>20)
	}
	sampling := "and never samples"
	if l.SampleMost > 1 {
		sampling = fmt.Sprintf("and then samples down to one connection of %d", l.SampleMost)
	}
	d.Line("ok", fmt.Sprintf("the exporter may use %s and %s; over that it leaves extras out, %s", cores, memory, sampling))
}

// clockSynchronised asks the kernel: whoever steers the clock tells it so (adjtimex(2)).
func clockSynchronised() error {
	var state unix.Timex
	if _, err := unix.Adjtimex(&state); err != nil {
		return fmt.Errorf("read the clock's state: %w", err)
	}
	if state.Status&unix.STA_UNSYNC != 0 {
		return errors.New("nobody synchronises the clock (NTP, PTP): where it is off by more than a second, the remote ends of its connections stay unnamed")
	}
	return nil
}

// listingMost bounds the wait for the kernel's list of addresses.
const listingMost = 2 * time.Second

// identity reads the identity file and looks for what it names.
func (d *doctor) identity(ctx context.Context, c config.Config) {
	h, err := readHost()
	if err != nil {
		d.Must(err, "")
		return
	}
	names, err := newNames(c, h, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil || c.Identity == "" {
		d.Must(err, "no identity file: names come from the static identity, or from units and programs")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listingMost)
	defer cancel()
	watching := make(chan error, 1)
	go func() { watching <- names.run(ctx) }()
	for names.VerifiedTo(time.Now().UnixNano()) == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	absent := names.book.Absent()
	cancel()
	d.Must(<-watching, "the identity file "+c.Identity+" is understood")
	for _, text := range absent {
		d.Line("warn", text+": nothing is claimed for it")
	}
}
