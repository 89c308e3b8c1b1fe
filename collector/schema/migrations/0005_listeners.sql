-- What exporters say about listening sockets: the last word of each minute in which one was said. An exporter repeats what does not change
-- every 10 minutes. Counters run since since_ns, as long as the exporter runs.
CREATE TABLE IF NOT EXISTS {{.Database}}.listeners_1m
(
    minute DateTime('UTC') COMMENT 'minute of the reading, by the exporter\'s clock' CODEC(Delta, ZSTD(1)),
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host it runs on' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'address space of local_addr; empty where that is every address' CODEC(ZSTD(1)),
    netns LowCardinality(String) COMMENT 'network namespace: its inode number' CODEC(ZSTD(1)),
    local_addr IPv6 COMMENT 'address that is listened on; ::ffff:0.0.0.0 and :: are every address of the namespace' CODEC(ZSTD(1)),
    local_port UInt16 COMMENT 'port that is listened on' CODEC(ZSTD(1)),
    local_workload LowCardinality(String) COMMENT 'whose it is' CODEC(ZSTD(1)),
    local_instance LowCardinality(String) COMMENT 'instance of local_workload' CODEC(ZSTD(1)),
    local_zone LowCardinality(String) COMMENT 'zone of local_workload' CODEC(ZSTD(1)),
    local_region LowCardinality(String) COMMENT 'region of local_workload' CODEC(ZSTD(1)),
    local_release LowCardinality(String) COMMENT 'release of local_workload' CODEC(ZSTD(1)),
    local_evidence {{.EvidenceType}} COMMENT 'what named it' CODEC(ZSTD(1)),
    local_why {{.WhyType}} COMMENT 'why it has no name' CODEC(ZSTD(1)),
    cgroup_id UInt64 COMMENT 'cgroup (v2) of the process' CODEC(ZSTD(1)),
    pid UInt32 COMMENT 'process that holds the socket, in the first pid namespace: who called listen, or else the first that has it open; 0 unknown' CODEC(ZSTD(1)),
    uid UInt32 COMMENT 'user of the process' CODEC(ZSTD(1)),
    comm LowCardinality(String) COMMENT 'name of the process (at most 15 bytes)' CODEC(ZSTD(1)),
    sockets UInt32 COMMENT 'sockets that share the address and port (SO_REUSEPORT)' CODEC(T64, ZSTD(1)),
    since_ns DateTime64(9, 'UTC') COMMENT 'when it began to listen; where since_observed is false, when the exporter found it' CODEC(ZSTD(1)),
    since_observed Bool COMMENT 'the beginning was seen' CODEC(ZSTD(1)),
    ended_ns DateTime64(9, 'UTC') COMMENT 'when it was seen to have ended, at most 2 s late; 1970: it listens' CODEC(ZSTD(1)),
    last_accepted_ns DateTime64(9, 'UTC') COMMENT 'when the program last accepted a connection, at most 2 s off; 1970: never since since_ns' CODEC(ZSTD(1)),
    accepted UInt64 COMMENT 'connections that the program has accepted' CODEC(T64, ZSTD(1)),
    accept_overflows UInt64 COMMENT 'segments dropped because the accept queue was full: each try of a client counts, so one client may count several times' CODEC(T64, ZSTD(1)),
    syn_overflows UInt64 COMMENT 'SYNs dropped, or answered by a SYN cookie, because the SYN queue was full' CODEC(T64, ZSTD(1)),
    drops UInt64 COMMENT 'segments for the listening socket that the kernel dropped for any reason (sk_drops)' CODEC(T64, ZSTD(1)),
    accept_queue UInt32 COMMENT 'connections that wait to be accepted' CODEC(T64, ZSTD(1)),
    accept_queue_limit UInt32 COMMENT 'how many may wait' CODEC(T64, ZSTD(1)),
    syn_queue UInt32 COMMENT 'handshakes under way' CODEC(T64, ZSTD(1)),
    read_time_ns DateTime64(9, 'UTC') COMMENT 'when the exporter read all this, by its clock' CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(read_time_ns)
PARTITION BY toDate(minute, 'UTC')
ORDER BY (minute, host, netns, local_port, local_addr, exporter_id)
TTL minute + toIntervalDay(7)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- What listens now: the last word of each listener, unless it ended or nothing was said of it for half an hour.
CREATE OR REPLACE VIEW {{.Database}}.listeners AS
SELECT * EXCEPT (minute, ended_ns)
FROM
(
    SELECT * FROM {{.Database}}.listeners_1m
    WHERE minute > now('UTC') - toIntervalMinute(30)
    ORDER BY read_time_ns DESC
    LIMIT 1 BY host, netns, local_addr, local_port
)
WHERE ended_ns = toDateTime64(0, 9, 'UTC');
