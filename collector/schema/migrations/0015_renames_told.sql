-- Where a renamed row is, and who its peer is: enough to find it, to tell Kafka of it, and to show a disagreement.
ALTER TABLE {{.Database}}.renames
    ADD COLUMN IF NOT EXISTS end_time_ns DateTime64(9, 'UTC') COMMENT 'as in flows' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS network LowCardinality(String) COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS remote_addr IPv6 COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS remote_port UInt16 COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS peer_exporter_id LowCardinality(String) COMMENT 'whose record the peer\'s is; pairs' CODEC(ZSTD(1));

-- Runs of renames of which Kafka has been told.
CREATE TABLE IF NOT EXISTS {{.Database}}.renames_told
(
    job Enum8('reattribute' = 0, 'pairs' = 1) COMMENT 'as in renames' CODEC(ZSTD(1)),
    run UInt64 COMMENT 'as in renames' CODEC(ZSTD(1)),
    told DateTime('UTC') DEFAULT now() COMMENT 'when' CODEC(ZSTD(1)),
    told_rows UInt64 COMMENT 'how many; the others have got better names meanwhile' CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (job, run)
TTL told + toIntervalDay(2);

CREATE OR REPLACE VIEW {{.Database}}.disagreements AS
SELECT made, exporter_id, flow_id, record_seq, was_workload, was_evidence, remote_workload AS peer_workload, remote_instance AS peer_instance,
    end_time_ns, network, remote_addr, remote_port, peer_exporter_id
FROM {{.Database}}.renames
WHERE job = 'pairs' AND was_workload != '' AND was_workload != remote_workload;
