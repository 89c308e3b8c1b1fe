package reachability

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"tributary/collector/schema"
)

// usualOver is how far back the ledger says what is usual: over a week, for what runs once a week.
const usualOver = 8 * 24 * time.Hour

// asked is a path of which more is to be known, and since when it fails.
type asked struct {
	Path
	since int64 // ns
}

// askAtOnce bounds the paths of one statement, whose text is bounded by the server: when much fails at once, all of it must be judged.
const askAtOnce = 1000

func pathsLiteral(paths []asked) string {
	rows := make([]string, len(paths))
	for i, p := range paths {
		rows[i] = fmt.Sprintf("(%s, %s, %d, %d)", literal(p.Client), literal(p.Server), p.Port, p.since)
	}
	return "[" + strings.Join(rows, ", ") + "]"
}

const usualSQL = `SELECT client_workload, server_workload, server_port,
    sum(r.attempts) AS attempts, sum(r.successes) AS successes, sum(r.replies) AS replies, sum(r.failures) AS failures,
    uniqIf(minute, r.attempts > 0) AS minutes, max(r.sample_rate) AS sample_rate, toFloat64(toUnixTimestamp64Milli(max(r.last_success))) / 1000 AS last_success
FROM $database.reachability AS r
INNER JOIN
(
    SELECT asked.1 AS client_workload, asked.2 AS server_workload, asked.3 AS server_port, toStartOfMinute(fromUnixTimestamp64Nano(asked.4, 'UTC')) AS broke
    FROM (SELECT arrayJoin($paths) AS asked)
) AS a USING (client_workload, server_workload, server_port)
WHERE minute >= fromUnixTimestamp64Nano($from, 'UTC') AND minute < broke AND (client_workload, server_workload) IN (SELECT asked.1, asked.2 FROM (SELECT arrayJoin($paths) AS asked))
GROUP BY client_workload, server_workload, server_port`

// usual asks the ledger about the time before the paths began to fail.
func (j *Judge) usual(ctx context.Context, paths []asked, now time.Time) (map[Path]usual, error) {
	out := map[Path]usual{}
	for part := range slices.Chunk(paths, askAtOnce) {
		text := strings.NewReplacer("$paths", pathsLiteral(part), "$from", nanos(time.Duration(now.Add(-usualOver).UnixNano()))).Replace(usualSQL)
		found, err := schema.Rows[usual](ctx, j.store, j.statement(text))
		if err != nil {
			return nil, fmt.Errorf("ask what is usual: %w", err)
		}
		for _, u := range found {
			out[u.Path] = u
		}
	}
	return out, nil
}

// A server's side: what the machines of the server recorded on the port since the path fails.
const serverSideSQL = `WITH toUnixTimestamp64Nano(f.start_time_ns) >= a.since AS late, f.remote_workload = a.client_workload AS own, (exporter_id, flow_id) AS flow
SELECT a.client_workload AS client_workload, a.server_workload AS server_workload, a.server_port AS server_port,
    uniqIf(flow, late AND NOT own AND f.tx_bytes > 0) AS answered,
    uniqIf(flow, late AND own) AS from_client,
    uniqIf(flow, late AND own AND f.tx_bytes > 0) AS with_reply,
    uniqIf(flow, NOT f.accepted AND f.kind = 'active' AND toUnixTimestamp64Nano(f.end_time_ns) >= a.since) AS not_accepted,
    countIf(late AND own AND f.close_reason = 'rst_local') AS reset_by_server
FROM $database.flows_raw AS f FINAL
INNER JOIN
(
    SELECT asked.1 AS client_workload, asked.2 AS server_workload, toUInt16(asked.3) AS server_port, asked.4 AS since
    FROM (SELECT arrayJoin($paths) AS asked)
) AS a ON a.server_workload = f.local_workload AND a.server_port = f.local_port
WHERE f.role = 'server' AND NOT f.replay AND f.end_time_ns >= fromUnixTimestamp64Nano($from, 'UTC') AND toUnixTimestamp64Nano(f.end_time_ns) >= a.since
GROUP BY client_workload, server_workload, server_port`

