package main

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// powerMost: a power cut may cost a spool what was sealed in the second before it; the sync of that second takes some time itself.
const powerMost = time.Second

// check compares everything that is stored with what was made. Nothing is under way.
func (r *round) check(ctx context.Context) {
	for _, step := range []func(context.Context) error{r.checkReplayed, r.checkEdges, r.checkKafka, r.checkHealth, r.checkBounds} {
		if err := step(ctx); err != nil {
			r.failf("%v", err)
		}
	}
}

// number reads a field of a row of the store; what is none is 0, and then something else is wrong too.
func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

// checkReplayed wants in flows every batch that a spool promised to keep, once, and nothing that nobody made.
func (r *round) checkReplayed(context.Context) error {
	rows, err := r.rows(fmt.Sprintf(`SELECT exporter_id, batch_seq, count(), sum(tx_bytes), sum(rx_bytes), uniqExact(flow_id, record_seq), %s
		FROM flows WHERE local_workload LIKE 'faults/replay-%%' AND end_time_ns >= fromUnixTimestamp64Nano(%d) GROUP BY exporter_id, batch_seq`,
		rowsWrong, r.began.UnixNano()))
	if err != nil {
		return err
	}
	got := map[batchKey]sums{}
	for _, row := range rows {
		got[batchKey{row[0], number(row[1])}] = sums{int(number(row[2])), number(row[3]), number(row[4])}
		if row[2] != row[5] {
			r.failf("flows shows %s rows of batch %s of %s, and %s different ones", row[2], row[1], row[0], row[5])
		}
		if row[6] != "0" {
			r.failf("%s rows of batch %s of %s do not have their bytes", row[6], row[1], row[0])
		}
	}
	r.compare("flows", got)
	for _, o := range r.replayers {
		for key, e := range o.journal.batches {
			if _, ok := got[key]; ok {
				o.stored.rows += e.Rows
				o.stored.tx, o.stored.rx = o.stored.tx+e.Tx, o.stored.rx+e.Rx
			}
		}
	}
	return nil
}

// compare holds what somebody has against the journals.
func (r *round) compare(where string, got map[batchKey]sums) {
	left := maps.Clone(got)
	made, unpromised := 0, 0
	for _, o := range r.replayers {
		for key, e := range o.journal.batches {
			s, ok := got[key]
			delete(left, key)
			made += e.Rows
			switch {
			case ok && s != (sums{e.Rows, e.Tx, e.Rx}):
				r.failf("%s has %+v of %v, which was made as %+v", where, s, key, e)
			case ok:
			case !e.Kept:
				unpromised += e.Rows
			default:
				r.missing(where, o.name, key, e)
			}
		}
	}
	for key, s := range left {
		if strings.HasPrefix(key.Run, "replay-") {
			r.failf("%s has %+v of %v, which nobody made", where, s, key)
		}
	}
	r.note(where+": rows made", float64(made))
	r.note(where+": rows not promised and not there", float64(unpromised))
}

// missing is an error, unless the power went away within a second after the batch was sealed.
func (r *round) missing(where, name string, key batchKey, e entry) {
	r.region.mu.Lock()
	defer r.region.mu.Unlock()
	for _, cut := range r.cuts[name] {
		if age := cut.Sub(time.Unix(0, e.Sealed)); age >= 0 && age <= powerMost+r.syncMost {
			r.noteMost(where+": seconds lost to a power cut", age.Seconds())
			return
		}
	}
	r.failf("%s has nothing of %v, sealed at %s and kept: lost", where, key, time.Unix(0, e.Sealed).Format(time.StampMilli))
}

