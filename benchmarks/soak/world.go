package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

type world struct {
	collector, exporter *program
	sql                 string
}

// stop ends the exporter first, so that it can hand over what it has.
func (w *world) stop() {
	w.exporter.end()
	w.collector.end()
}

// readings are those of one program over the time.
type readings map[string][]usage

// watch reads both programs until the time is over.
func (w *world) watch(ctx context.Context, lasts, every time.Duration) (readings, error) {
	out := readings{}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := time.Now()
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		for _, p := range []*program{w.collector, w.exporter} {
			u, err := p.usage()
			if err := errors.Join(p.alive(), err); err != nil {
				return nil, err
			}
			out[p.name] = append(out[p.name], u)
		}
		if time.Since(said) >= time.Minute {
			said = time.Now()
			c, e := last(out[w.collector.name]), last(out[w.exporter.name])
			fmt.Printf("  %s to go: collector %d MiB, %d descriptors; exporter %d MiB, %d descriptors\n", time.Until(end).Round(time.Second),
				c.memory>>20, c.descriptors, e.memory>>20, e.descriptors)
		}
	}
	return out, nil
}

func last(list []usage) usage { return list[len(list)-1] }

const (
	grows = 1.10    // memory of the last quarter over that of the second
	noise = 4 << 20 // that is no growth
)

// judge says what did not stay as it was.
func judge(all readings) error {
	var errs []error
	for name, list := range all {
		if len(list) < 8 {
			errs = append(errs, fmt.Errorf("%s: %d readings are too few to judge", name, len(list)))
			continue
		}
		q := len(list) / 4
		before, after := middle(list[q:2*q]), middle(list[len(list)-q:])
		fmt.Printf("%s: memory %d MiB, then %d MiB; descriptors %d, then %d (medians of the second and the last quarter)\n",
			name, before.memory>>20, after.memory>>20, before.descriptors, after.descriptors)
		if after.memory > before.memory+noise && float64(after.memory) > grows*float64(before.memory) {
			errs = append(errs, fmt.Errorf("%s: the memory grows", name))
		}
		if after.descriptors > before.descriptors+2 { // one of a scrape, one of a file being written
			errs = append(errs, fmt.Errorf("%s: the descriptors grow", name))
		}
	}
	return errors.Join(errs...)
}

func middle(list []usage) usage {
	memory, descriptors := slices.Clone(list), slices.Clone(list)
	slices.SortFunc(memory, func(a, b usage) int { return cmp.Compare(a.memory, b.memory) })
	slices.SortFunc(descriptors, func(a, b usage) int { return cmp.Compare(a.descriptors, b.descriptors) })
	return usage{memory[len(memory)/2].memory, descriptors[len(descriptors)/2].descriptors}
}

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

// losses must be 0.
var losses = []string{
	"tributary_exporter_probe_lost_total", "tributary_exporter_ring_invalid_total", "tributary_exporter_batch_refused_rows_total",
	"tributary_exporter_spool_rejected_rows_total", "tributary_exporter_spool_dropped_rows_total", "tributary_exporter_spool_rolled_up_rows_total",
	"tributary_collector_clickhouse_dropped_rows_total", "tributary_collector_ledger_readings_dropped_total",
}

const quietMost = 90 * time.Second // the kernel lets go of the last connections after a minute

// balance waits for a quiet moment in which every account adds up.
func (w *world) balance(ctx context.Context) error {
	var err error
	for end := time.Now().Add(quietMost); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(200 * time.Millisecond) {
		if err = w.audit(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the books do not balance: %w", err)
}

func (w *world) audit() error {
	before, err := w.sample()
	if err != nil {
		return err
	}
	answer, err := get("http://" + w.sql + "/?database=tributary&query=" + url.QueryEscape("SELECT count() FROM flows"))
	if err != nil {
		return err
	}
	stored, err := strconv.ParseFloat(strings.TrimSpace(answer), 64)
	if err != nil {
		return err
	}
	s, err := w.sample()
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range accounts {
		total := 0.0
		for _, name := range a.out {
			total += s.sum(name)
		}
		if in := s.sum(a.in); in != total || in == 0 {
			errs = append(errs, fmt.Errorf("%s is %v, %s together %v", a.in, in, strings.Join(a.out, " + "), total))
		}
	}
	for _, name := range losses {
		if n := s.sum(name); n != 0 {
			errs = append(errs, fmt.Errorf("%s is %v", name, n))
		}
	}
	const kept = `tributary_exporter_filter_records_total{verdict="kept"}`
	if before.sum(kept) != stored || s.sum(kept) != stored {
		errs = append(errs, fmt.Errorf("%v records were kept, %v are stored", s.sum(kept), stored))
	}
	if len(errs) == 0 {
		fmt.Printf("the books balance: %v records kept and stored, nothing lost\n", stored)
	}
	return errors.Join(errs...)
}

// sample is both programs' metrics by name with labels.
type sample map[string]float64

func (w *world) sample() (sample, error) {
	s := sample{}
	for _, p := range []*program{w.collector, w.exporter} {
		body, err := get("http://" + p.metrics + "/metrics")
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(body) {
			line = strings.TrimSpace(line)
			i := strings.LastIndexByte(line, ' ')
			if i < 0 || strings.HasPrefix(line, "#") {
				continue
			}
			if s[line[:i]], err = strconv.ParseFloat(line[i+1:], 64); err != nil {
				return nil, fmt.Errorf("%s says %q: %w", p.name, line, err)
			}
		}
	}
	return s, nil
}

// sum adds up all series of a metric.
func (s sample) sum(name string) (total float64) {
	for key, v := range s {
		if key == name || strings.HasPrefix(key, name+"{") {
			total += v
		}
	}
	return total
}
