package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

const (
	look        = 500 * time.Millisecond
	clearScreen = "\x1b[H\x1b[2J\x1b[3J"
)

// view is one look at the store.
type view struct {
	edges  []edge
	owners []owner
}

// show prints the first map as soon as it is complete (or patience is over), then keeps it current.
func (d *demo) show(ctx context.Context, began time.Time) error {
	v, err := d.first(ctx, began)
	if err != nil {
		return err
	}
	d.print(v, fmt.Sprintf("%.0f s after the start", time.Since(began).Seconds()))
	if d.once {
		return d.verdict(v)
	}
	return d.keep(ctx, v)
}

// first moves the cart in time and looks until everything expected is there.
func (d *demo) first(ctx context.Context, began time.Time) (view, error) {
	var move <-chan time.Time
	if d.shop != nil {
		move = time.After(moveAfter)
	}
	patience := time.After(max(0, d.patience-time.Since(began)))
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-move:
			if err := d.shop.MoveCart(); err != nil {
				return view{}, fmt.Errorf("move %s: %w", d.shop.Cart, err)
			}
			d.say("%s moved from shop/cart-old to shop/cart-new, with connections running to it", d.shop.Cart)
		case <-tick.C:
			if err := d.family.dead(); err != nil {
				return view{}, err
			}
			v, err := d.look(ctx)
			if err == nil && d.complete(v) {
				return v, nil
			}
		case <-patience:
			return d.look(ctx)
		case <-ctx.Done():
			return view{}, ctx.Err()
		}
	}
}

func (d *demo) look(ctx context.Context) (view, error) {
	var v view
	var err error
	network := ""
	if d.shop != nil {
		network = d.shop.Network()
	}
	if v.edges, err = d.store.edges(ctx, network); err != nil || d.shop == nil {
		return v, err
	}
	v.owners, err = d.store.owners(ctx, d.shop.Cart.String(), network)
	return v, err
}

// complete: with a world every expected edge, on the bare host anything at all that has two names.
func (d *demo) complete(v view) bool {
	if d.shop != nil {
		return len(d.missing(v)) == 0
	}
	for _, e := range v.edges {
		if e.client != "" && e.server != "" {
			return true
		}
	}
	return false
}

// missing says what of the expected map is not there.
func (d *demo) missing(v view) []string {
	var missing []string
	for _, want := range d.shop.Expected() {
		found := false
		for _, e := range v.edges {
			external := (want.Client != "" || e.whyClient == "external") && (want.Server != "" || e.whyServer == "external")
			if e.client == want.Client && e.server == want.Server && e.port == want.Port && external && want.Failing == (e.failed > 0) {
				found = true
			}
		}
		if !found {
			missing = append(missing, fmt.Sprintf("%s → %s:%d", name(want.Client, "external"), name(want.Server, "external"), want.Port))
		}
	}
	if len(v.owners) != 2 || v.owners[0].workload != "shop/cart-old" || v.owners[1].workload != "shop/cart-new" {
		missing = append(missing, fmt.Sprintf("the two owners of %s", d.shop.Cart))
	}
	return missing
}

func (d *demo) verdict(v view) error {
	if d.shop == nil {
		return nil
	}
	if missing := d.missing(v); len(missing) > 0 {
		return fmt.Errorf("the map lacks: %s", strings.Join(missing, "; "))
	}
	return nil
}

// keep redraws on a terminal; elsewhere it prints again when the map has other lines than before.
func (d *demo) keep(ctx context.Context, last view) error {
	terminal := isTerminal(d.out)
	d.pointers()
	tick := time.NewTicker(d.refresh)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := d.family.dead(); err != nil {
			return err
		}
		v, err := d.look(ctx)
		if err != nil {
			d.say("%v (trying again)", err)
			continue
		}
		switch {
		case terminal:
			fmt.Fprint(d.out, clearScreen)
			d.print(v, time.Now().Format(time.TimeOnly))
			d.pointers()
		case signature(v) != signature(last):
			d.print(v, "changed at "+time.Now().Format(time.TimeOnly))
		}
		last = v
	}
}

// signature is what makes a map a different one: its lines, not its numbers.
func signature(v view) string {
	var b strings.Builder
	for _, e := range v.edges {
		fmt.Fprintln(&b, e.client, e.whyClient, e.server, e.whyServer, e.port, e.failed > 0)
	}
	for _, o := range v.owners {
		fmt.Fprintln(&b, o.workload)
	}
	return b.String()
}

// print writes the map in one piece.
func (d *demo) print(v view, when string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "\nWho talks to whom (%s)\n\n", when)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  CLIENT\tSERVER\tPORT\tCONNECTIONS\tFAILED\tSENT\tRECEIVED\tCONNECT\tRTT")
	for _, e := range v.edges {
		fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", name(e.client, e.whyClient), name(e.server, e.whyServer), e.port,
			e.connections, count(e.failed), size(e.tx), size(e.rx), latency(e.connect), latency(e.rtt))
	}
	t.Flush()
	if d.shop != nil {
		fmt.Fprintf(&b, "\nWho owned %s\n\n", d.shop.Cart)
		t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  FIRST FLOW\tLAST FLOW\tWORKLOAD\tINSTANCE\tCONNECTIONS")
		for _, o := range v.owners {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%d\n", o.from.Format("15:04:05.000"), o.to.Format("15:04:05.000"), o.workload, o.instance, o.connections)
		}
		t.Flush()
	}
	d.out.Write(b.Bytes()) //nolint:errcheck // nobody to tell
}

// pointers says where everything is.
func (d *demo) pointers() {
	address := d.example()
	fmt.Fprintf(d.out, `
  SQL      curl -s '%s' -d "SELECT client, server, connections FROM (SELECT local_workload AS client, remote_workload AS server, count() AS connections FROM tributary.flows WHERE role = 'client' GROUP BY 1, 2) FORMAT PrettyCompact"
           %s sql --clickhouse %s "SELECT count() FROM flows"%s
  metrics  http://%s/metrics (collector)   http://%s/metrics (exporter)
  logs     %s/*.log
  Ctrl-C ends it and removes everything.
`, d.store.url, d.tool(), d.store.url, address, d.ports.collectorMetrics, d.ports.exporterMetrics, d.dir)
}

func (d *demo) example() string {
	if d.shop == nil {
		return ""
	}
	return fmt.Sprintf("\n           %s whois --clickhouse %s %s --at -5m", d.tool(), d.store.url, d.shop.Cart)
}

func (d *demo) tool() string { return d.bin + "/tributary-collector" }

// name shows an unnamed end as every screen of Tributary does.
func name(workload, why string) string {
	switch {
	case workload != "":
		return workload
	case why == "external":
		return "(external)"
	}
	return "(unattributed: " + why + ")"
}

func count(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func size(n uint64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func latency(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return d.String()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
