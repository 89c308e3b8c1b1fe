package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"tributary/deploy/world"
)

// An account is in = the sum of out.
type account struct {
	in  string
	out []string
}

var accounts = []account{
	{"tributary_exporter_ring_records_total", []string{"tributary_exporter_event_decoded_total", "tributary_exporter_ring_invalid_total"}},
	{`tributary_exporter_filter_records_total{verdict="kept"}`, []string{
		"tributary_exporter_batch_sealed_rows_total", "tributary_exporter_batch_open_rows", "tributary_exporter_batch_refused_rows_total",
	}},
	{"tributary_exporter_spool_taken_rows_total", []string{
		"tributary_exporter_spool_acked_rows_total", "tributary_exporter_spool_rejected_rows_total", "tributary_exporter_spool_dropped_rows_total",
		"tributary_exporter_spool_rolled_up_rows_total", "tributary_exporter_spool_pending_rows",
	}},
	{`tributary_collector_ingest_rows_total{result="accepted"}`, []string{"tributary_collector_ingest_acked_rows_total", "tributary_collector_ingest_pending_rows"}},
	{"tributary_collector_clickhouse_received_rows_total", []string{
		"tributary_collector_clickhouse_written_rows_total", "tributary_collector_clickhouse_pending_rows", "tributary_collector_clickhouse_dropped_rows_total",
	}},
}

// losses are what must be 0, and whose it is.
var losses = []string{
	"tributary_exporter_probe_lost_total", "tributary_exporter_ring_invalid_total", "tributary_exporter_batch_refused_rows_total",
	"tributary_exporter_spool_rejected_rows_total", "tributary_exporter_spool_dropped_rows_total", "tributary_exporter_spool_rolled_up_rows_total",
	"tributary_collector_clickhouse_dropped_rows_total", "tributary_collector_ledger_readings_dropped_total",
}

const (
	kept = `tributary_exporter_filter_records_total{verdict="kept"}`
	// notRecorded is what the kernel had and no record tells of: an end of a connection, at most, for each.
	notRecorded = "tributary_exporter_probe_lost_total"
)

const quietMost = 90 * time.Second // the kernel lets go of the last connections after a minute

// balance waits for a quiet moment in which every account adds up, and says then what was lost: books can be right about a loss.
func (r *rig) balance(ctx context.Context, l *load) error {
	var err error
	for end := time.Now().Add(quietMost); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		var s world.Metrics
		if s, err = r.audit(l); err == nil {
			return lost(s)
		}
	}
	return fmt.Errorf("the books do not balance: %w", errors.Join(err, ctx.Err()))
}

// audit compares what the programs count with what the store has. The sample is of the same moment if there is no error.
func (r *rig) audit(l *load) (world.Metrics, error) {
	before, err := r.sample()
	if err != nil {
		return nil, err
	}
	port := l.port()
	answer, err := r.place.get("http://" + r.sql + "/?database=tributary&query=" + url.QueryEscape(fmt.Sprintf(
		`SELECT count(), countIf(opened AND role = 'client' AND remote_port = %d), countIf(opened AND role = 'server' AND local_port = %d)
			FROM (SELECT *, start_observed AND record_seq = 0 AND kind != 'failed' AS opened FROM flows)`, port, port)))
	if err != nil {
		return nil, err
	}
	var stored, clients, servers float64
	if _, err := fmt.Sscan(answer, &stored, &clients, &servers); err != nil {
		return nil, fmt.Errorf("the store says %q: %w", answer, err)
	}
	s, err := r.sample()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range accounts {
		total := 0.0
		for _, name := range a.out {
			total += s.Sum(name)
		}
		if in := s.Sum(a.in); in != total || in == 0 {
			errs = append(errs, fmt.Errorf("%s is %v, %s together %v", a.in, in, strings.Join(a.out, " + "), total))
		}
	}
	if before.Sum(kept) != stored || s.Sum(kept) != stored {
		errs = append(errs, fmt.Errorf("%v records were kept, %v are stored", s.Sum(kept), stored))
	}
	opened := float64(l.connected.Load())
	missing := max(0, opened-clients) + max(0, opened-servers)
	if clients > opened || servers > opened || missing > s.Sum(notRecorded) {
		errs = append(errs, fmt.Errorf("%v connections were made; the store has the client's end of %v, the server's of %v, and %v records are counted as lost before they were kept",
			opened, clients, servers, s.Sum(notRecorded)))
	}
	if len(errs) == 0 {
		fmt.Printf("the books balance: %v records kept and stored; of %v connections %v ends are missing\n", stored, opened, missing)
	}
	return s, errors.Join(errs...)
}

// lost says what was lost.
func lost(s world.Metrics) error {
	var errs []error
	for _, name := range losses {
		if s.Sum(name) == 0 {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(s)) {
			if s[key] != 0 && (key == name || strings.HasPrefix(key, name+"{")) {
				errs = append(errs, fmt.Errorf("lost: %s is %v", key, s[key]))
			}
		}
	}
	return errors.Join(errs...)
}

// sample is both programs' metrics.
func (r *rig) sample() (world.Metrics, error) {
	both := world.Metrics{}
	for _, p := range []*program{r.collector, r.exporter} {
		body, err := r.place.get("http://" + p.metrics + "/metrics")
		if err != nil {
			return nil, err
		}
		s, err := world.ParseMetrics(body)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		maps.Copy(both, s)
	}
	return both, nil
}
