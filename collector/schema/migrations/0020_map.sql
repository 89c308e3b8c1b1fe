-- The edges of an hour once more, without zones, regions, releases, networks and classes: a tenth of the rows, for those who ask only who talks to whom
-- (docs/schema.md). An hour's rows have the gen of its edges_1h_gens, and its row in closed says that they are there: hours computed before this
-- migration have none, and are read from edges_1h_gens.
CREATE TABLE IF NOT EXISTS {{.Database}}.map_1h_gens
(
    hour DateTime('UTC') COMMENT 'start of the hour' CODEC(ZSTD(9)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(9)),
{{.MapColumns}},
    INDEX ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour, 'UTC')
ORDER BY (toDate(hour, 'UTC'), {{.MapKey}}, hour, gen)
TTL hour + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

ALTER TABLE {{.Database}}.closed ADD COLUMN IF NOT EXISTS mapped Bool DEFAULT false COMMENT 'of an hour: map_1h_gens has it too';
