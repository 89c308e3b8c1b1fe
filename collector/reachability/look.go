package reachability

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tributary/collector/schema"
)

// Path is what is judged: one workload's way to another's port.
type Path struct {
	Client string `json:"client_workload"`
	Server string `json:"server_workload"`
	Port   uint16 `json:"server_port"`
}

func (p Path) String() string { return fmt.Sprintf("%s → %s:%d", p.Client, p.Server, p.Port) }

// flowRef is a failing flow, as evidence.
type flowRef struct {
	Exporter string    `json:"exporter_id"`
	Flow     uint64    `json:"flow_id"`
	Start    time.Time `json:"start_time"`
	Addr     string    `json:"remote_addr"`
	Cause    string    `json:"cause"`
}

// mixed are attempts of which some went well and some failed.
type mixed struct {
	Good uint64 `json:"good"`
	Bad  uint64 `json:"bad"`
}

// look is what the store shows of one path in the last minutes. Times are nanoseconds since 1970, 0 for none, of when attempts began.
// What failed is counted behind the last success of its phase.
type look struct {
	Path
	ConnectOK    int64             `json:"connect_ok"`
	ConnectFails map[string]uint64 `json:"connect_fails"`
	ConnectFirst int64             `json:"connect_first"`
	DataOK       int64             `json:"data_ok"` // bytes came back
	DataFails    map[string]uint64 `json:"data_fails"`
	DataFirst    int64             `json:"data_first"`
	AtOnce       uint64            `json:"at_once"` // attempts given up as soon as they were made, behind the last success
	AtOnceFirst  int64             `json:"at_once_first"`
	Waited       int64             `json:"waited"` // the longest that one attempt, of either phase, has waited in vain

	// The minute before the last success: how many went well in it, unseen ones too, and how many failed.
	ConnectMixed mixed `json:"connect_mixed"`
	DataMixed    mixed `json:"data_mixed"`

	Established uint64 `json:"established"` // connections, of all that were seen
	Replied     uint64 `json:"replied"`     // of those, with bytes back
	Tried       uint64 `json:"tried"`       // all that were not given up
	RecentOK    uint64 `json:"recent_ok"`   // of the last minute
	RecentFails uint64 `json:"recent_fails"`
	LastFail    int64  `json:"last_fail"`
	LastTry     int64  `json:"last_try"`
	Unowned     uint64 `json:"unowned"` // failing attempts at addresses that have lost their owner
	SampleRate  uint64 `json:"sample_rate"`
	LeastRx     uint64 `json:"least_rx"`

	Exporters []string  `json:"exporters"` // whose records these are
	Flows     []flowRef `json:"flows"`     // the first that failed
}

const (
	// window is how far back single records are read.
	window = 5 * time.Minute
	// settled records are so many times older than a failing path needs to become a regression that they may say what is usual.
	settledTimes = 4
	// usualFor is how long after a regression what was usual before it is remembered.
	usualFor = time.Hour
)

