package query

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"tributary/collector/schema"
)

// Edge is a row of the view edges: what one workload asked of another on one port.
type Edge struct {
	ClientWorkload   string            `json:"client_workload"`
	ClientWhy        string            `json:"client_why"`
	ServerWorkload   string            `json:"server_workload"`
	ServerWhy        string            `json:"server_why"`
	ServerPort       uint16            `json:"server_port"`
	Connections      uint64            `json:"connections"` // opened, failed ones among them
	Failures         uint64            `json:"failures"`
	FailuresByReason map[string]uint64 `json:"failures_by_reason"`
	Unanswered       uint64            `json:"unanswered"` // attempts that still wait
	Open             uint64            `json:"open"`       // connections that live on
	BytesToServer    uint64            `json:"bytes_to_server"`
	BytesToClient    uint64            `json:"bytes_to_client"`
	RetransSegs      uint64            `json:"retrans_segs"`
	RttUsP50         uint64            `json:"rtt_us_p50"`
	RttUsP95         uint64            `json:"rtt_us_p95"`
	ConnectUsP50     uint64            `json:"connect_us_p50"`
	ConnectUsP95     uint64            `json:"connect_us_p95"`
	ServerOnly       uint64            `json:"server_only"`
	FirstSeen        string            `json:"first_seen"`
	LastSeen         string            `json:"last_seen"`
}

const edgesOrder = "\nORDER BY client_workload = '', client_workload, server_workload = '', server_workload, server_port, client_why, server_why"

// edges returns the edges of the records that ended in the window.
func (c *Client) edges(ctx context.Context, w window) ([]Edge, error) {
	return collect[Edge](ctx, c, c.edgesStatement(w), nil)
}

func (c *Client) edgesStatement(w window) string {
	return schema.EdgesSelect(c.server.Database, w.condition("end_time_ns")) + edgesOrder
}

// Map writes the dependency map of the window. In JSON it is the rows of the view edges as they are.
func Map(ctx context.Context, c *Client, since, until string, f Format, now Clock, w io.Writer) error {
	span, err := parseWindow(since, until, now())
	if err != nil {
		return err
	}
	if f == FormatJSON {
		return c.print(ctx, question{statement: c.edgesStatement(span), rfc3339: true}, f, w)
	}
	edges, err := c.edges(ctx, span)
	if err != nil {
		return err
	}
	return writeEdges(edges, w)
}

func writeEdges(edges []Edge, w io.Writer) error {
	if len(edges) == 0 {
		_, err := fmt.Fprintln(w, "no connections were recorded in this time")
		return err
	}
	t := newTable(w, []string{"CLIENT", "SERVER", "PORT", "CONNECTIONS", "OPEN", "FAILURES", "TO SERVER", "TO CLIENT", "RTT P50", "CONNECT P50", "CONNECT P95", "FAILED BY"},
		[]bool{false, false, true, true, true, true, true, true, true, true, true, false})
	for _, e := range edges {
		t.row(endName(e.ClientWorkload, e.ClientWhy), endName(e.ServerWorkload, e.ServerWhy), fmt.Sprint(e.ServerPort),
			fmt.Sprint(e.Connections), fmt.Sprint(e.Open), fmt.Sprint(e.Failures), bytesText(e.BytesToServer), bytesText(e.BytesToClient),
			microsText(e.RttUsP50), microsText(e.ConnectUsP50), microsText(e.ConnectUsP95), failureText(e))
	}
	return t.flush()
}

func failureText(e Edge) string {
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
