-- The ledger of reachability: how the attempts of each path went, by minute (schema/reachability.go). Computed with the edges of the
-- minute, and visible under the same commit.
CREATE TABLE IF NOT EXISTS {{.Database}}.reachability_gens
(
    minute DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
    client_workload LowCardinality(String) COMMENT 'who tried' CODEC(ZSTD(1)),
    server_workload LowCardinality(String) COMMENT 'the owner of the address, or the last one that it had' CODEC(ZSTD(1)),
    server_port UInt16 COMMENT 'the server\'s port' CODEC(ZSTD(1)),
    attempts SimpleAggregateFunction(sum, UInt64) COMMENT 'connections tried; not those given up before an answer was due' CODEC(T64, ZSTD(1)),
    successes SimpleAggregateFunction(sum, UInt64) COMMENT 'of those, established' CODEC(T64, ZSTD(1)),
    replies SimpleAggregateFunction(sum, UInt64) COMMENT 'connections of at most 5 s that brought bytes back' CODEC(T64, ZSTD(1)),
    failures SimpleAggregateFunction(sum, UInt64) COMMENT 'failures of either phase' CODEC(T64, ZSTD(1)),
    failures_by_cause SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'the same by phase and cause: connect.refused, data.reset, …' CODEC(ZSTD(1)),
    sample_rate SimpleAggregateFunction(max, UInt32) COMMENT 'the highest of the records' CODEC(T64, ZSTD(1)),
    last_success SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'start of the last established connection; 1970: none' CODEC(Delta, ZSTD(1)),
    last_failure SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'start of the last one that failed; 1970: none' CODEC(Delta, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute, 'UTC')
ORDER BY (toStartOfHour(minute), client_workload, server_workload, server_port, minute, gen)
TTL minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE OR REPLACE VIEW {{.Database}}.reachability AS
SELECT minute, {{.ReachabilityColumns}}
FROM {{.Database}}.reachability_gens
WHERE (minute, gen) IN (SELECT start, gen FROM {{.Database}}.closed_latest WHERE step = 'minute')
UNION ALL
{{.NewestReachability}};

-- Paths that worked and failed then, every version of each. They are opened and closed by collector/reachability.
CREATE TABLE IF NOT EXISTS {{.Database}}.regressions_raw
(
    id String COMMENT 'one regression of one path' CODEC(ZSTD(1)),
    version UInt64 COMMENT 'the highest is the answer',
    client_workload LowCardinality(String) COMMENT 'who tries',
    server_workload LowCardinality(String) COMMENT 'whom',
    server_port UInt16 COMMENT 'on which port',
    cause_of LowCardinality(String) COMMENT 'what has one cause has the same: server:NAME or client:NAME',
    verdict LowCardinality(String) COMMENT 'no_listener, rejected, dropped, no_answer, listener_overflow, unreachable, reset, no_reply, early_close, no_port, policy',
    explanation String COMMENT 'the verdict in a sentence, with what both ends show' CODEC(ZSTD(1)),
    evidence String COMMENT 'the first failing flows, JSON' CODEC(ZSTD(1)),
    last_success DateTime64(3, 'UTC') COMMENT 'start of the last attempt that went well before it; 1970: longer ago than a day',
    broke_at DateTime64(3, 'UTC') COMMENT 'start of the first failing attempt',
    opened_at DateTime64(3, 'UTC') COMMENT 'when it was found',
    closed_at DateTime64(3, 'UTC') COMMENT 'when it ended; 1970: it lasts',
    closed_why LowCardinality(String) COMMENT 'healed, nobody_tries, client_gone or released; empty: it lasts',
    last_seen DateTime64(3, 'UTC') COMMENT 'start of the last attempt, of either outcome',
    lost_sight Bool COMMENT 'the client\'s exporters are silent: whether it lasts is not known',
    failures UInt64 COMMENT 'failing attempts, while it is young: of five minutes',
    usual_rate Float64 COMMENT 'attempts a minute on the day before',
    least_rx UInt64 COMMENT 'no connection that went well brought back less',
    times UInt32 COMMENT '1; more if the one before had ended less than 10 minutes ago: one more than that had',
    collector LowCardinality(String) COMMENT 'who wrote this version'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY id
TTL toDateTime(opened_at) + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1;

CREATE OR REPLACE VIEW {{.Database}}.regressions AS
SELECT * EXCEPT (version), closed_at = toDateTime64(0, 3, 'UTC') AS open
FROM {{.Database}}.regressions_raw FINAL;

-- Paths of which nobody is told.
CREATE TABLE IF NOT EXISTS {{.Database}}.reachability_silences
(
    id String,
    client_workload String COMMENT 'pattern: * stands for anything',
    server_workload String COMMENT 'pattern',
    server_port UInt16 COMMENT '0: any',
    until DateTime('UTC') COMMENT 'when it ends',
    comment String,
    written DateTime64(3, 'UTC') COMMENT 'the last version of an id is the answer'
)
ENGINE = ReplacingMergeTree(written)
ORDER BY id
TTL until + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1;

-- Which collector judges: of those that were seen lately the one that began first. And who was told what.
CREATE TABLE IF NOT EXISTS {{.Database}}.reachability_judges
(
    collector String COMMENT 'one run of one collector',
    started DateTime64(3, 'UTC') COMMENT 'when it began',
    seen DateTime64(3, 'UTC') COMMENT 'when it last looked, by the clock of the server'
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY collector
TTL toDateTime(seen) + toIntervalDay(1)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS {{.Database}}.alerts_told
(
    target String COMMENT 'alertmanager or webhook, its host, and a hash of the rest of its address',
    alert String COMMENT 'cause_of and when it opened',
    state Enum8('firing' = 1, 'resolved' = 2) COMMENT 'what was said',
    told DateTime64(3, 'UTC') COMMENT 'when it was taken'
)
ENGINE = ReplacingMergeTree(told)
ORDER BY (target, alert, state)
TTL toDateTime(told) + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1;

-- Minutes that were computed without the ledger are computed again, while their records are kept.
INSERT INTO {{.Database}}.touched
SELECT start, toStartOfMinute(toDateTime(now64(3), 'UTC')), max(toDateTime64(now64(3), 3, 'UTC')), 0
FROM {{.Database}}.closed
WHERE step = 'minute' AND start >= now() - toIntervalDay(1)
GROUP BY start;
