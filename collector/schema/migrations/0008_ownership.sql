-- What exporters and feeds of assignments said of addresses, as the collectors took it in, in the order of received_ns and seq: claims, releases, and
-- the latest watermark when each was said. Said again in the same order it gives the same table of ranges (`reattribute`). Each collector writes what
-- it was told itself.
CREATE TABLE IF NOT EXISTS {{.Database}}.ownership
(
    received_ns DateTime64(9, 'UTC') COMMENT 'when the collector took it in, by its clock' CODEC(Delta, ZSTD(1)),
    seq UInt64 COMMENT 'order within one run of a collector' CODEC(Delta, ZSTD(1)),
    collector LowCardinality(String) COMMENT 'one run of one collector' CODEC(ZSTD(1)),
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter, or a feed of assignments' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host it runs on' CODEC(ZSTD(1)),
    stream Int64 COMMENT 'number of the stream that it came by; what an older stream says counts no more' CODEC(Delta, ZSTD(1)),
    event Enum8('hello' = 0, 'claim' = 1, 'release' = 2, 'whole_set' = 3, 'repeated_claim' = 4, 'repeated_set' = 5, 'watermark' = 6)
        COMMENT 'whole_set: what was not claimed on this stream has ended; repeated: said again for those who come later' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'address space of addr' CODEC(ZSTD(1)),
    addr IPv6 COMMENT 'the address; IPv4 mapped' CODEC(ZSTD(1)),
    port_from UInt16 COMMENT 'first port; 0: all of them' CODEC(ZSTD(1)),
    port_to UInt16 COMMENT 'last port' CODEC(ZSTD(1)),
    workload LowCardinality(String) COMMENT 'whose it is' CODEC(ZSTD(1)),
    instance LowCardinality(String) COMMENT 'instance of workload' CODEC(ZSTD(1)),
    instance_derived Bool COMMENT 'nobody named the instance' CODEC(ZSTD(1)),
    zone LowCardinality(String) COMMENT 'zone of workload' CODEC(ZSTD(1)),
    region LowCardinality(String) COMMENT 'region of workload' CODEC(ZSTD(1)),
    release LowCardinality(String) COMMENT 'release of workload' CODEC(ZSTD(1)),
    evidence {{.EvidenceType}} COMMENT 'claim or assignment' CODEC(ZSTD(1)),
    at_ns DateTime64(9, 'UTC') COMMENT 'since when (claim), or when it ended (release), by the exporter\'s clock' CODEC(Delta, ZSTD(1)),
    verified_to_ns DateTime64(9, 'UTC') COMMENT 'up to when the exporter had verified its claims when this was said' CODEC(Delta, ZSTD(1)),
    clock_ns DateTime64(9, 'UTC') COMMENT 'the exporter\'s clock when it said so' CODEC(Delta, ZSTD(1)),
    marked_ns DateTime64(9, 'UTC') COMMENT 'when the collector was told of verified_to_ns' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(received_ns, 'UTC')
ORDER BY (toStartOfMinute(received_ns), exporter_id, received_ns, collector, seq)
TTL toDateTime(received_ns) + toIntervalDay(8)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- Names that came late, on their way into flows_raw: by evidence (reattribute), or by the peer's record of the same connection (pairs).
CREATE TABLE IF NOT EXISTS {{.Database}}.renames
(
    job Enum8('reattribute' = 0, 'pairs' = 1) COMMENT 'what found it' CODEC(ZSTD(1)),
    run UInt64 COMMENT 'one statement of the job' CODEC(ZSTD(1)),
    made DateTime('UTC') DEFAULT now() COMMENT 'when' CODEC(ZSTD(1)),
    exporter_id LowCardinality(String) COMMENT 'key of the row' CODEC(ZSTD(1)),
    flow_id UInt64 COMMENT 'key of the row' CODEC(ZSTD(1)),
    record_seq UInt32 COMMENT 'key of the row' CODEC(ZSTD(1)),
    version UInt32 COMMENT 'of the row that is written' CODEC(ZSTD(1)),
    remote_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_instance LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_zone LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_region LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_release LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_evidence {{.EvidenceType}} COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_why {{.WhyType}} COMMENT 'as in flows' CODEC(ZSTD(1)),
    was_workload LowCardinality(String) COMMENT 'remote_workload before' CODEC(ZSTD(1)),
    was_evidence {{.EvidenceType}} COMMENT 'remote_evidence before' CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (job, made, run, exporter_id, flow_id, record_seq)
TTL made + toIntervalDay(1);

-- Records of the last day whose remote end was named after somebody else than the peer says of itself. There should be none.
CREATE OR REPLACE VIEW {{.Database}}.disagreements AS
SELECT made, exporter_id, flow_id, record_seq, was_workload, was_evidence, remote_workload AS peer_workload, remote_instance AS peer_instance
FROM {{.Database}}.renames
WHERE job = 'pairs' AND was_workload != '' AND was_workload != remote_workload;
