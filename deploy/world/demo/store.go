package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// store asks the collector's ClickHouse over its HTTP interface, as any client would.
type store struct{ url string }

// edge is one line of the map. Client and Server are as a screen shows them.
type edge struct {
	client, server       string
	port                 uint16
	connections, failed  uint64
	tx, rx               uint64
	rtt, connect         time.Duration // medians; 0 where nothing was measured
	firstSeen, lastSeen  time.Time
	whyClient, whyServer string
}

// A connection with both ends in scope has two records; the client's counts. A server's record counts where its client has no
// name, because then nobody else speaks for that connection.
const mapSQL = `
SELECT
	if(role = 'client', local_workload, remote_workload) AS client,
	if(role = 'client', remote_workload, local_workload) AS server,
	toString(if(client != '', 'named', if(role = 'client', local_why, remote_why))) AS why_client,
	toString(if(server != '', 'named', if(role = 'client', remote_why, local_why))) AS why_server,
	if(role = 'client', remote_port, local_port) AS port,
	sumIf(connections, record_seq = 0) AS opened,
	sum(failures) AS failed,
	sum(if(role = 'client', tx_bytes, rx_bytes)) AS sent,
	sum(if(role = 'client', rx_bytes, tx_bytes)) AS received,
	ifNotFinite(quantileIf(0.5)(srtt_us, srtt_us > 0), 0) AS rtt,
	ifNotFinite(quantileIf(0.5)(connect_us, connect_us > 0 AND kind != 'failed'), 0) AS connect,
	toUnixTimestamp64Nano(min(start_time_ns)) AS first_seen,
	toUnixTimestamp64Nano(max(end_time_ns)) AS last_seen
FROM tributary.flows
WHERE role != 'unknown' AND (role = 'client' OR remote_workload = '') AND ({network:String} = '' OR network = {network:String})
GROUP BY client, server, why_client, why_server, port
ORDER BY client, server, port
FORMAT TabSeparated`

// edges is the dependency map; network ” is all of them.
func (s store) edges(ctx context.Context, network string) ([]edge, error) {
	rows, err := s.query(ctx, mapSQL, map[string]string{"network": network})
	if err != nil {
		return nil, err
	}
	edges := make([]edge, 0, len(rows))
	for _, row := range rows {
		f := fields{row: row}
		e := edge{client: f.text(0), server: f.text(1), whyClient: f.text(2), whyServer: f.text(3), port: uint16(f.number(4))}
		e.connections, e.failed, e.tx, e.rx = f.number(5), f.number(6), f.number(7), f.number(8)
		e.rtt = time.Duration(f.number(9)) * time.Microsecond
		e.connect = time.Duration(f.number(10)) * time.Microsecond
		e.firstSeen, e.lastSeen = time.Unix(0, int64(f.number(11))), time.Unix(0, int64(f.number(12)))
		if f.err != nil {
			return nil, f.err
		}
		edges = append(edges, e)
	}
	return edges, nil
}

// owner is who answered for an address, and when.
type owner struct {
	workload, instance string
	from, to           time.Time
	connections        uint64
}

const ownersSQL = `
SELECT remote_workload, remote_instance, toUnixTimestamp64Nano(min(start_time_ns)), toUnixTimestamp64Nano(max(end_time_ns)), sumIf(connections, record_seq = 0)
FROM tributary.flows
WHERE remote_addr = toIPv6({address:String}) AND role = 'client' AND network = {network:String} AND remote_workload != ''
GROUP BY remote_workload, remote_instance
ORDER BY min(start_time_ns)
FORMAT TabSeparated`

// owners is the history of an address as the flows to it were named.
func (s store) owners(ctx context.Context, address, network string) ([]owner, error) {
	rows, err := s.query(ctx, ownersSQL, map[string]string{"address": address, "network": network})
	if err != nil {
		return nil, err
	}
	var owners []owner
	for _, row := range rows {
		f := fields{row: row}
		o := owner{workload: f.text(0), instance: f.text(1), connections: f.number(4)}
		o.from, o.to = time.Unix(0, int64(f.number(2))), time.Unix(0, int64(f.number(3)))
		if f.err != nil {
			return nil, f.err
		}
		owners = append(owners, o)
	}
	return owners, nil
}

// query returns rows of text fields.
func (s store) query(ctx context.Context, sql string, params map[string]string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	values := url.Values{}
	for name, value := range params {
		values.Set("param_"+name, value)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/?"+values.Encode(), strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the store: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, fmt.Errorf("ask the store: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the store answers: %s", strings.TrimSpace(string(body)))
	}
	var rows [][]string
	for line := range strings.Lines(string(body)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}

// fields reads the fields of a row and remembers the first error.
type fields struct {
	row []string
	err error
}

func (f *fields) text(i int) string {
	if i >= len(f.row) {
		f.err = fmt.Errorf("the store answers with %d columns, want more than %d", len(f.row), i)
		return ""
	}
	return f.row[i]
}

func (f *fields) number(i int) uint64 {
	text := f.text(i)
	x, err := strconv.ParseFloat(text, 64)
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		return n
	}
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("the store answers %q where a number should be", text)
	}
	return uint64(x)
}
