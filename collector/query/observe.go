package query

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"tributary/collector/schema"
)

// Clock gives the present time.
type Clock func() time.Time

// ObserveOptions choose flow records.
type ObserveOptions struct {
	Since, Until string // RFC 3339 or -5m; of end_time_ns
	Last         int    // at most so many, the newest; 0 means all
	Follow       bool   // go on with what arrives, until ctx ends
	Filters      Filters
	Format       Format
}

// observed are the fields that a table shows.
type observed struct {
	ExporterID     string `json:"exporter_id"`
	FlowID         uint64 `json:"flow_id"`
	RecordSeq      uint32 `json:"record_seq"`
	EndTime        string `json:"end_time_ns"`
	ReceivedNs     int64  `json:"received_ns"`
	Kind           string `json:"kind"`
	Role           string `json:"role"`
	LocalAddr      string `json:"local_addr"`
	LocalPort      uint16 `json:"local_port"`
	RemoteAddr     string `json:"remote_addr"`
	RemotePort     uint16 `json:"remote_port"`
	LocalWorkload  string `json:"local_workload"`
	LocalWhy       string `json:"local_why"`
	RemoteWorkload string `json:"remote_workload"`
	RemoteWhy      string `json:"remote_why"`
	CloseReason    string `json:"close_reason"`
	LastState      string `json:"last_state"`
	TxBytes        uint64 `json:"tx_bytes"`
	RxBytes        uint64 `json:"rx_bytes"`
	SrttUs         uint64 `json:"srtt_us"`
}

type rowKey struct {
	exporter string
	flow     uint64
	record   uint32
}

// Observe writes flow records, oldest first.
func Observe(ctx context.Context, c *Client, o ObserveOptions, now Clock, w io.Writer) error {
	if o.Last < 0 {
		return fmt.Errorf("--last %d: a number of records is needed", o.Last)
	}
	span, err := parseWindow(o.Since, o.Until, now())
	if err != nil {
		return err
	}
	condition, params, err := o.Filters.sql()
	if err != nil {
		return err
	}
	v := &viewer{client: c, out: w, format: o.Format, condition: condition, params: params, shown: map[rowKey]int64{}}
	limit := ""
	if o.Last > 0 {
		limit = fmt.Sprintf(" LIMIT %d", o.Last)
	}
	var server time.Time
	started := time.Now()
	if o.Follow {
		if server, err = c.now(ctx); err != nil {
			return err
		}
		v.remember = server.Add(-followBack)
	}
	statement := fmt.Sprintf("SELECT * FROM (SELECT %s FROM %s.flows WHERE %s AND (%s) ORDER BY end_time_ns DESC%s) ORDER BY end_time_ns",
		v.columns(), c.database(), span.condition("end_time_ns"), condition, limit)
	if err := v.show(ctx, statement); err != nil {
		return err
	}
	if v.rows == 0 && !o.Follow { // who follows may wait for one that is to come
		if err := c.checkWorkloads(ctx, o.Filters.workloads()); err != nil {
			return err
		}
	}
	if err := v.flush(); err != nil || !o.Follow {
		return err
	}
	return v.follow(ctx, func(local time.Time) time.Time { return server.Add(local.Sub(started)) })
}

// now is the time by the server's clock, which is nearer to those that stamp records than the clock of whoever asks.
func (c *Client) now(ctx context.Context) (time.Time, error) {
	type row struct {
		Now int64 `json:"now"`
	}
	rows, err := collect[row](ctx, c, "SELECT toUnixTimestamp64Nano(now64(9)) AS now", nil)
	if err != nil || len(rows) != 1 {
		return time.Time{}, errors.Join(err, errNoTime)
	}
	return time.Unix(0, rows[0].Now), nil
}

var errNoTime = errors.New("the store does not say what time it is")

// viewer prints rows, each once.
type viewer struct {
	client *Client
	out    io.Writer
	format Format

	condition string // of the filters
	params    map[string]string

	table    *table
	rows     int              // shown
	remember time.Time        // rows that were received since then are asked for again; the zero time: none
	shown    map[rowKey]int64 // those rows, to received_time_ns
}

