package query

import (
	"context"
	"fmt"
	"io"
	"strings"
)

// Exposed is a port of a workload that is open for more than it need be.
type Exposed struct {
	Exposure    string `json:"exposure"` // outside: reached from outside the internal prefixes; unused: listened on, and used by nobody
	Workload    string `json:"workload"`
	Port        uint16 `json:"port"`
	Connections uint64 `json:"connections"`
	Open        uint64 `json:"open"`
	Failures    uint64 `json:"failures"`
	Bytes       uint64 `json:"bytes"`
	FirstSeen   string `json:"first_seen"` // of unused ones: when it began to listen
	LastSeen    string `json:"last_seen"`  // of unused ones: when a connection was last accepted, '' unknown
	Address     string `json:"address"`    // that is listened on, of unused ones
	Comm        string `json:"comm"`
}

// Exposure writes the ports that were reached from outside, and those that listen and that nobody used in this time.
func Exposure(ctx context.Context, c *Client, o MapOptions, now Clock, w io.Writer) error {
	span, err := parseWindow(o.Since, o.Until, now())
	if err != nil {
		return err
	}
	edges, err := c.edges(ctx, span, now(), edgeFilter{condition: "client_why = 'external' AND server_workload != ''"})
	if err != nil {
		return err
	}
	outside := make([]Exposed, len(edges))
	for i, e := range edges {
		outside[i] = Exposed{
			Exposure: "outside", Workload: e.ServerWorkload, Port: e.ServerPort, Connections: e.Connections, Open: e.Open, Failures: e.Failures,
			Bytes: e.BytesToServer + e.BytesToClient, FirstSeen: e.FirstSeen, LastSeen: e.LastSeen,
		}
	}
	unused, err := c.unused(ctx, span, now)
	if err != nil {
		return err
	}
	if o.Format == FormatJSON {
		return writeJSON(append(outside, unused...), w)
	}
	if err := writeOutside(outside, w); err != nil {
		return err
	}
	return writeUnused(unused, w)
}

// A failed attempt is no use: what refuses is not there, and what listens and does not answer is not used.
const unusedSelect = `SELECT 'unused' AS exposure, local_workload AS workload, local_port AS port, 0 AS connections, 0 AS open, 0 AS failures, 0 AS bytes,
    toString(since_ns) AS first_seen, if(last_accepted_ns = toDateTime64(0, 9), '', toString(last_accepted_ns)) AS last_seen,
    replaceRegexpOne(toString(local_addr), '^::ffff:', '') AS address, comm
FROM $database.listeners
WHERE local_workload != '' AND NOT ($window)
ORDER BY workload, port, address`

// unused returns what listens now and was used by nobody in a window: neither its exporter nor any client saw a connection.
func (c *Client) unused(ctx context.Context, span window, now Clock) ([]Exposed, error) {
	text := strings.NewReplacer("$database", c.database(), "$window", span.condition("last_accepted_ns")).Replace(unusedSelect)
	listeners, err := collect[Exposed](ctx, c, text, nil)
	if err != nil || len(listeners) == 0 {
		return nil, err
	}
	edges, err := c.edges(ctx, span, now(), edgeFilter{condition: "server_workload IN (SELECT local_workload FROM " + c.database() + ".listeners)"})
	if err != nil {
		return nil, err
	}
	type port struct {
		workload string
		port     uint16
	}
	used := map[port]bool{}
	for _, e := range edges {
		if e.Connections > e.Failures || e.Open > 0 {
			used[port{e.ServerWorkload, e.ServerPort}] = true
		}
	}
	rows := listeners[:0]
	for _, l := range listeners {
		if !used[port{l.Workload, l.Port}] {
			rows = append(rows, l)
		}
	}
	return rows, nil
}

func writeOutside(rows []Exposed, w io.Writer) error {
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

func writeUnused(rows []Exposed, w io.Writer) error {
	if len(rows) == 0 {
		return write(w, "\nevery listener that is known was used in this time\n")
	}
	if err := write(w, "\nlistening, and used by nobody in this time:\n\n"); err != nil {
		return err
	}
	t := newTable(w, []string{"WORKLOAD", "PORT", "ADDRESS", "PROGRAM", "LISTENS SINCE", "LAST ACCEPTED"}, []bool{false, true, false, false, false, false})
	for _, r := range rows {
		t.row(r.Workload, fmt.Sprint(r.Port), r.Address, r.Comm, r.FirstSeen, r.LastSeen)
	}
	return t.flush()
}
