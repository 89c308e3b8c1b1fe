package pairs

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
)

// Config is what a Job needs to know. Zero values mean the defaults.
type Config struct {
	Every     time.Duration // 20 s
	Window    time.Duration // 3 min: how long after the first the second record of a pair may come
	Tolerance time.Duration // 100 ms: by which the clocks of two hosts may differ
	Renamed   func()        // is called after records were renamed; must not block. nil: nobody wants to know
}

func (c Config) withDefaults() Config {
	if c.Every <= 0 {
		c.Every = 20 * time.Second
	}
	if c.Window <= 0 {
		c.Window = 3 * time.Minute
	}
	if c.Tolerance <= 0 {
		c.Tolerance = 100 * time.Millisecond
	}
	return c
}

// Job is the loop. It is inert until Run.
type Job struct {
	cfg    Config
	store  *schema.Client
	log    *slog.Logger
	rows   *prometheus.CounterVec
	errors prometheus.Counter
	took   prometheus.Gauge
}

// What a pair said of a record's remote end: the closed set of the label result.
const (
	agreed    = "agreed"    // the name that it had
	disagreed = "disagreed" // another one
	alone     = "alone"     // it had none
)

// New returns a job on a store whose schema is there. The server's user must be allowed to write.
func New(cfg Config, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Job {
	const prefix = "tributary_collector_pairs_"
	j := &Job{
		cfg: cfg.withDefaults(), store: schema.NewClient(server, 1), log: log.With("component", "pairs"),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "rows_total", Help: "Records joined with their peer's in the store: the name agreed, disagreed (must stay 0), or there was none.",
		}, []string{"result"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "errors_total", Help: "Looks that failed; the next one covers the same records."}),
		took:   prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "look_seconds", Help: "How long the last look took."}),
	}
	for _, result := range []string{agreed, disagreed, alone} {
		j.rows.WithLabelValues(result)
	}
	reg.MustRegister(j.rows, j.errors, j.took)
	return j
}

