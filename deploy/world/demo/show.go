package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// hostSettles is how long a host without a world is watched before its first map.
	hostSettles = 8 * time.Second
	hostLines   = 40
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
			if err == nil && d.complete(v, time.Since(began)) {
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

// complete: with a world every expected edge, on the bare host anything at all that has two names, after some time.
func (d *demo) complete(v view, age time.Duration) bool {
	if d.shop != nil {
		return len(d.missing(v)) == 0
	}
	if age < hostSettles {
		return false
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
	if d.shop != nil {
		go d.breakAPath(ctx)
	}
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
			if d.incident != nil {
				fmt.Fprint(d.out, "\nA path breaks\n\n", d.incident.text())
			}
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

// arrange puts a host's map in order: lines with two names first, the busiest on top; what has no name at all (mostly connections that
// are older than the exporter) and what does not fit on a screen is only counted. A world's map is shown whole.
func (d *demo) arrange(edges []edge) (shown []edge, hidden int) {
	if !d.host {
		return edges, 0
	}
	for _, e := range edges {
		if e.client != "" || e.server != "" {
			shown = append(shown, e)
		}
	}
	slices.SortStableFunc(shown, func(a, b edge) int {
		return cmp.Or(cmp.Compare(b.known(), a.known()), cmp.Compare(b.connections, a.connections))
	})
	shown = shown[:min(len(shown), hostLines)]
	return shown, len(edges) - len(shown)
}

// known is how many ends are named or known to be outside.
func (e edge) known() (n int) {
	if e.client != "" || e.whyClient == "external" {
		n++
	}
	if e.server != "" || e.whyServer == "external" {
		n++
	}
	return n
}

// print writes the map in one piece.
func (d *demo) print(v view, when string) {
	var b bytes.Buffer
	edges, hidden := d.arrange(v.edges)
	fmt.Fprintf(&b, "\nWho talks to whom (%s)\n\n", when)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  CLIENT\tSERVER\tPORT\tCONNECTIONS\tFAILED\tSENT\tRECEIVED\tCONNECT\tRTT")
	for _, e := range edges {
		fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", name(e.client, e.whyClient), name(e.server, e.whyServer), e.port,
			e.connections, count(e.failed), size(e.tx), size(e.rx), latency(e.connect), latency(e.rtt))
	}
	t.Flush()
	if hidden > 0 {
		fmt.Fprintf(&b, "  … and %d more lines, most without a name because they began before the exporter: %s map\n", hidden, d.tool())
	}
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

// pointers says where everything is. Addresses are only named where they are not the defaults.
func (d *demo) pointers() {
	sql, api := "", ""
	if d.ports.sql != defaultSQL {
		sql = " --clickhouse " + d.store.url
	}
	if d.ports.api != defaultAPI {
		api = " --api http://" + d.ports.api
	}
	fmt.Fprintf(d.out, `
  SQL      curl %s -d "SELECT local_workload, remote_workload, count() FROM tributary.flows WHERE role = 'client' GROUP BY ALL FORMAT PrettyCompact"
           %s map%s
`, d.store.url, d.tool(), sql)
	if d.shop != nil {
		fmt.Fprintf(d.out, "           %s reachability%s\n", d.tool(), sql)
		fmt.Fprintf(d.out, "           %s whois %s --at -30s%s\n", d.tool(), d.shop.Cart, api)
	}
	fmt.Fprintf(d.out, `  metrics  http://%s/metrics (collector)   http://%s/metrics (exporter)
  logs     %s/*.log
  Ctrl-C ends it and removes everything it made.
`, d.ports.collectorMetrics, d.ports.exporterMetrics, d.dir)
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