// A connection is judged from all of its records in the window. What it brought back is too little if it is under half of the least that
// a settled one brought: then it ended early, whoever ended it. A connection that was there before the window counts by what it moved in it.
const looks = `WITH $now AS now_ns
SELECT
    client_workload, server_workload, server_port,
    max(ok_connect) AS connect_ok,
    sumMapIf(map(outcome, toUInt64(1)), late_connect) AS connect_fails,
    minIf(at, late_connect) AS connect_first,
    max(ok_data) AS data_ok,
    sumMapIf(map(outcome, toUInt64(1)), late_data) AS data_fails,
    minIf(at, late_data) AS data_first,
    maxIf(seen - start, (late_connect OR late_data) AND outcome IN ('connect.no_answer', 'data.no_reply')) AS waited,
    CAST((sumIf(rate, stood AND at > ok_connect - 60000000000),
        countIf(startsWith(outcome, 'connect.') AND at BETWEEN ok_connect - 60000000000 AND ok_connect)) AS Tuple(good UInt64, bad UInt64)) AS connect_mixed,
    CAST((sumIf(rate, outcome = 'ok' AND at > ok_data - 60000000000),
        countIf(startsWith(outcome, 'data.') AND at BETWEEN ok_data - 60000000000 AND ok_data)) AS Tuple(good UInt64, bad UInt64)) AS data_mixed,
    countIf(stood) AS established, countIf(outcome = 'ok') AS replied, countIf(outcome NOT IN ('given_up', 'at_once')) AS tried,
    countIf(outcome = 'at_once' AND start > ok_connect) AS at_once, minIf(start, outcome = 'at_once' AND start > ok_connect) AS at_once_first,
    countIf(start > now_ns - 60000000000 AND NOT failing AND stood) AS recent_ok,
    countIf(start > now_ns - 60000000000 AND failing) AS recent_fails,
    maxIf(at, failing) AS last_fail, maxIf(start, outcome != 'given_up') AS last_try,
    countIf((late_connect OR late_data) AND owner = '') AS unowned,
    max(rate) AS sample_rate, max(least) AS least_rx,
    groupUniqArray(100)(exporter_id) AS exporters,
    arrayMap(f -> CAST(f AS Tuple(start_time DateTime64(9, 'UTC'), exporter_id String, flow_id UInt64, remote_addr String, cause String)),
        arraySlice(arraySort(groupArrayIf(1000)((fromUnixTimestamp64Nano(start, 'UTC'), toString(exporter_id), flow_id, addr, outcome), late_connect OR late_data)), 1, 5)) AS flows
FROM
(
    SELECT *, startsWith(outcome, 'connect.') AND at > ok_connect AS late_connect, startsWith(outcome, 'data.') AND at > ok_data AS late_data,
        position(outcome, '.') > 0 AS failing
    FROM
    (
        SELECT *, maxIf(start, stood) OVER path AS ok_connect, maxIf(proven, outcome = 'ok') OVER path AS ok_data
        FROM
        (
            SELECT *, multiIf(
                kind = 'failed' AND reason = 'aborted' AND seen - start < 50000000, 'at_once',
                kind = 'failed' AND (reason = 'unknown' OR (reason = 'aborted' AND seen - start < 200000000)), 'given_up',
                NOT stood, 'connect.' || if(reason IN ('refused', 'unreachable', 'no_port', 'policy'), reason, 'no_answer'),
                rx > 0 AND NOT (whole AND kind = 'closed' AND rx * 2 < least AND reason IN ('rst_remote', 'fin_remote', 'fin_local')), 'ok',
                kind = 'closed' AND whole AND reason = 'rst_remote', 'data.reset',
                kind = 'closed' AND whole AND (reason = 'fin_remote' OR rx > 0), 'data.early_close',
                kind = 'closed' AND whole AND tx > 0 AND seen - start > 200000000, 'data.no_reply',
                kind = 'active' AND tx > 0 AND ((whole AND seen - start > 4000000000) OR timeouts > 0), 'data.no_reply',
                kind = 'closed' AND tx > 0 AND reason = 'timeout', 'data.no_reply',
                'empty') AS outcome
            FROM
            (
                SELECT *,
                    if(remembered > 0, remembered, minIf(rx, kind = 'closed' AND whole AND rx > 0 AND start < now_ns - $settled) OVER path) AS least
                FROM
                (
                    SELECT *, if(named != '', named, argMaxIf(named, start, named != '') OVER (PARTITION BY network, addr, server_port)) AS server_workload
                    FROM ($flows)
                ) AS f
                LEFT JOIN ($remembered) AS r USING (client_workload, server_workload, server_port)
                WHERE server_workload != ''
                WINDOW path AS (PARTITION BY client_workload, server_workload, server_port)
            )
        )
        WINDOW path AS (PARTITION BY client_workload, server_workload, server_port)
    )
)
GROUP BY client_workload, server_workload, server_port`