type serverRow struct {
	Path
	Answered      uint64 `json:"answered"`
	FromClient    uint64 `json:"from_client"`
	WithReply     uint64 `json:"with_reply"`
	NotAccepted   uint64 `json:"not_accepted"`
	ResetByServer uint64 `json:"reset_by_server"`
}

// serverSides asks what the servers' ends show of failing paths.
func (j *Judge) serverSides(ctx context.Context, paths []asked, seen sight, now time.Time) (map[Path]serverSide, error) {
	out := map[Path]serverSide{}
	for part := range slices.Chunk(paths, askAtOnce) {
		if err := j.askServers(ctx, part, seen, now, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (j *Judge) askServers(ctx context.Context, paths []asked, seen sight, now time.Time, out map[Path]serverSide) error {
	text := strings.NewReplacer("$paths", pathsLiteral(paths), "$from", nanos(time.Duration(now.Add(-window).UnixNano()))).Replace(serverSideSQL)
	found, err := schema.Rows[serverRow](ctx, j.store, j.statement(text))
	if err != nil {
		return fmt.Errorf("ask the servers' side: %w", err)
	}
	servers := make([]string, len(paths))
	for i, p := range paths {
		servers[i] = p.Server
	}
	machines, err := j.machines(ctx, servers, machinesOver, now)
	if err != nil {
		return err
	}
	listening, err := j.listening(ctx, paths, now)
	if err != nil {
		return err
	}
	for _, p := range paths {
		s := listening[p.Path]
		s.Known = len(machines[p.Server]) > 0
		for _, host := range machines[p.Server] {
			s.Healthy = s.Healthy || seen.heardAfter(host, p.since)
		}
		out[p.Path] = s
	}
	for _, r := range found {
		s := out[r.Path]
		s.Answered, s.FromClient, s.WithReply, s.NotAccepted, s.ResetByServer = r.Answered, r.FromClient, r.WithReply, r.NotAccepted, r.ResetByServer
		out[r.Path] = s
	}
	return nil
}

// listenersOver is longer than the time in which an exporter repeats what it says of a listener.
const listenersOver = 25 * time.Minute

// A listener's counters run on: what it turned away since the path fails is the last word less the last one before.
const listeningSQL = `SELECT client_workload, server_workload, server_port, max(listens) AS listening, sum(more) AS overflows
FROM
(
    SELECT a.client_workload AS client_workload, a.server_workload AS server_workload, a.server_port AS server_port,
        argMax(l.ended_ns = toDateTime64(0, 9, 'UTC'), l.read_time_ns) AS listens,
        max(l.accept_overflows) - argMaxIf(l.accept_overflows, l.read_time_ns, toUnixTimestamp64Nano(l.read_time_ns) < a.since) AS more
    FROM $database.listeners_1m AS l
    INNER JOIN
    (
        SELECT asked.1 AS client_workload, asked.2 AS server_workload, toUInt16(asked.3) AS server_port, asked.4 AS since
        FROM (SELECT arrayJoin($paths) AS asked)
    ) AS a ON a.server_workload = l.local_workload AND a.server_port = l.local_port
    WHERE l.minute >= fromUnixTimestamp64Nano($from, 'UTC')
    GROUP BY client_workload, server_workload, server_port, a.since, l.exporter_id, l.host, l.netns, l.local_addr
)
GROUP BY client_workload, server_workload, server_port`

// listening asks what the servers' exporters say of their listeners.
func (j *Judge) listening(ctx context.Context, paths []asked, now time.Time) (map[Path]serverSide, error) {
	type row struct {
		Path
		Listening uint8 `json:"listening"`
		Overflows int64 `json:"overflows"`
	}
	text := strings.NewReplacer("$paths", pathsLiteral(paths), "$from", nanos(time.Duration(now.Add(-listenersOver).UnixNano()))).Replace(listeningSQL)
	found, err := schema.Rows[row](ctx, j.store, j.statement(text))
	if err != nil {
		return nil, fmt.Errorf("ask for the servers' listeners: %w", err)
	}
	out := map[Path]serverSide{}
	for _, r := range found {
		out[r.Path] = serverSide{Listens: true, Listening: r.Listening == 1, Overflows: uint64(max(0, r.Overflows))}
	}
	return out, nil
}

// machinesOver is for how long a workload is known to be on a machine that recorded it.
const machinesOver = 24 * time.Hour

// machines are the hosts whose exporters recorded a workload in the last hours or minutes.
func (j *Judge) machines(ctx context.Context, workloads []string, over time.Duration, now time.Time) (map[string][]string, error) {
	names := make([]string, len(workloads))
	for i, w := range workloads {
		names[i] = literal(w)
	}
	type row struct {
		Workload string   `json:"workload"`
		Hosts    []string `json:"hosts"`
	}
	found, err := schema.Rows[row](ctx, j.store, j.statement(fmt.Sprintf(
		"SELECT workload, groupUniqArray(1000)(host) AS hosts FROM $database.recorded_1m WHERE minute >= fromUnixTimestamp64Nano(%d, 'UTC') AND workload IN (%s) GROUP BY workload",
		now.Add(-over).UnixNano(), strings.Join(names, ", "))))
	if err != nil {
		return nil, fmt.Errorf("ask for workloads' machines: %w", err)
	}
	out := map[string][]string{}
	for _, r := range found {
		out[r.Workload] = r.Hosts
	}
	return out, nil
}

// sight is what is known of the exporters: when each was heard, and how much of its records of the last minutes is there.
type sight struct {
	hosts    map[string]time.Time
	complete map[string]float64
}

// heardWithin is how old the last word of a healthy exporter may be: it speaks at least every 5 s, and its words are written every second.
const heardWithin = 30 * time.Second

func (s sight) heard(host string, now time.Time) bool { return now.Sub(s.hosts[host]) < heardWithin }

// surelyAfter is by how much a word must be later than a break to be later without doubt: their times are of different clocks.
const surelyAfter = time.Second

// heardAfter says that the exporter of a host, so the host, was alive after a time.
func (s sight) heardAfter(host string, ns int64) bool {
	return s.hosts[host].UnixNano() > ns+int64(surelyAfter)
}

// completeOf is the worst share of the exporters' records that is there. Of one that has never given its counters it is not known: 1.
func (s sight) completeOf(exporters []string) float64 {
	worst := 1.0
	for _, e := range exporters {
		if c, ok := s.complete[e]; ok {
			worst = min(worst, c)
		}
	}
	return worst
}

const sightSQL = `SELECT exporter_id, any(host) AS host, toFloat64(toUnixTimestamp64Nano(max(read_time))) / 1e9 AS heard, sum(c.captured) AS captured, sum(c.lost_rows) AS lost
FROM ($completeness) AS c
LEFT JOIN (SELECT exporter_id, max(read_time_ns) AS read_time FROM $database.exporter_health WHERE minute >= fromUnixTimestamp64Nano($from, 'UTC') GROUP BY exporter_id) AS h USING (exporter_id)
WHERE c.minute >= fromUnixTimestamp64Nano($recent, 'UTC')
GROUP BY exporter_id`

func (j *Judge) sight(ctx context.Context, now time.Time) (sight, error) {
	type row struct {
		Exporter string  `json:"exporter_id"`
		Host     string  `json:"host"`
		Heard    float64 `json:"heard"`
		Captured uint64  `json:"captured"`
		Lost     uint64  `json:"lost"`
	}
	from := now.Add(-3 * window).UnixNano()
	text := strings.NewReplacer("$completeness", schema.CompletenessOf(j.store.Server().Database, fmt.Sprintf("minute >= fromUnixTimestamp64Nano(%d, 'UTC')", from)),
		"$from", fmt.Sprint(from), "$recent", fmt.Sprint(now.Add(-window).UnixNano())).Replace(sightSQL)
	found, err := schema.Rows[row](ctx, j.store, j.statement(text))
	if err != nil {
		return sight{}, fmt.Errorf("ask for the exporters: %w", err)
	}
	s := sight{map[string]time.Time{}, map[string]float64{}}
	for _, r := range found {
		heard := time.Unix(0, int64(r.Heard*1e9))
		if heard.After(s.hosts[r.Host]) {
			s.hosts[r.Host] = heard
		}
		s.complete[r.Exporter] = 1 - float64(min(r.Lost, r.Captured))/float64(max(1, r.Captured))
	}
	return s, nil
}
