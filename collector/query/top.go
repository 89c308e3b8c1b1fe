package query

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// measures are what edges can be ranked by.
var measureNames = []string{"bytes", "connections", "open", "failures", "retransmits", "rtt", "connect"}

func measure(name string) (func(*Edge) uint64, error) {
	switch name {
	case "bytes":
		return func(e *Edge) uint64 { return e.BytesToServer + e.BytesToClient }, nil
	case "connections":
		return func(e *Edge) uint64 { return e.Connections }, nil
	case "open":
		return func(e *Edge) uint64 { return e.Open }, nil
	case "failures":
		return func(e *Edge) uint64 { return e.Failures }, nil
	case "retransmits":
		return func(e *Edge) uint64 { return e.RetransSegs }, nil
	case "rtt":
		return func(e *Edge) uint64 { return e.RttUsP95 }, nil
	case "connect":
		return func(e *Edge) uint64 { return e.ConnectUsP95 }, nil
	}
	return nil, fmt.Errorf("--by %q is unknown: %s", name, strings.Join(measureNames, ", "))
}

// Top writes the edges of a map with the most of something, those that have none of it left out.
func Top(ctx context.Context, c *Client, o MapOptions, by string, n int, now Clock, w io.Writer) error {
	of, err := measure(by)
	if err != nil {
		return err
	}
	if n < 1 {
		return fmt.Errorf("-n %d: at least 1 is needed", n)
	}
	edges, err := c.mapEdges(ctx, o, now)
	if err != nil {
		return err
	}
	edges = slices.DeleteFunc(edges, func(e Edge) bool { return of(&e) == 0 })
	slices.SortStableFunc(edges, func(a, b Edge) int { return cmp.Compare(of(&b), of(&a)) })
	edges = edges[:min(len(edges), n)]
	if o.Format == FormatJSON {
		return writeJSON(edges, w)
	}
	return writeEdges(edges, w)
}

// Exposed is a port of a workload that was reached from outside the internal prefixes.
type Exposed struct {
	Workload    string `json:"workload"`
	Port        uint16 `json:"port"`
	Connections uint64 `json:"connections"`
	Open        uint64 `json:"open"`
	Failures    uint64 `json:"failures"`
	Bytes       uint64 `json:"bytes"`
	FirstSeen   string `json:"first_seen"`
	LastSeen    string `json:"last_seen"`
}

// Exposure writes the ports that were reached from outside.
func Exposure(ctx context.Context, c *Client, o MapOptions, now Clock, w io.Writer) error {
	span, err := parseWindow(o.Since, o.Until, now())
	if err != nil {
		return err
	}
	edges, err := c.edges(ctx, span, now(), edgeFilter{condition: "client_why = 'external' AND server_workload != ''"})
	if err != nil {
		return err
	}
	rows := make([]Exposed, len(edges))
	for i, e := range edges {
		rows[i] = Exposed{e.ServerWorkload, e.ServerPort, e.Connections, e.Open, e.Failures, e.BytesToServer + e.BytesToClient, e.FirstSeen, e.LastSeen}
	}
	if o.Format == FormatJSON {
		return writeJSON(rows, w)
	}
	if len(rows) == 0 {
		return write(w, "no port was reached from outside in this time\n")
	}
	t := newTable(w, []string{"WORKLOAD", "PORT", "CONNECTIONS", "OPEN", "FAILURES", "BYTES", "FIRST SEEN", "LAST SEEN"},
		[]bool{false, true, true, true, true, true, false, false})
	for _, r := range rows {
		t.row(r.Workload, fmt.Sprint(r.Port), fmt.Sprint(r.Connections), fmt.Sprint(r.Open), fmt.Sprint(r.Failures), bytesText(r.Bytes), r.FirstSeen, r.LastSeen)
	}
	return t.flush()
}
