-- Edges by minute and by hour. A minute's rows are computed whole from flows, under a gen of their own; the row in closed makes a gen
-- visible, and of several the one that covers more is the answer (rows, then the sum of their versions). Whoever reads the tables ..._gens
-- without closed sees unfinished and replaced computations.
CREATE TABLE IF NOT EXISTS {{.Database}}.edges_1m_gens
(
    minute DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
{{.EdgeColumns}}
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute, 'UTC')
ORDER BY (toStartOfHour(minute), {{.EdgeKey}}, minute, gen)
TTL minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS {{.Database}}.edges_1h_gens
(
    hour DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
{{.EdgeColumns}}
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour, 'UTC')
ORDER BY (toDate(hour, 'UTC'), {{.EdgeKey}}, hour, gen)
TTL hour + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- Which exporter recorded how much of which workload: what was lost by an exporter concerns these workloads.
CREATE TABLE IF NOT EXISTS {{.Database}}.recorded_1m_gens
(
    minute DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host it ran on' CODEC(ZSTD(1)),
    workload LowCardinality(String) COMMENT 'local_workload of the records' CODEC(ZSTD(1)),
    records SimpleAggregateFunction(sum, UInt64) COMMENT 'its records' CODEC(T64, ZSTD(1)),
    unnamed SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'of those, without a remote name, by remote_why; external ones have none by nature' CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute, 'UTC')
ORDER BY (toStartOfHour(minute), exporter_id, host, workload, minute, gen)
TTL minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- What has been computed: one row a computation.
CREATE TABLE IF NOT EXISTS {{.Database}}.closed
(
    step Enum8('minute' = 1, 'hour' = 2) COMMENT 'of edges_1m or of edges_1h',
    start DateTime('UTC') COMMENT 'start of the minute or hour',
    gen UInt64 COMMENT 'the computation',
    rows UInt64 COMMENT 'records that it covers',
    versions UInt64 COMMENT 'sum of their versions: a record that is named later raises it',
    started DateTime64(3, 'UTC') COMMENT 'what was stored then is covered',
    collector String COMMENT 'who computed'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(start, 'UTC')
ORDER BY (step, start, gen)
TTL start + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000;

-- Which minutes of flows_raw were written to, and when. A row touches the minutes whose edges it can change: its own, the one before
-- if it lies within 10 s of its end, the one after if within 40 s of its start.
CREATE TABLE IF NOT EXISTS {{.Database}}.touched
(
    minute DateTime('UTC') COMMENT 'start of the minute',
    touched_minute DateTime('UTC') COMMENT 'minute of the writing, by the clock of the server',
    touched SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'the last writing in it',
    rows SimpleAggregateFunction(sum, UInt64) COMMENT 'rows of the minute itself that were written'
)
ENGINE = AggregatingMergeTree
ORDER BY (minute, touched_minute)
TTL touched_minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE MATERIALIZED VIEW IF NOT EXISTS {{.Database}}.touch TO {{.Database}}.touched AS
SELECT
    arrayJoin(arrayDistinct([toStartOfMinute(at), toStartOfMinute(at - toIntervalSecond(10)), toStartOfMinute(at + toIntervalSecond(40))])) AS minute,
    toStartOfMinute(toDateTime(now64(3), 'UTC')) AS touched_minute,
    max(toDateTime64(now64(3), 3, 'UTC')) AS touched,
    sumIf(n, minute = toStartOfMinute(at)) AS rows
FROM (SELECT toDateTime(end_time_ns, 'UTC') AS at, count() AS n FROM {{.Database}}.flows_raw GROUP BY at)
GROUP BY minute, touched_minute;

-- What was there before the roll-ups were.
INSERT INTO {{.Database}}.touched
SELECT toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, toStartOfMinute(toDateTime(now64(3), 'UTC')), max(toDateTime64(now64(3), 3, 'UTC')), 0
FROM {{.Database}}.flows_raw
GROUP BY minute;

-- The computation of each minute and hour that is the answer.
CREATE OR REPLACE VIEW {{.Database}}.closed_latest AS
SELECT c.step AS step, c.start AS start, argMax(c.gen, (c.rows, c.versions, c.gen)) AS gen, max(c.rows) AS rows, max(c.started) AS started
FROM {{.Database}}.closed AS c
GROUP BY step, start;

-- Of a table that is older than these columns.
ALTER TABLE {{.Database}}.flows_raw {{.NatColumns}};

-- Edges by minute: computed ones, and from flows those of the minutes that are not closed yet.
CREATE OR REPLACE VIEW {{.Database}}.edges_1m AS
SELECT minute, {{.EdgeNames}}
FROM {{.Database}}.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestEdges}};

-- Edges by hour: computed ones, and from edges_1m those of the hours that are not closed yet.
CREATE OR REPLACE VIEW {{.Database}}.edges_1h AS
SELECT hour, {{.EdgeNames}}
FROM {{.Database}}.edges_1h_gens
WHERE (hour, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'hour')
UNION ALL
SELECT toStartOfHour(e.minute) AS hour, {{.EdgeKey}}, {{.FoldEdges}}
FROM {{.Database}}.edges_1m AS e
WHERE e.minute >= (SELECT max(start) + toIntervalHour(count() > 0) FROM {{.Database}}.closed WHERE step = 'hour')
GROUP BY hour, {{.EdgeKey}};

-- Who talks to what, over all minutes that are kept. open and unanswered are those of the last two minutes.
CREATE OR REPLACE VIEW {{.Database}}.edges AS
SELECT
    client_workload, client_why, server_workload, server_why, server_port,
    {{.ShowEdges}},
    sumIf(e.open, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS open,
    sumIf(e.unanswered, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS unanswered
FROM {{.Database}}.edges_1m AS e
GROUP BY client_workload, client_why, server_workload, server_why, server_port;

CREATE OR REPLACE VIEW {{.Database}}.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM {{.Database}}.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestRecorded}};

-- Every workload that was a client or a server of a connection, while edges are kept.
CREATE OR REPLACE VIEW {{.Database}}.workloads AS
SELECT
    end.1 AS workload,
    groupUniqArrayIf(end.2, end.2 != '') AS zones,
    groupUniqArrayIf(end.3, end.3 != '') AS regions,
    groupUniqArrayIf(end.4, end.4 != '') AS releases,
    sumIf(e.connections, end.5) AS connections_as_client,
    sumIf(e.connections, NOT end.5) AS connections_as_server,
    min(e.first_seen) AS first_seen,
    max(e.last_seen) AS last_seen
FROM
(
    SELECT
        arrayJoin([(client_workload, client_zone, client_region, client_release, true), (server_workload, server_zone, server_region, server_release, false)]) AS end,
        connections, first_seen, last_seen
    FROM {{.Database}}.edges_1h
) AS e
WHERE end.1 != ''
GROUP BY workload;
