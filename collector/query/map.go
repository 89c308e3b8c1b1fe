package query

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Formats of a map beside table and json.
const (
	FormatDot     Format = "dot"     // for Graphviz
	FormatMermaid Format = "mermaid" // a flowchart for Markdown
)

// MapOptions choose edges.
type MapOptions struct {
	Since, Until string // RFC 3339 or -5m; of end_time_ns
	Workload     string // only around this one
	Depth        int    // within so many steps of it; 0 means 1
	Format       Format
}

// Map writes the dependency map of a window, from roll-ups as far as they are computed. In JSON it is one edge a line, in the columns of
// the view edges.
func Map(ctx context.Context, c *Client, o MapOptions, now Clock, w io.Writer) error {
	edges, err := c.mapEdges(ctx, o, now)
	if err != nil {
		return err
	}
	switch o.Format {
	case FormatJSON:
		return writeJSON(edges, w)
	case FormatDot:
		return write(w, dot(edges))
	case FormatMermaid:
		return write(w, mermaid(edges))
	}
	return writeEdges(edges, w)
}

func (c *Client) mapEdges(ctx context.Context, o MapOptions, now Clock) ([]Edge, error) {
	span, err := parseWindow(o.Since, o.Until, now())
	if err != nil {
		return nil, err
	}
	if o.Depth < 0 || (o.Depth > 0 && o.Workload == "") {
		return nil, fmt.Errorf("--depth %d: a number of steps around a --workload is needed", o.Depth)
	}
	var filter edgeFilter
	if o.Workload != "" && o.Depth <= 1 {
		filter = ofWorkload(o.Workload)
	}
	edges, err := c.edges(ctx, span, now(), filter)
	if err != nil || o.Workload == "" {
		return edges, err
	}
	if edges = around(edges, o.Workload, max(1, o.Depth)); len(edges) == 0 {
		return nil, c.checkWorkload(ctx, o.Workload)
	}
	return edges, nil
}

// writeJSON writes one object a line.
func writeJSON[T any](rows []T, w io.Writer) error {
	out := json.NewEncoder(w)
	for _, row := range rows {
		if err := out.Encode(row); err != nil {
			return fmt.Errorf("write the answer: %w", err)
		}
	}
	return nil
}

func write(w io.Writer, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func writeEdges(edges []Edge, w io.Writer) error {
	if len(edges) == 0 {
		return write(w, "no connections were recorded in this time\n")
	}
	t := newTable(w, []string{"CLIENT", "SERVER", "PORT", "CONNECTIONS", "OPEN", "FAILURES", "TO SERVER", "TO CLIENT", "RTT P50", "CONNECT P50", "CONNECT P95", "FAILED BY"},
		[]bool{false, false, true, true, true, true, true, true, true, true, true, false})
	for _, e := range edges {
		t.row(endName(e.ClientWorkload, e.ClientWhy), endName(e.ServerWorkload, e.ServerWhy), fmt.Sprint(e.ServerPort),
			fmt.Sprint(e.Connections), fmt.Sprint(e.Open), fmt.Sprint(e.Failures), bytesText(e.BytesToServer), bytesText(e.BytesToClient),
			microsText(e.RttUsP50), microsText(e.ConnectUsP50), microsText(e.ConnectUsP95), failureText(&e))
	}
	return t.flush()
}

func failureText(e *Edge) string {
	var parts []string
	for reason, n := range e.FailuresByReason {
		parts = append(parts, fmt.Sprintf("%s %d", reason, n))
	}
	slices.Sort(parts)
	if e.Unanswered > 0 {
		parts = append(parts, fmt.Sprintf("no answer yet %d", e.Unanswered))
	}
	return strings.Join(parts, ", ")
}

// drawn is an arrow of a picture: all ports between two ends.
type drawn struct {
	from, to, label string
	failing         bool
}

// arrows makes one arrow for each pair of ends.
func arrows(edges []Edge) []drawn {
	type sum struct {
		ports                 []uint16
		connections, failures uint64
	}
	pairs := map[[2]string]*sum{}
	for i := range edges {
		e := &edges[i]
		k := [2]string{endName(e.ClientWorkload, e.ClientWhy), endName(e.ServerWorkload, e.ServerWhy)}
		if pairs[k] == nil {
			pairs[k] = &sum{}
		}
		pairs[k].ports = append(pairs[k].ports, e.ServerPort)
		pairs[k].connections += e.Connections
		pairs[k].failures += e.Failures
	}
	out := make([]drawn, 0, len(pairs))
	for k, s := range pairs {
		out = append(out, drawn{printable(k[0]), printable(k[1]), pairLabel(s.ports, s.connections, s.failures), s.failures > 0})
	}
	slices.SortFunc(out, func(a, b drawn) int { return cmp.Or(strings.Compare(a.from, b.from), strings.Compare(a.to, b.to)) })
	return out
}

// maxLabelPorts of an arrow are written out.
const maxLabelPorts = 4

func pairLabel(ports []uint16, connections, failures uint64) string {
	slices.Sort(ports)
	ports = slices.Compact(ports)
	var parts []string
	for _, p := range ports[:min(len(ports), maxLabelPorts)] {
		parts = append(parts, fmt.Sprintf(":%d", p))
	}
	if more := len(ports) - maxLabelPorts; more > 0 {
		parts = append(parts, fmt.Sprintf("+%d ports", more))
	}
	label := fmt.Sprintf("%s %d", strings.Join(parts, " "), connections)
	if failures > 0 {
		label += fmt.Sprintf(" (%d failed)", failures)
	}
	return label
}

func dot(edges []Edge) string {
	var b strings.Builder
	b.WriteString("digraph tributary {\n  rankdir=LR;\n  node [shape=box];\n")
	for _, a := range arrows(edges) {
		colour := ""
		if a.failing {
			colour = ", color=red"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s%s];\n", dotText(a.from), dotText(a.to), dotText(a.label), colour)
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText quotes as Graphviz reads it: only the quote and the backslash mean something.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func mermaid(edges []Edge) string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	names := map[string]string{}
	id := func(name string) string {
		if names[name] == "" {
			names[name] = fmt.Sprintf("n%d", len(names))
			fmt.Fprintf(&b, "  %s[%s]\n", names[name], mermaidText(name))
		}
		return names[name]
	}
	for i, a := range arrows(edges) {
		from, to := id(a.from), id(a.to)
		fmt.Fprintf(&b, "  %s -->|%s| %s\n", from, mermaidText(a.label), to)
		if a.failing {
			fmt.Fprintf(&b, "  linkStyle %d stroke:red\n", i)
		}
	}
	return b.String()
}

// mermaidText quotes; inside, Mermaid knows entities by number.
func mermaidText(s string) string {
	return `"` + strings.NewReplacer("#", "#35;", `"`, "#34;", "<", "#60;", ">", "#62;", "`", "#96;").Replace(s) + `"`
}
