package rollup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
)

// Config is what a Rollup needs to know. Zero values mean the defaults.
type Config struct {
	Collector  string        // who computes, for the table closed
	Every      time.Duration // between looks for due minutes; 5 s
	CloseAfter time.Duration // a minute is computed so long after its end; 40 s: the longest hold, twice a batch, a block, and their inserts
	RawTTL     time.Duration // of flows_raw; schema.DefaultRawTTL
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.CloseAfter == 0 {
		c.CloseAfter = 40 * time.Second
	}
	if c.RawTTL == 0 {
		c.RawTTL = schema.DefaultRawTTL
	}
	return c
}

const (
	// settle is how long a write may take from its note in touched until it can be read. A minute that was touched less than that before a
	// computation is computed again.
	settle = 15 * time.Second
	// freeze is how long before its records expire a minute is left as it is, or a quarter of their life if that is shorter.
	freeze = time.Hour
	// sliceRows are computed at once: the memory of a computation goes by them.
	sliceRows = 2_000_000
	// passMinutes bound what is done before looking again.
	passMinutes = 60
)

// Rollup is the loop. It is inert until Run.
type Rollup struct {
	cfg     Config
	store   *schema.Client
	log     *slog.Logger
	metrics *metrics
	gens    uint64 // the last one given out
	cleaned time.Time
}

// New returns a roll-up over a store whose schema is there. The server's user must be allowed to write.
func New(cfg Config, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Rollup {
	return &Rollup{cfg: cfg.withDefaults(), store: schema.NewClient(server, 1), log: log.With("component", "rollup"), metrics: newMetrics(reg)}
}

// Run computes what is due until ctx ends. Errors are logged, counted and tried again.
func (r *Rollup) Run(ctx context.Context) {
	defer r.store.Close()
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		r.failed(ctx, "replaced edges not removed; trying again in an hour", r.clean(ctx, now))
		r.failed(ctx, "edges not computed; trying again", r.compute(ctx, now))
	}
}

// failed notes an error, if it is one.
func (r *Rollup) failed(ctx context.Context, what string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	r.metrics.errors.Inc()
	r.log.Error(what, "reason", err)
}

// Step computes what is due at a time: minutes, oldest first, then the hours they complete. Before that it removes what was replaced an hour ago.
func (r *Rollup) Step(ctx context.Context, now time.Time) error {
	return errors.Join(r.clean(ctx, now), r.compute(ctx, now))
}

func (r *Rollup) compute(ctx context.Context, now time.Time) error {
	for {
		due, err := r.dueMinutes(ctx, now)
		if err != nil {
			return err
		}
		for _, d := range due {
			if err := r.minute(ctx, d); err != nil {
				return fmt.Errorf("edges of %s: %w", d.start().Format(time.RFC3339), err)
			}
		}
		if len(due) < passMinutes {
			break
		}
	}
	if err := r.hours(ctx); err != nil {
		return err
	}
	return r.tooLate(ctx, now)
}

// due is a minute or an hour to be computed.
type due struct {
	Start int64  `json:"start"` // unix seconds
	Again bool   `json:"again"`
	After uint64 `json:"after"` // of hours: the newest gen of their minutes
}

func (d due) start() time.Time { return time.Unix(d.Start, 0).UTC() }

// A minute that cannot be computed holds up those that were never computed, so that what is closed has no hole, but not the others.
// Times are compared by the server's clock, which wrote them; now is ours and only says which minutes are over.
const dueMinutes = `SELECT toUnixTimestamp(t.minute) AS start, toBool(toUnixTimestamp(c.start) > 0) AS again
FROM (SELECT minute, max(touched) AS touched FROM $database.touched GROUP BY minute) AS t
LEFT JOIN (SELECT start, max(started) AS started FROM $database.closed WHERE step = 'minute' GROUP BY start) AS c ON c.start = t.minute
WHERE t.minute < toDateTime({closable:Int64}, 'UTC') AND t.minute > toDateTime({frozen:Int64}, 'UTC')
    AND (NOT again OR (t.touched + toIntervalSecond({settle:UInt32}) > c.started AND c.started + toIntervalSecond({settle:UInt32}) <= now64(3)))
ORDER BY again, t.minute
LIMIT {limit:UInt32}`