// checkEdges wants the edges of all rounds so far to be what is in flows, to the byte.
func (r *round) checkEdges(context.Context) error {
	rows, err := r.rows(`SELECT client_workload, sum(e.connections), sum(e.bytes_to_server), sum(e.bytes_to_client) FROM edges_1m AS e
		WHERE client_workload LIKE 'faults/replay-%' GROUP BY client_workload`)
	if err != nil {
		return err
	}
	got := map[string]sums{}
	for _, row := range rows {
		got[row[0]] = sums{int(number(row[1])), number(row[2]), number(row[3])}
	}
	for _, o := range r.replayers {
		if s := got[workloadOf(o.name)]; s != o.stored {
			r.failf("edges of %s are %+v, its records add up to %+v", o.name, s, o.stored)
		}
	}
	return nil
}

// checkKafka wants the same out of Kafka, by the recipe of docs/delivery.md: every batch of a replayer, and of the exporter that captures as many rows and bytes
// as flows has.
func (r *round) checkKafka(ctx context.Context) error {
	got, err := r.topic.read(ctx)
	if err != nil {
		return err
	}
	r.note("kafka: rows seen again", float64(r.topic.repeats))
	r.compare("kafka", got)
	rows, err := r.rows(`SELECT exporter_id, count(), sum(tx_bytes), sum(rx_bytes) FROM flows WHERE local_workload NOT LIKE 'faults/replay-%' GROUP BY exporter_id`)
	if err != nil {
		return err
	}
	for key, s := range got {
		if key.Seq == 0 {
			was := r.consumed[key.Run]
			r.consumed[key.Run] = sums{was.rows + s.rows, was.tx + s.tx, was.rx + s.rx}
		}
	}
	for _, row := range rows {
		if want := (sums{int(number(row[1])), number(row[2]), number(row[3])}); r.consumed[row[0]] != want {
			r.failf("kafka has %+v of %s, flows %+v", r.consumed[row[0]], row[0], want)
		}
	}
	return nil
}

const healthMost = 2 * time.Minute // health is told every five seconds at least, and written every second

// checkHealth wants the ledger to say of every present run what it says itself.
func (r *round) checkHealth(ctx context.Context) error {
	return r.within(ctx, healthMost, func() error {
		for _, o := range r.replayers {
			s := o.status()
			if err := r.health(s.Run, s.Counters); err != nil {
				return err
			}
		}
		s, err := r.sample(live)
		if err != nil {
			return err
		}
		run, err := r.rows(`SELECT argMax(exporter_id, read_time_ns) FROM exporter_health WHERE mapContains(counters, 'probe.ends')`)
		if err != nil {
			return err
		}
		return r.health(run[0][0], map[string]uint64{
			"spool.acked_rows": uint64(s["tributary_exporter_spool_acked_rows_total"]), "filter.kept": uint64(s[`tributary_exporter_filter_records_total{verdict="kept"}`]),
			"spool.appended_rows": uint64(s[`tributary_exporter_spool_taken_rows_total{source="sealed"}`]),
		})
	})
}

func (r *round) health(run string, want map[string]uint64) error {
	rows, err := r.rows(fmt.Sprintf(`SELECT key, argMax(value, read_time_ns) FROM exporter_health ARRAY JOIN mapKeys(counters) AS key, mapValues(counters) AS value
		WHERE exporter_id = '%s' GROUP BY key`, run))
	if err != nil {
		return err
	}
	got := map[string]uint64{}
	for _, row := range rows {
		got[row[0]] = number(row[1])
	}
	for name, n := range want {
		if got[name] != n {
			return fmt.Errorf("exporter_health says %s = %d of %s, which says %d", name, got[name], run, n)
		}
	}
	return nil
}

// checkBounds wants no bound of memory or disk crossed, and nobody dead whom we did not kill.
func (r *round) checkBounds(context.Context) error {
	most, wrong := r.watcher.crossed()
	for _, text := range wrong {
		r.failf("%s", text)
	}
	for what, n := range most {
		r.note(what+", MiB", float64(n>>20))
	}
	return nil
}

func (r *round) note(what string, n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes[what] = n
}

func (r *round) noteMost(what string, n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes[what] = max(r.notes[what], n)
}
