package query

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"
)

// Found is the error of a verb that found what --fail-on names: the answer has been written, and the exit code tells.
type Found struct{ What string }

func (f *Found) Error() string { return f.What }

// ExitCode differs from that of an error: 1.
func (f *Found) ExitCode() int { return 2 }

// ImpactOptions name what is to go.
type ImpactOptions struct {
	Target       string // a workload, an address or a prefix
	Since, Until string
	FailOn       string // open: exit code 2 if connections are open; used: if there were any in the window; "" never
	Format       Format
}

// Dependent is a workload that would miss what goes.
type Dependent struct {
	ClientWorkload string `json:"client_workload"`
	ClientWhy      string `json:"client_why"`
	ServerWorkload string `json:"server_workload"`
	ServerPort     uint16 `json:"server_port"`
	Open           uint64 `json:"open"` // connections that live at the end of the window
	Connections    uint64 `json:"connections"`
	Failures       uint64 `json:"failures"`
	Bytes          uint64 `json:"bytes"`
	LastSeen       string `json:"last_seen"`
}

// Impact writes who uses a workload, an address or a prefix, and how many connections to it are open.
func Impact(ctx context.Context, c *Client, o ImpactOptions, now Clock, w io.Writer) error {
	if o.FailOn != "" && o.FailOn != "open" && o.FailOn != "used" {
		return fmt.Errorf("--fail-on %q is unknown: open or used", o.FailOn)
	}
	span, err := parseWindow(o.Since, o.Until, now())
	if err != nil {
		return err
	}
	rows, err := c.dependents(ctx, o.Target, span, now())
	if err != nil {
		return err
	}
	if o.Format == FormatJSON {
		err = writeJSON(rows, w)
	} else {
		err = writeDependents(o.Target, rows, w)
	}
	if err != nil {
		return err
	}
	var open, used uint64
	for _, r := range rows {
		open, used = open+r.Open, used+r.Connections
	}
	switch {
	case o.FailOn != "" && open > 0:
		return &Found{fmt.Sprintf("%d connections to %s are open", open, printable(o.Target))}
	case o.FailOn == "used" && used > 0:
		return &Found{fmt.Sprintf("%d connections to %s were made in this time", used, printable(o.Target))}
	}
	return nil
}

func (c *Client) dependents(ctx context.Context, target string, span window, now time.Time) ([]Dependent, error) {
	prefix, err := bindPrefix(target)
	if err == nil {
		return c.dependentsOfPrefix(ctx, prefix, span, now)
	}
	network, _, _ := strings.Cut(target, "/")
	if _, e := netip.ParseAddr(network); e == nil {
		return nil, err // 10.0.0.0/33 is no workload either
	}
	edges, err := c.edges(ctx, span, now, edgeFilter{condition: "server_workload = {workload:String}", params: map[string]string{"workload": target}})
	if err != nil {
		return nil, err
	}
	if len(edges) == 0 {
		return nil, c.checkWorkload(ctx, target)
	}
	rows := make([]Dependent, len(edges))
	for i, e := range edges {
		rows[i] = Dependent{e.ClientWorkload, e.ClientWhy, e.ServerWorkload, e.ServerPort, e.Open, e.Connections, e.Failures, e.BytesToServer + e.BytesToClient, e.LastSeen}
	}
	return rows, nil
}

// A connection that both ends recorded counts as its client saw it: the server's records count where there are no client's.
const dependentsSelect = `SELECT client_workload, client_why, server_workload, server_port,
    sumIf(opened, counts) AS connections, sumIf(failed, counts) AS failures, sumIf(bytes, counts) AS bytes,
    sumIf(stands_for, counts AND last_kind = 'active' AND last_end > $alive) AS open, max(last_end) AS last_seen
FROM
(
    SELECT *, side = 'client' OR max(side = 'client') OVER (PARTITION BY network, client_addr, client_port, server_addr, server_port) = 0 AS counts
    FROM
    (
        SELECT
            exporter_id, flow_id, any(role) AS side, any(network) AS network,
            if(side = 'client', any(local_addr), any(remote_addr)) AS client_addr, if(side = 'client', any(local_port), any(remote_port)) AS client_port,
            if(side = 'client', any(remote_addr), any(local_addr)) AS server_addr, if(side = 'client', any(remote_port), any(local_port)) AS server_port,
            argMax(if(role = 'client', (local_workload, toString(local_why)), (remote_workload, toString(remote_why))), (version, record_seq)) AS client,
            client.1 AS client_workload, client.2 AS client_why,
            argMax(if(role = 'client', remote_workload, local_workload), (version, record_seq)) AS server_workload,
            max(toUInt64(connections) * sample_rate) AS stands_for,
            sumIf(toUInt64(connections) * sample_rate, start_observed AND record_seq = 0) AS opened,
            sum(toUInt64(failures) * sample_rate) AS failed, sum((tx_bytes + rx_bytes) * sample_rate) AS bytes,
            argMax(toString(kind), record_seq) AS last_kind, max(end_time_ns) AS last_end
        FROM $database.flows
        WHERE $window AND ((role = 'client' AND remote_addr BETWEEN {first:IPv6} AND {last:IPv6}) OR (role = 'server' AND local_addr BETWEEN {first:IPv6} AND {last:IPv6}))
        GROUP BY exporter_id, flow_id
    )
)
GROUP BY client_workload, client_why, server_workload, server_port
HAVING connections > 0 OR open > 0 OR failures > 0 OR bytes > 0
ORDER BY open DESC, connections DESC, client_workload, server_port`

// dependentsOfPrefix asks the single records: edges know no addresses.
func (c *Client) dependentsOfPrefix(ctx context.Context, prefix []bound, span window, now time.Time) ([]Dependent, error) {
	at := now
	if !span.until.IsZero() && span.until.Before(now) {
		at = span.until
	}
	text := strings.NewReplacer("$database", c.database(), "$window", span.condition("end_time_ns"), "$alive", sqlTime(at.Add(-aliveWithin), "")).Replace(dependentsSelect)
	return collect[Dependent](ctx, c, text, map[string]string{"first": prefix[0].value, "last": prefix[1].value})
}

func writeDependents(target string, rows []Dependent, w io.Writer) error {
	if len(rows) == 0 {
		return write(w, "nobody used "+printable(target)+" in this time\n")
	}
	var open uint64
	clients := map[[2]string]bool{}
	for _, r := range rows {
		open += r.Open
		clients[[2]string{r.ClientWorkload, r.ClientWhy}] = true
	}
	if err := write(w, fmt.Sprintf("%s: %d clients, %d open connections\n\n", printable(target), len(clients), open)); err != nil {
		return err
	}
	t := newTable(w, []string{"CLIENT", "SERVER", "PORT", "OPEN", "CONNECTIONS", "FAILURES", "BYTES", "LAST SEEN"},
		[]bool{false, false, true, true, true, true, true, false})
	for _, r := range rows {
		t.row(endName(r.ClientWorkload, r.ClientWhy), r.ServerWorkload, fmt.Sprint(r.ServerPort), fmt.Sprint(r.Open), fmt.Sprint(r.Connections),
			fmt.Sprint(r.Failures), bytesText(r.Bytes), r.LastSeen)
	}
	return t.flush()
}
