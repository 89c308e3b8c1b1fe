-- The loss ledger: each exporter's own counters, as they stood at its last word of each minute. They count from the start of its run.
CREATE TABLE IF NOT EXISTS {{.Database}}.exporter_health
(
    minute DateTime('UTC') COMMENT 'minute of the reading, by the exporter\'s clock' CODEC(Delta, ZSTD(1)),
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host it runs on' CODEC(ZSTD(1)),
    read_time_ns DateTime64(9, 'UTC') COMMENT 'when it read its counters, by its clock' CODEC(Delta, ZSTD(1)),
    counters Map(LowCardinality(String), UInt64) COMMENT 'name to value, as in the headers of its batches' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(read_time_ns)
PARTITION BY toDate(minute, 'UTC')
ORDER BY (exporter_id, minute)
TTL minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- What each exporter captured and lost, by minute.
CREATE OR REPLACE VIEW {{.Database}}.exporter_completeness AS
SELECT
    minute, exporter_id, host,
    made + lost_before AS captured,
    lost_records AS lost,
    lost_before + lost_after AS lost_rows,
    pending,
    if(captured = 0, 1, 1 - least(captured, lost_rows) / captured) AS complete
FROM
(
    SELECT
        r.minute AS minute, r.exporter_id AS exporter_id, r.host AS host, counters, before,
        arrayFilter(name -> {{.Loss}}, mapKeys(counters)) AS losses,
        toUInt64(greatest(0, toInt64(counters['ring.read'] + counters['ring.walked']) - toInt64(before['ring.read'] + before['ring.walked']))) AS made,
        mapFilter((name, n) -> n > 0, mapFromArrays(arrayMap(name -> toString(name), losses),
            arrayMap(name -> toUInt64(greatest(0, toInt64(counters[name]) - toInt64(before[name]))), losses))) AS lost_records,
        arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'probe.'), lost_records))) AS lost_before,
        arraySum(mapValues(mapFilter((name, n) -> NOT startsWith(name, 'probe.'), lost_records))) AS lost_after,
        toUInt64(greatest(0, toInt64(counters['transport.queued_rows']) - toInt64(counters['transport.acked_rows'])
            - toInt64(counters['transport.rejected_rows']) - toInt64(counters['transport.dropped_rows_queue_full']))) AS pending
    FROM
    (
        SELECT minute, exporter_id, host, counters,
            lagInFrame(counters) OVER (PARTITION BY exporter_id ORDER BY minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS before
        FROM {{.Database}}.exporter_health FINAL
    ) AS r
);

-- The same with the workloads whose connections each exporter recorded: what it lost concerns them. An exporter that recorded nothing in a
-- minute has one row, with workload ''. Its captured, lost and pending are repeated for each workload: add them up in exporter_completeness.
CREATE OR REPLACE VIEW {{.Database}}.completeness AS
SELECT c.minute AS minute, c.exporter_id AS exporter_id, c.host AS host, w.workload AS workload, w.records AS records,
    c.captured AS captured, c.lost AS lost, c.lost_rows AS lost_rows, c.pending AS pending, c.complete AS complete
FROM {{.Database}}.exporter_completeness AS c
LEFT JOIN {{.Database}}.recorded_1m AS w ON w.minute = c.minute AND w.exporter_id = c.exporter_id;