// Run looks until ctx ends.
func (j *Job) Run(ctx context.Context) {
	defer j.store.Close()
	for {
		// Not all collectors at once.
		timer := time.NewTimer(j.cfg.Every + time.Duration(rand.Int64N(int64(j.cfg.Every)/4+1)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := j.Step(ctx, time.Now()); err != nil && ctx.Err() == nil {
			j.errors.Inc()
			j.log.Error("records are not joined with their peers'; trying again", "reason", err)
		}
	}
}

// recentSQL says whether another collector has just done it.
const recentSQL = `SELECT count() > 0 AS done FROM {database}.renames WHERE job = 'pairs' AND made > now() - {rest:UInt32}`

// Step looks once.
func (j *Job) Step(ctx context.Context, now time.Time) error {
	type recent struct {
		Done uint8 `json:"done"`
	}
	done, err := schema.Rows[recent](ctx, j.store, j.statement(recentSQL, map[string]string{"rest": strconv.Itoa(int(j.cfg.Every / time.Second * 2 / 3))}))
	if err != nil {
		return err
	}
	if len(done) == 1 && done[0].Done != 0 {
		return nil
	}
	return j.look(ctx, now)
}

// stageSQL finds what peers say of themselves, where their exporters may say so: of one that may not the rank of the local evidence is 0. A record may have
// several peers' records (a connection has several); they must agree. By how much an exporter's clock is off, if that is more than 40 ms, widens what is
// taken for one time, as in collector/attribute. Ranks of evidence are those of attribute.version: mirror is 3, in the high bits; the round is 3.
const stageSQL = `INSERT INTO {database}.renames (job, run, exporter_id, flow_id, record_seq, version, remote_workload, remote_instance, remote_zone, remote_region,
    remote_release, remote_evidence, remote_why, was_workload, was_evidence, end_time_ns, network, remote_addr, remote_port, peer_exporter_id)
WITH clocks AS
(
    SELECT exporter_id, abs(min(toUnixTimestamp64Nano(marked_ns) - toUnixTimestamp64Nano(clock_ns))) AS slack
    FROM {database}.ownership
    WHERE received_ns >= fromUnixTimestamp64Nano({clocks:Int64}) AND event != 'hello' AND toUnixTimestamp64Nano(clock_ns) > 0 AND toUnixTimestamp64Nano(marked_ns) > 0
    GROUP BY exporter_id
    HAVING slack > 40000000 AND slack <= 10000000000
),
recent AS
(
    SELECT exporter_id, flow_id, record_seq, version, network, role, ` + schema.KnownAs + `, remote_addr, remote_port, start_time_ns, end_time_ns,
        local_workload, local_instance, local_zone, local_region, local_release, remote_workload, remote_evidence, peer_observed,
        (SELECT CAST((groupArray(exporter_id), groupArray(toInt64(slack))), 'Map(String, Int64)') FROM clocks)[exporter_id] AS slack
    FROM {database}.flows
    WHERE received_time_ns >= fromUnixTimestamp64Nano({since:Int64}) AND end_time_ns >= fromUnixTimestamp64Nano({oldest:Int64})
        AND kind != 'rollup' AND NOT replay AND remote_port != 0 AND local_port != 0
)
SELECT 'pairs', {run:UInt64}, a.exporter_id, a.flow_id, a.record_seq,
    toUInt32(bitOr(bitShiftLeft(toUInt32(3), 28), bitOr(bitAnd(any(a.version), 0x0F000000), 3))),
    any(b.local_workload), any(b.local_instance), any(b.local_zone), any(b.local_region), any(b.local_release), 'mirror', 'named',
    any(a.remote_workload), any(a.remote_evidence), any(a.end_time_ns), any(a.network), any(a.remote_addr), any(a.remote_port), any(b.exporter_id)
FROM (SELECT * FROM recent WHERE peer_observed != 'yes') AS a
INNER JOIN (SELECT * FROM recent WHERE local_workload != '' AND bitAnd(bitShiftRight(version, 24), 15) != 0) AS b
    ON a.network = b.network AND a.known_addr = b.remote_addr AND a.known_port = b.remote_port AND a.remote_addr = b.known_addr AND a.remote_port = b.known_port
WHERE (a.exporter_id, a.flow_id) != (b.exporter_id, b.flow_id) AND (a.role != b.role OR a.role = 'unknown')
    AND b.start_time_ns <= a.end_time_ns + toIntervalNanosecond({tolerance:Int64} + a.slack + b.slack)
    AND b.end_time_ns + toIntervalNanosecond({tolerance:Int64} + a.slack + b.slack) >= a.start_time_ns
GROUP BY a.exporter_id, a.flow_id, a.record_seq
HAVING uniqExact(b.local_workload, b.local_instance) = 1
SETTINGS max_execution_time = 120`

// countSQL says what was found.
const countSQL = `SELECT countIf(was_workload = remote_workload) AS agreed, countIf(was_workload = '') AS alone, count() - agreed - alone AS disagreed
FROM {database}.renames WHERE job = 'pairs' AND run = {run:UInt64}`

type counts struct {
	Agreed    int `json:"agreed"`
	Alone     int `json:"alone"`
	Disagreed int `json:"disagreed"`
}

func (j *Job) look(ctx context.Context, now time.Time) error {
	began := time.Now()
	since := now.Add(-j.cfg.Window)
	params := map[string]string{
		"run": strconv.FormatUint(rand.Uint64(), 10), "since": strconv.FormatInt(since.UnixNano(), 10), "oldest": strconv.FormatInt(since.Add(-time.Hour).UnixNano(), 10),
		"clocks":    strconv.FormatInt(since.Add(-2*time.Minute).UnixNano(), 10), // each exporter's is there once a minute
		"tolerance": strconv.FormatInt(int64(j.cfg.Tolerance), 10),
	}
	if err := j.store.Exec(ctx, j.statement(stageSQL, params)); err != nil {
		return fmt.Errorf("look for pairs: %w", err)
	}
	found, err := schema.Rows[counts](ctx, j.store, j.statement(countSQL, params))
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%d answers where one was expected", len(found))
	}
	if c := found[0]; c != (counts{}) {
		if err := j.store.Exec(ctx, j.statement(insertSQL(), params)); err != nil {
			return fmt.Errorf("write new versions: %w", err)
		}
		if j.cfg.Renamed != nil {
			j.cfg.Renamed()
		}
		j.rows.WithLabelValues(agreed).Add(float64(c.Agreed))
		j.rows.WithLabelValues(alone).Add(float64(c.Alone))
		j.rows.WithLabelValues(disagreed).Add(float64(c.Disagreed))
		if c.Disagreed > 0 {
			j.log.Error("records were named after others than their peers say: see the view disagreements", "records", c.Disagreed)
		}
	}
	j.took.Set(time.Since(began).Seconds())
	return nil
}

// insertSQL copies records under their new versions.
func insertSQL() string {
	names := schema.Names()
	columns := make([]string, len(names))
	for i, name := range names {
		switch name {
		case "version", "remote_workload", "remote_instance", "remote_zone", "remote_region", "remote_release", "remote_evidence", "remote_why":
			columns[i] = "r." + name
		case "peer_observed":
			columns[i] = "'yes'"
		default:
			columns[i] = "f." + name
		}
	}
	return "INSERT INTO {database}.flows_raw (" + strings.Join(names, ", ") + ")\nSELECT " + strings.Join(columns, ", ") + `
FROM (SELECT * FROM {database}.flows
    WHERE received_time_ns >= fromUnixTimestamp64Nano({since:Int64}) AND end_time_ns >= fromUnixTimestamp64Nano({oldest:Int64})
    AND (exporter_id, flow_id, record_seq) IN (SELECT exporter_id, flow_id, record_seq FROM {database}.renames WHERE job = 'pairs' AND run = {run:UInt64})) AS f
INNER JOIN (SELECT * FROM {database}.renames WHERE job = 'pairs' AND run = {run:UInt64}) AS r
    ON f.exporter_id = r.exporter_id AND f.flow_id = r.flow_id AND f.record_seq = r.record_seq
WHERE f.version < r.version`
}

func (j *Job) statement(text string, params map[string]string) schema.Statement {
	return schema.Statement{Text: strings.ReplaceAll(text, "{database}", j.store.Server().Database), Params: params}
}
