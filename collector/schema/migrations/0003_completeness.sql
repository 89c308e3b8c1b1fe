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
{{.Completeness}};

-- The same with the workloads whose connections each exporter recorded: what it lost concerns them. An exporter that recorded nothing in a
-- minute has one row, with workload ''. Its captured, lost and pending are repeated for each workload: add them up in exporter_completeness.
CREATE OR REPLACE VIEW {{.Database}}.completeness AS
SELECT c.minute AS minute, c.exporter_id AS exporter_id, c.host AS host, w.workload AS workload, w.records AS records,
    c.captured AS captured, c.lost AS lost, c.lost_rows AS lost_rows, c.pending AS pending, c.complete AS complete
FROM {{.Database}}.exporter_completeness AS c
LEFT JOIN {{.Database}}.recorded_1m AS w ON w.minute = c.minute AND w.exporter_id = c.exporter_id;
