package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"tributary/exporter/config"
	"tributary/exporter/probe"
)

// errDoctor says that a finding makes capture impossible; the findings have been printed.
var errDoctor = errors.New("this host cannot be captured as configured")

// Doctor looks at the host without changing it and writes one line a finding. Its error says that capture is impossible; a
// collector that is away is a finding, not an error.
func Doctor(ctx context.Context, c config.Config, out io.Writer) error {
	var lines []error
	finding := func(ok bool, text string, err error) {
		mark := "ok   "
		switch {
		case err != nil && ok:
			mark, text = "warn ", err.Error()
		case err != nil:
			mark, text = "FAIL ", err.Error()
		}
		_, werr := fmt.Fprintln(out, mark, text)
		lines = append(lines, werr)
	}
	capture := probe.Check()
	finding(false, "this kernel and these privileges allow capture", capture)
	finding(true, "a collector listens at "+c.Collector, dial(ctx, c.Collector))
	if err := errors.Join(lines...); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if capture != nil {
		return errDoctor
	}
	return nil
}

func dial(ctx context.Context, address string) error {
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("no collector at %s (--collector): %w", address, err)
	}
	return conn.Close()
}
