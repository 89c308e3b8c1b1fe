-- Every answer says how complete it is: of each reading that needs a few numbers, and all counters of a day of 100 exporters are 95 MB (docs/schema.md).
-- Readings from before get theirs in the background; until then they are made out of the counters when they are read.
ALTER TABLE {{.Database}}.exporter_health
    ADD COLUMN IF NOT EXISTS read_rows UInt64 MATERIALIZED {{.ReadRows}} COMMENT 'of counters: records that the exporter has read' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS lost_rows Map(LowCardinality(String), UInt64) MATERIALIZED {{.LostRows}} COMMENT 'of counters: those of lost records' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_from_ns UInt64 MATERIALIZED counters['gap.from_ns'] COMMENT 'of counters: what the run before did not see' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_to_ns UInt64 MATERIALIZED counters['gap.to_ns'] COMMENT 'of counters: the end of that' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_killed UInt64 MATERIALIZED counters['gap.killed'] COMMENT 'of counters: 1 if the run before was killed' CODEC(ZSTD(1));

ALTER TABLE {{.Database}}.exporter_health
    MATERIALIZE COLUMN read_rows, MATERIALIZE COLUMN lost_rows, MATERIALIZE COLUMN gap_from_ns, MATERIALIZE COLUMN gap_to_ns, MATERIALIZE COLUMN gap_killed;