// columns are those of a table, or in JSON all of the record. received_ns is added for follow.
func (v *viewer) columns() string {
	names := schema.Names()
	return strings.Join(names, ", ") + ", toUnixTimestamp64Nano(received_time_ns) AS received_ns"
}

// Rows of one batch may become visible after those of a later one; follow looks back so far.
const (
	followEvery = time.Second
	followBack  = 30 * time.Second
)

// follow looks for what came since the last look, and a while before it.
func (v *viewer) follow(ctx context.Context, byServer func(time.Time) time.Time) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		looked, from := time.Now(), v.remember
		statement := fmt.Sprintf("SELECT %s FROM %s.flows WHERE received_time_ns >= fromUnixTimestamp64Nano(%d) AND end_time_ns >= fromUnixTimestamp64Nano(%d) AND (%s) ORDER BY end_time_ns",
			v.columns(), v.client.database(), from.UnixNano(), from.Add(-time.Hour).UnixNano(), v.condition)
		if err := errors.Join(v.show(ctx, statement), v.flush()); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		v.remember = byServer(looked).Add(-followBack)
		maps.DeleteFunc(v.shown, func(_ rowKey, received int64) bool { return received < v.remember.UnixNano() })
	}
}

func (v *viewer) show(ctx context.Context, statement string) error {
	return v.client.rows(ctx, statement, v.params, func(line []byte) error {
		var row observed
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("understand the answer: %w", err)
		}
		key := rowKey{row.ExporterID, row.FlowID, row.RecordSeq}
		if _, seen := v.shown[key]; seen {
			return nil
		}
		if !v.remember.IsZero() && row.ReceivedNs >= v.remember.UnixNano() {
			v.shown[key] = row.ReceivedNs
		}
		v.rows++
		if v.format == FormatJSON {
			return v.printJSON(line)
		}
		v.tableRow(row)
		return nil
	})
}

// flush prints what show has held, and the header if there was nothing.
func (v *viewer) flush() error {
	if v.format == FormatJSON {
		return nil
	}
	if v.table == nil {
		v.table = v.newTable()
	}
	return v.table.flush()
}

// printJSON leaves out the helper column, which is the last.
func (v *viewer) printJSON(line []byte) error {
	text := string(line)
	if i := strings.LastIndex(text, `,"received_ns":`); i > 0 {
		text = text[:i] + "}"
	}
	if _, err := fmt.Fprintln(v.out, text); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

func (v *viewer) newTable() *table {
	return newTable(v.out, []string{"END", "KIND", "CLIENT", "", "SERVER", "FROM", "TO", "SENT", "RECEIVED", "RTT", "SEEN BY", "END BY"},
		[]bool{false, false, false, false, false, false, false, true, true, true, false, false})
}

func (v *viewer) tableRow(r observed) {
	if v.table == nil {
		v.table = v.newTable()
	}
	local, remote := endName(r.LocalWorkload, r.LocalWhy), endName(r.RemoteWorkload, r.RemoteWhy)
	localAddr, remoteAddr := endpoint(r.LocalAddr, r.LocalPort), endpoint(r.RemoteAddr, r.RemotePort)
	end := r.CloseReason
	if r.Kind == "active" {
		end = r.LastState
	}
	cells := []string{r.EndTime, r.Kind, local, "→", remote, localAddr, remoteAddr, bytesText(r.TxBytes), bytesText(r.RxBytes), microsText(r.SrttUs), r.Role, end}
	switch r.Role {
	case "server":
		cells[2], cells[4], cells[5], cells[6] = remote, local, remoteAddr, localAddr
	case "unknown":
		cells[3] = "–"
	}
	v.table.row(cells...)
}

// endpoint writes a mapped IPv4 address as IPv4, and IPv6 in brackets.
func endpoint(addr string, port uint16) string {
	if v4, ok := strings.CutPrefix(addr, "::ffff:"); ok {
		return fmt.Sprintf("%s:%d", v4, port)
	}
	return fmt.Sprintf("[%s]:%d", addr, port)
}