// The connections of the window, each in one row.
const flowsInWindow = `SELECT
    exporter_id, flow_id, any(f.network) AS network, any(f.local_workload) AS client_workload, any(f.remote_port) AS server_port,
    argMax($server, ($server != '', record_seq)) AS served_by,
    argMax(f.remote_workload, record_seq) AS owner,
    served_by AS named,
    replaceOne(toString(any(f.remote_addr)), '::ffff:', '') AS addr,
    toUnixTimestamp64Nano(min(f.start_time_ns)) AS start, toUnixTimestamp64Nano(max(f.end_time_ns)) AS seen,
    min(f.record_seq) = 0 AS whole,
    argMax(toString(f.kind), f.record_seq) AS kind, argMax(toString(f.last_state), f.record_seq) AS state, argMax(toString(f.close_reason), f.record_seq) AS reason,
    kind != 'failed' AND state != 'syn_sent' AS stood,
    sum(f.tx_bytes) AS tx, sum(f.rx_bytes) AS rx, sum(f.rto) AS timeouts, max(f.sample_rate) AS rate,
    greatest(if(whole, start, 0), toUnixTimestamp64Nano(maxIf(f.interval_start_ns, f.rx_bytes > 0))) AS proven,
    if(stood AND NOT whole, seen, start) AS at
FROM $database.flows_raw AS f FINAL
WHERE $condition AND f.kind != 'rollup' AND f.end_time_ns >= fromUnixTimestamp64Nano($now - $window) AND f.end_time_ns < fromUnixTimestamp64Nano($now + 60000000000)
GROUP BY exporter_id, flow_id`

// The least that connections brought back before a path became a regression that is known. It is asked here, not told: there may be more paths than a
// statement can name.
const rememberedSQL = "SELECT client_workload, server_workload, server_port, max(least_rx) AS remembered FROM $database.regressions WHERE $known GROUP BY client_workload, server_workload, server_port"

// lookAll reads all paths of the window.
func (j *Judge) lookAll(ctx context.Context, now time.Time) ([]look, error) {
	text := strings.NewReplacer("$flows", flowsInWindow, "$remembered", rememberedSQL).Replace(looks)
	text = strings.NewReplacer("$condition", schema.PathCondition, "$server", schema.PathServer, "$now", "toInt64("+strconv.FormatInt(now.UnixNano(), 10)+")",
		"$window", nanos(window), "$settled", nanos(settledTimes*j.cfg.OpenAfter), "$known", isKnown(now)).Replace(text)
	found, err := schema.Rows[look](ctx, j.store, j.statement(text))
	if err != nil {
		return nil, fmt.Errorf("look at the paths: %w", err)
	}
	for i := range found {
		found[i].countAtOnce()
	}
	return found, nil
}

// enoughAtOnce attempts that end as soon as they are made, with no success between them, are no whim of the client.
const enoughAtOnce = 8

// countAtOnce makes failures of them. A program that does not wait in connect gets the network's "unreachable" while the kernel still works on the
// socket; the kernel tells the program and forgets it, and the record has no error.
func (l *look) countAtOnce() {
	if l.AtOnce < enoughAtOnce {
		return
	}
	if l.ConnectFails == nil {
		l.ConnectFails = map[string]uint64{}
	}
	if len(l.ConnectFails) == 0 || l.AtOnceFirst < l.ConnectFirst {
		l.ConnectFirst = l.AtOnceFirst
	}
	l.ConnectFails["connect.unreachable"] += l.AtOnce
	l.Tried += l.AtOnce
	l.LastTry = max(l.LastTry, l.AtOnceFirst)
}

func nanos(d time.Duration) string { return strconv.FormatInt(int64(d), 10) }

// statement fills in the database. Texts that name many paths are longer than servers take unasked.
func (j *Judge) statement(text string) schema.Statement {
	return schema.Statement{
		Text:     strings.ReplaceAll(text, "$database", j.store.Server().Database),
		Settings: map[string]string{"max_execution_time": "60", "max_query_size": "16777216"},
	}
}

// literal writes a text as ClickHouse reads it.
func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