func (r *Rollup) dueMinutes(ctx context.Context, now time.Time) ([]due, error) {
	out, err := schema.Rows[due](ctx, r.store, r.statement(dueMinutes, map[string]string{
		"closable": strconv.FormatInt(now.Add(-r.cfg.CloseAfter-time.Minute).Unix()+1, 10),
		"frozen":   strconv.FormatInt(r.frozen(now), 10),
		"settle":   strconv.Itoa(int(settle / time.Second)),
		"limit":    strconv.Itoa(passMinutes),
	}))
	if err != nil {
		return nil, fmt.Errorf("look for minutes to compute: %w", err)
	}
	return out, nil
}

// frozen is the last minute whose records may have begun to expire: they go by whole days.
func (r *Rollup) frozen(now time.Time) int64 {
	return now.Add(min(freeze, r.cfg.RawTTL/4) - r.cfg.RawTTL).Unix()
}

// newGen returns a number that no other computation has, and that is higher than those begun before and than another, which may be of a
// collector whose clock is ahead.
func (r *Rollup) newGen(after uint64) uint64 {
	r.gens = max(r.gens+1, after+1, uint64(time.Now().UnixNano()))
	return r.gens
}

type covered struct {
	Rows     uint64 `json:"rows"`
	Versions uint64 `json:"versions"`
	Started  string `json:"started"`
}

const coveredSQL = `SELECT count() AS rows, sum(version) AS versions, toString(now64(3, 'UTC')) AS started
FROM $database.flows_raw FINAL
WHERE end_time_ns >= fromUnixTimestamp64Nano({from:Int64}) AND end_time_ns < fromUnixTimestamp64Nano({to:Int64})`

// minute computes one minute. What it covers is counted first: its rows may cover more than it says, never less.
func (r *Rollup) minute(ctx context.Context, d due) error {
	began := time.Now()
	from, to := d.start(), d.start().Add(time.Minute)
	found, err := schema.Rows[covered](ctx, r.store, r.statement(coveredSQL, map[string]string{
		"from": strconv.FormatInt(from.UnixNano(), 10), "to": strconv.FormatInt(to.UnixNano(), 10),
	}))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d answers where one was expected", len(found))
	}
	gen := r.newGen(d.After)
	if err := r.insertMinute(ctx, from, to, gen, found[0].Rows); err != nil {
		return err
	}
	if err := r.commit(ctx, "minute", d, gen, found[0]); err != nil {
		return err
	}
	r.metrics.computed("minute", d.Again, time.Since(began))
	return nil
}

// insertMinute writes the rows of one computation, by connections where there are too many to hold at once.
func (r *Rollup) insertMinute(ctx context.Context, from, to time.Time, gen, rows uint64) error {
	if rows == 0 {
		return nil
	}
	first, last := nano(from), nano(to)
	slices := rows/sliceRows + 1
	for i := range slices {
		part := schema.Part{Of: slices, Index: i}
		edges := schema.EdgesOf(r.database(), schema.Minute, first, last, part)
		text := fmt.Sprintf("INSERT INTO $database.edges_1m_gens (minute, gen, %s)\nSELECT minute, %d, %s FROM (%s)", columns, gen, columns, edges)
		if err := r.store.Exec(ctx, r.statement(text, nil)); err != nil {
			return err
		}
	}
	for table, also := range map[string]struct{ columns, rows string }{
		"recorded_1m_gens":  {"exporter_id, host, workload, records, unnamed", schema.RecordedOf(r.database(), schema.Minute, first, last)},
		"reachability_gens": {schema.ReachabilityColumns(), schema.ReachabilityOf(r.database(), schema.Minute, first, last)},
	} {
		text := fmt.Sprintf("INSERT INTO $database.%s (minute, gen, %s)\nSELECT minute, %d, %s FROM (%s)", table, also.columns, gen, also.columns, also.rows)
		if err := r.store.Exec(ctx, r.statement(text, nil)); err != nil {
			return err
		}
	}
	return nil
}

// commit makes a computation visible. Those of hours are in map_1h_gens too.
func (r *Rollup) commit(ctx context.Context, step string, d due, gen uint64, c covered) error {
	return r.store.Exec(ctx, r.statement(`INSERT INTO $database.closed (step, start, gen, rows, versions, started, collector, mapped)
SELECT {step:String}, toDateTime({start:Int64}, 'UTC'), {gen:UInt64}, {rows:UInt64}, {versions:UInt64}, toDateTime64({started:String}, 3, 'UTC'), {collector:String}, {step:String} = 'hour'`,
		map[string]string{
			"step": step, "start": strconv.FormatInt(d.Start, 10), "gen": strconv.FormatUint(gen, 10), "rows": strconv.FormatUint(c.Rows, 10),
			"versions": strconv.FormatUint(c.Versions, 10), "started": c.Started, "collector": r.cfg.Collector,
		}))
}
