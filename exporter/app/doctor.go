package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"tributary/exporter/config"
	"tributary/exporter/identity"
	"tributary/exporter/nat"
	"tributary/exporter/probe"
)

// errDoctor says that an exporter cannot run here as configured; why has been printed.
var errDoctor = errors.New("an exporter cannot run on this host as configured")

// Doctor looks at the host without changing it and writes one line a finding. Its error says that an exporter cannot run; a
// collector that is away, or a workload whose address is, is a finding but no error.
func Doctor(ctx context.Context, c config.Config, out io.Writer) error {
	d := doctor{out: out}
	d.capture(c)
	d.should(identity.CheckCgroups(), "cgroup v2 is mounted: sockets are named by container, pod and unit")
	d.should(clockSynchronised(), "the clock is synchronised")
	d.identity(ctx, c)
	if c.Conntrack {
		d.should(nat.Check(), "connection tracking answers: connections to virtual addresses (DNAT) show their real servers")
	}
	d.ways(ctx, c)
	if d.write != nil {
		return fmt.Errorf("write the findings: %w", d.write)
	}
	if d.failed {
		return errDoctor
	}
	return nil
}

type doctor struct {
	out    io.Writer
	write  error
	failed bool
}

func (d *doctor) line(mark, text string) {
	if _, err := fmt.Fprintf(d.out, "%-4s  %s\n", mark, text); d.write == nil {
		d.write = err
	}
}

// must reports what an exporter cannot do without.
func (d *doctor) must(err error, fine string) {
	if err != nil {
		d.failed = true
		d.line("FAIL", err.Error())
		return
	}
	d.line("ok", fine)
}

func (d *doctor) should(err error, fine string) {
	if err != nil {
		d.line("warn", err.Error())
		return
	}
	d.line("ok", fine)
}

// capture says what the kernel allows, and what will be missing.
func (d *doctor) capture(c config.Config) {
	options, err := probeOptions(c)
	if err != nil {
		d.must(err, "")
		return
	}
	for _, finding := range probe.Survey(options) {
		switch finding.Grade {
		case probe.Fine:
			d.line("ok", finding.Text)
		case probe.Missing:
			d.line("warn", finding.Text)
		case probe.Fatal:
			d.must(errors.New(finding.Text), "")
		}
	}
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
		d.must(err, "")
		return
	}
	book, err := identity.New(identityOptions(c, h), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil || c.Identity == "" {
		d.must(err, "no identity file: names come from the static identity, or from units and programs")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listingMost)
	defer cancel()
	watching := make(chan error, 1)
	go func() { watching <- book.Run(ctx) }()
	for book.VerifiedTo(time.Now().UnixNano()) == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	absent := book.Absent()
	cancel()
	d.must(<-watching, "the identity file "+c.Identity+" is understood")
	for _, text := range absent {
		d.line("warn", text+": nothing is claimed for it")
	}
}
