package rollup

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tributary/collector/schema"
)

var columns = strings.Join(schema.EdgeColumns(), ", ")

func nano(t time.Time) string { return fmt.Sprintf("fromUnixTimestamp64Nano(%d, 'UTC')", t.UnixNano()) }

func (r *Rollup) database() string { return r.store.Server().Database }

// statement fills in the database. A computation may take longer and be larger than a reader's question.
func (r *Rollup) statement(text string, params map[string]string) schema.Statement {
	return schema.Statement{
		Text: strings.ReplaceAll(text, "$database", r.database()), Params: params,
		Settings: map[string]string{"max_execution_time": "300", "max_insert_threads": "1"},
	}
}

// An hour is over when a minute after it is closed: minutes close in order. It is computed again when its minutes cover something else,
// or were computed after it.
const dueHours = `SELECT toUnixTimestamp(m.hour) AS start, toBool(h.gen > 0) AS again, m.gen AS after
FROM
(
    SELECT toStartOfHour(start) AS hour, sum(c.1) AS rows, sum(c.2) AS versions, max(c.3) AS gen
    FROM (SELECT start, max((rows, versions, gen)) AS c FROM $database.closed WHERE step = 'minute' GROUP BY start)
    GROUP BY hour
) AS m
LEFT JOIN
(
    SELECT start, c.1 AS rows, c.2 AS versions, c.3 AS gen
    FROM (SELECT start, max((rows, versions, gen)) AS c FROM $database.closed WHERE step = 'hour' GROUP BY start)
) AS h ON h.start = m.hour
WHERE m.hour + toIntervalHour(1) <= (SELECT max(start) FROM $database.closed WHERE step = 'minute')
    AND (m.gen > h.gen OR m.rows != h.rows OR m.versions != h.versions) AND m.hour > now('UTC') - toIntervalDay(29)
ORDER BY m.hour
LIMIT 48`

// hours computes the hours whose minutes are closed.
func (r *Rollup) hours(ctx context.Context) error {
	found, err := schema.Rows[due](ctx, r.store, r.statement(dueHours, nil))
	if err != nil {
		return fmt.Errorf("look for hours to compute: %w", err)
	}
	for _, d := range found {
		if err := r.hour(ctx, d); err != nil {
			return fmt.Errorf("edges of the hour %s: %w", d.start().Format(time.RFC3339), err)
		}
	}
	return nil
}

// An hour covers what its minutes cover. Its gen is later than theirs when it was computed after them.
const (
	hourCovered = `SELECT sum(rows) AS rows, sum(versions) AS versions, toString(max(started)) AS started
FROM $database.closed
WHERE step = 'minute' AND toStartOfHour(start) = toDateTime({start:Int64}, 'UTC') AND gen IN (SELECT gen FROM $database.closed_latest WHERE step = 'minute')`
	hourInsert = `INSERT INTO $database.edges_1h_gens (hour, gen, $columns)
SELECT toDateTime({start:Int64}, 'UTC') AS hour, {gen:UInt64} AS gen, $key, $fold
FROM $database.edges_1m_gens AS e
WHERE toStartOfHour(e.minute) = toDateTime({start:Int64}, 'UTC')
    AND (e.minute, e.gen) IN (SELECT start, gen FROM $database.closed_latest WHERE step = 'minute')
GROUP BY $key`
	hourMapInsert = `INSERT INTO $database.map_1h_gens (hour, gen, $columns)
SELECT hour, gen, $key, $fold
FROM $database.edges_1h_gens AS e
WHERE e.hour = toDateTime({start:Int64}, 'UTC') AND e.gen = {gen:UInt64}
GROUP BY hour, gen, $key`
)

func (r *Rollup) hour(ctx context.Context, d due) error {
	began := time.Now()
	params := map[string]string{"start": strconv.FormatInt(d.Start, 10)}
	gen := r.newGen(d.After)
	found, err := schema.Rows[covered](ctx, r.store, r.statement(hourCovered, params))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d answers where one was expected", len(found))
	}
	params["gen"] = strconv.FormatUint(gen, 10)
	text := strings.NewReplacer("$columns", columns, "$key", strings.Join(schema.EdgeKey(), ", "),
		"$fold", schema.FoldEdges("e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)")).Replace(hourInsert)
	toMap := strings.NewReplacer("$columns", strings.Join(schema.MapColumns(), ", "), "$key", strings.Join(schema.MapKey(), ", "), "$fold", schema.FoldMap()).Replace(hourMapInsert)
	for _, insert := range []string{text, toMap} {
		if err := r.store.Exec(ctx, r.statement(insert, params)); err != nil {
			return err
		}
	}
	if err := r.commit(ctx, "hour", d, gen, found[0]); err != nil {
		return err
	}
	r.metrics.computed("hour", d.Again, time.Since(began))
	return nil
}

// tooLate counts what was written to minutes that are frozen.
func (r *Rollup) tooLate(ctx context.Context, now time.Time) error {
	type row struct {
		Rows uint64 `json:"rows"`
	}
	found, err := schema.Rows[row](ctx, r.store, r.statement(`SELECT sum(t.rows) AS rows FROM $database.touched AS t
LEFT JOIN (SELECT start, max(started) AS started FROM $database.closed WHERE step = 'minute' GROUP BY start) AS c ON c.start = t.minute
WHERE t.minute <= toDateTime({frozen:Int64}, 'UTC') AND t.touched > c.started`, map[string]string{"frozen": strconv.FormatInt(r.frozen(now), 10)}))
	if err != nil {
		return fmt.Errorf("count what is too late: %w", err)
	}
	if len(found) == 1 {
		r.metrics.tooLate.Set(float64(found[0].Rows))
	}
	return nil
}

// Replaced computations are removed once an hour, when they and what replaced them are an hour old: whoever is still computing commits long before, and
// whoever has looked up which computations count has read them long since.
const (
	cleanEvery  = time.Hour
	abandonedIn = time.Hour
)

// A period that was computed lately is left as it is, by the collector's clock, which made gen, and by the server's, which made started.
const cleanReplaced = `DELETE FROM $database.$table
WHERE gen < {before:UInt64} AND ($time, gen) NOT IN (SELECT start, gen FROM $database.closed_latest WHERE step = '$step')
    AND $time NOT IN (SELECT start FROM $database.closed WHERE step = '$step' AND (gen >= {before:UInt64} OR started > now64(3) - toIntervalSecond({seconds:UInt32})))`

func (r *Rollup) clean(ctx context.Context, now time.Time) error {
	if r.cleaned.IsZero() {
		r.cleaned = now // not at the start, when there is enough to do
	}
	if now.Sub(r.cleaned) < cleanEvery {
		return nil
	}
	r.cleaned = now
	for _, t := range []struct{ table, time, step string }{
		{"edges_1m_gens", "minute", "minute"},
		{"recorded_1m_gens", "minute", "minute"},
		{"reachability_gens", "minute", "minute"},
		{"edges_1h_gens", "hour", "hour"},
		{"map_1h_gens", "hour", "hour"},
	} {
		text := strings.NewReplacer("$table", t.table, "$time", t.time, "$step", t.step).Replace(cleanReplaced)
		err := r.store.Exec(ctx, r.statement(text, map[string]string{
			"before": strconv.FormatInt(now.Add(-abandonedIn).UnixNano(), 10), "seconds": strconv.Itoa(int(abandonedIn / time.Second)),
		}))
		if err != nil {
			return fmt.Errorf("remove replaced edges: %w", err)
		}
	}
	return nil
}
