-- Every version of every record. The key holds no name and nothing else that may change, so a row that is named later replaces itself.
-- A sealed record never changes its cgroup_id. It puts the rows of one owner side by side, a tenth less on disk (docs/schema.md).
-- Partitions are UTC days of end_time_ns: the sink cuts its blocks at the same edge.
CREATE TABLE IF NOT EXISTS {{.Database}}.flows_raw
(
{{.Columns}}
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(end_time_ns, 'UTC')
ORDER BY (toStartOfMinute(end_time_ns), exporter_id, cgroup_id, flow_id, record_seq)
TTL {{.TTL}}
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

-- Each record once, in its highest version.
CREATE VIEW IF NOT EXISTS {{.Database}}.flows AS
SELECT
{{.Names}}
FROM {{.Database}}.flows_raw FINAL;
