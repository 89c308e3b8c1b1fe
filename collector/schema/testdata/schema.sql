-- migration 1: flows

-- Every version of every record. The key holds no name and nothing else that may change, so a row that is named later replaces itself.
-- A sealed record never changes its cgroup_id. It puts the rows of one owner side by side, a tenth less on disk (docs/schema.md).
-- Partitions are UTC days of end_time_ns: the sink cuts its blocks at the same edge.
CREATE TABLE IF NOT EXISTS tributary.flows_raw
(
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter; with flow_id and record_seq the row\'s key' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host the exporter ran on' CODEC(ZSTD(1)),
    boot_id LowCardinality(String) COMMENT 'one boot of that host' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'address space of both addresses, of translated ones as the remote end knows them: equal addresses in different networks are different machines' CODEC(ZSTD(1)),
    comm LowCardinality(String) COMMENT 'name of the process (at most 15 bytes) that opened, accepted or closed the socket' CODEC(ZSTD(1)),
    netns LowCardinality(String) COMMENT 'network namespace of the socket: its inode number, as in /proc/PID/ns/net' CODEC(ZSTD(1)),
    flow_id UInt64 COMMENT 'one end of one connection; counts up within exporter_id' CODEC(T64, ZSTD(1)),
    record_seq UInt32 COMMENT 'number of the record within its flow, from 0' CODEC(T64, ZSTD(1)),
    batch_seq UInt64 COMMENT 'the batch that carried the row; counts up within exporter_id, from 1' CODEC(Delta, ZSTD(1)),
    sock_cookie UInt64 COMMENT 'the kernel\'s number of the socket, unique for a boot' CODEC(T64, ZSTD(1)),
    cgroup_id UInt64 COMMENT 'cgroup (v2) of the socket\'s owner' CODEC(ZSTD(1)),
    version UInt32 COMMENT 'rank of the evidence of both ends in the high bits, then a counter; of rows with the same key the highest version is the answer' CODEC(T64, ZSTD(1)),
    kind Enum8('unknown' = 0, 'active' = 1, 'closed' = 2, 'failed' = 3, 'rollup' = 4) COMMENT 'active: the connection lives on, counters since the record before; closed: its end; failed: never established; rollup: stands for several connections' CODEC(ZSTD(1)),
    role Enum8('unknown' = 0, 'client' = 1, 'server' = 2) COMMENT 'whether the local end opened the connection (client) or accepted it (server)' CODEC(ZSTD(1)),
    role_source Enum8('observed' = 0, 'guessed' = 1) COMMENT 'observed: the opening was seen; guessed: the socket was older than the exporter' CODEC(ZSTD(1)),
    close_reason Enum8('unknown' = 0, 'fin_local' = 1, 'fin_remote' = 2, 'rst_local' = 3, 'rst_remote' = 4, 'timeout' = 5, 'refused' = 6, 'unreachable' = 7, 'no_port' = 8, 'policy' = 9, 'keepalive' = 10, 'aborted' = 11) COMMENT 'what ended the connection or the attempt' CODEC(ZSTD(1)),
    last_state Enum8('unknown' = 0, 'established' = 1, 'syn_sent' = 2, 'syn_recv' = 3, 'fin_wait1' = 4, 'fin_wait2' = 5, 'time_wait' = 6, 'close' = 7, 'close_wait' = 8, 'last_ack' = 9, 'listen' = 10, 'closing' = 11, 'new_syn_recv' = 12) COMMENT 'TCP state before CLOSE; of an active record, the present state' CODEC(ZSTD(1)),
    sample_rate UInt32 DEFAULT 1 COMMENT '1: every connection is recorded; N: the row stands for N connections like it' CODEC(T64, ZSTD(1)),
    connections UInt32 DEFAULT 1 COMMENT '1; in rollups the number of connections' CODEC(T64, ZSTD(1)),
    failures UInt32 COMMENT '1 in failed records, else 0; in rollups the number of failed connections' CODEC(T64, ZSTD(1)),
    start_time_ns DateTime64(9) COMMENT 'start of the connection: of a client its first SYN, of a server ESTABLISHED minus the round trip of the SYN-ACK' CODEC(ZSTD(1)),
    interval_start_ns DateTime64(9) COMMENT 'start of the interval the row\'s counters cover' CODEC(T64, ZSTD(1)),
    end_time_ns DateTime64(9) COMMENT 'end of the interval; in closed and failed records the end of the connection; decides partition and minute' CODEC(T64, ZSTD(1)),
    received_time_ns DateTime64(9) COMMENT 'when the collector took the batch in, by its clock' CODEC(ZSTD(1)),
    local_addr IPv6 COMMENT 'the local end\'s address; IPv4 mapped (::ffff:a.b.c.d)' CODEC(ZSTD(1)),
    remote_addr IPv6 COMMENT 'the remote end\'s address; IPv4 mapped' CODEC(ZSTD(1)),
    orig_remote_addr IPv6 COMMENT 'the address the program asked for, where NAT or a virtual address changed it' CODEC(ZSTD(1)),
    nat_local_addr IPv6 COMMENT 'the local end\'s address as the remote end knows it, where NAT on this host changed it and the remote end is on another host' CODEC(ZSTD(1)),
    local_port UInt16 COMMENT 'the local end\'s port' CODEC(T64, ZSTD(1)),
    remote_port UInt16 COMMENT 'the remote end\'s port' CODEC(ZSTD(1)),
    orig_remote_port UInt16 COMMENT 'the port the program asked for, where NAT or a virtual address changed it' CODEC(T64, ZSTD(1)),
    nat_local_port UInt16 COMMENT 'the local end\'s port as the remote end knows it, where nat_local_addr says so; else 0' CODEC(T64, ZSTD(1)),
    tx_bytes UInt64 COMMENT 'payload bytes sent in the interval, without retransmissions, SYN and FIN' CODEC(T64, ZSTD(1)),
    rx_bytes UInt64 COMMENT 'payload bytes received in the interval, without SYN and FIN' CODEC(T64, ZSTD(1)),
    tx_bytes_before UInt64 COMMENT 'payload bytes sent before the exporter found the connection; in its first record only; never part of sums' CODEC(T64, ZSTD(1)),
    rx_bytes_before UInt64 COMMENT 'payload bytes received before the exporter found the connection; in its first record only; never part of sums' CODEC(T64, ZSTD(1)),
    tx_segs UInt32 COMMENT 'segments sent in the interval, all kinds' CODEC(T64, ZSTD(1)),
    rx_segs UInt32 COMMENT 'segments received in the interval, all kinds' CODEC(T64, ZSTD(1)),
    retrans_segs UInt32 COMMENT 'segments sent again in the interval' CODEC(T64, ZSTD(1)),
    retrans_syn UInt32 COMMENT 'SYN or SYN-ACK segments sent again' CODEC(T64, ZSTD(1)),
    retrans_closing UInt32 COMMENT 'segments sent again after the connection began to close' CODEC(T64, ZSTD(1)),
    retrans_bytes UInt32 COMMENT 'payload bytes sent again in the interval' CODEC(T64, ZSTD(1)),
    lost_segs UInt32 COMMENT 'segments the kernel took for lost in the interval' CODEC(T64, ZSTD(1)),
    reord_seen UInt32 COMMENT 'reorderings the kernel noticed in the interval' CODEC(T64, ZSTD(1)),
    delivered_ce UInt32 COMMENT 'segments acknowledged with a congestion mark (ECN) in the interval' CODEC(T64, ZSTD(1)),
    rst_sent UInt32 COMMENT 'resets sent on the connection' CODEC(T64, ZSTD(1)),
    rst_received UInt32 COMMENT 'resets received on the connection' CODEC(T64, ZSTD(1)),
    rto UInt32 COMMENT 'retransmission timeouts in the interval' CODEC(T64, ZSTD(1)),
    srtt_us UInt32 COMMENT 'smoothed round trip time at the end of the interval, microseconds' CODEC(T64, ZSTD(1)),
    min_rtt_us UInt32 COMMENT 'least round trip time in the kernel\'s window (5 min by default), microseconds' CODEC(T64, ZSTD(1)),
    rttvar_us UInt32 COMMENT 'variation of the round trip time, microseconds' CODEC(T64, ZSTD(1)),
    connect_us UInt32 COMMENT 'time to connect as the client saw it, retransmitted SYNs included, microseconds; clients only' CODEC(T64, ZSTD(1)),
    busy_us UInt32 COMMENT 'time in the interval with data to send, microseconds' CODEC(T64, ZSTD(1)),
    rwnd_limited_us UInt32 COMMENT 'time in the interval limited by the peer\'s receive window, microseconds' CODEC(T64, ZSTD(1)),
    sndbuf_limited_us UInt32 COMMENT 'time in the interval limited by the send buffer, microseconds' CODEC(T64, ZSTD(1)),
    snd_cwnd UInt32 COMMENT 'congestion window at the end of the interval, segments' CODEC(T64, ZSTD(1)),
    mss UInt32 COMMENT 'largest payload of a segment sent, bytes' CODEC(T64, ZSTD(1)),
    start_observed Bool COMMENT 'the opening of the connection was seen; with record_seq 0 the row counts one opened connection' CODEC(ZSTD(1)),
    accepted Bool COMMENT 'a server\'s connection that the program has accepted' CODEC(ZSTD(1)),
    replay Bool COMMENT 'the row comes from a recording' CODEC(ZSTD(1)),
    errno UInt16 COMMENT 'Linux error number of the end of the connection (111 is ECONNREFUSED)' CODEC(T64, ZSTD(1)),
    pid UInt32 COMMENT 'process that opened, accepted or closed the socket' CODEC(ZSTD(1)),
    uid UInt32 COMMENT 'user of that process' CODEC(ZSTD(1)),
    local_workload LowCardinality(String) COMMENT 'workload that owned the local end, namespace/name' CODEC(ZSTD(1)),
    local_instance LowCardinality(String) COMMENT 'instance of that workload: pod UID, container id or host id' CODEC(ZSTD(1)),
    local_zone LowCardinality(String) COMMENT 'zone of the local end' CODEC(ZSTD(1)),
    local_region LowCardinality(String) COMMENT 'region of the local end' CODEC(ZSTD(1)),
    local_release LowCardinality(String) COMMENT 'release of the local workload' CODEC(ZSTD(1)),
    remote_workload LowCardinality(String) COMMENT 'workload that owned the remote end at interval_start_ns; empty where that is not certain' CODEC(ZSTD(1)),
    remote_instance LowCardinality(String) COMMENT 'instance of that workload' CODEC(ZSTD(1)),
    remote_zone LowCardinality(String) COMMENT 'zone of the remote end' CODEC(ZSTD(1)),
    remote_region LowCardinality(String) COMMENT 'region of the remote end' CODEC(ZSTD(1)),
    remote_release LowCardinality(String) COMMENT 'release of the remote workload' CODEC(ZSTD(1)),
    local_evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'what named the local end' CODEC(ZSTD(1)),
    remote_evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'what named the remote end' CODEC(ZSTD(1)),
    local_why Enum8('named' = 0, 'no_evidence' = 1, 'gap' = 2, 'conflict' = 3, 'shared_address' = 4, 'external' = 5, 'pending' = 6, 'late' = 7, 'clock' = 8, 'refused_claim' = 9, 'peer_region_down' = 10) COMMENT 'why the local end has no name' CODEC(ZSTD(1)),
    remote_why Enum8('named' = 0, 'no_evidence' = 1, 'gap' = 2, 'conflict' = 3, 'shared_address' = 4, 'external' = 5, 'pending' = 6, 'late' = 7, 'clock' = 8, 'refused_claim' = 9, 'peer_region_down' = 10) COMMENT 'why the remote end has no name' CODEC(ZSTD(1)),
    peer_observed Enum8('unknown' = 0, 'no' = 1, 'yes' = 2) COMMENT 'whether the peer\'s own record of this connection was seen' CODEC(ZSTD(1)),
    remote_last_workload LowCardinality(String) COMMENT 'the address\'s owner before, only on attempts without an answer; never an edge' CODEC(ZSTD(1)),
    remote_last_instance LowCardinality(String) COMMENT 'instance of that owner' CODEC(ZSTD(1)),
    remote_last_seen_ns DateTime64(9) COMMENT 'until when that owner is known to have had the address' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(end_time_ns, 'UTC')
ORDER BY (toStartOfMinute(end_time_ns), exporter_id, cgroup_id, flow_id, record_seq)
TTL toDateTime(end_time_ns) + toIntervalHour(168)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

-- Each record once, in its highest version.
CREATE VIEW IF NOT EXISTS tributary.flows AS
SELECT
    exporter_id,
    host,
    boot_id,
    network,
    comm,
    netns,
    flow_id,
    record_seq,
    batch_seq,
    sock_cookie,
    cgroup_id,
    version,
    kind,
    role,
    role_source,
    close_reason,
    last_state,
    sample_rate,
    connections,
    failures,
    start_time_ns,
    interval_start_ns,
    end_time_ns,
    received_time_ns,
    local_addr,
    remote_addr,
    orig_remote_addr,
    nat_local_addr,
    local_port,
    remote_port,
    orig_remote_port,
    nat_local_port,
    tx_bytes,
    rx_bytes,
    tx_bytes_before,
    rx_bytes_before,
    tx_segs,
    rx_segs,
    retrans_segs,
    retrans_syn,
    retrans_closing,
    retrans_bytes,
    lost_segs,
    reord_seen,
    delivered_ce,
    rst_sent,
    rst_received,
    rto,
    srtt_us,
    min_rtt_us,
    rttvar_us,
    connect_us,
    busy_us,
    rwnd_limited_us,
    sndbuf_limited_us,
    snd_cwnd,
    mss,
    start_observed,
    accepted,
    replay,
    errno,
    pid,
    uid,
    local_workload,
    local_instance,
    local_zone,
    local_region,
    local_release,
    remote_workload,
    remote_instance,
    remote_zone,
    remote_region,
    remote_release,
    local_evidence,
    remote_evidence,
    local_why,
    remote_why,
    peer_observed,
    remote_last_workload,
    remote_last_instance,
    remote_last_seen_ns
FROM tributary.flows_raw FINAL;

-- migration 2: edges

-- Edges by minute and by hour. A minute's rows are computed whole from flows, under a gen of their own; the row in closed makes a gen
-- visible, and of several the one that covers more is the answer (rows, then the sum of their versions). Whoever reads the tables ..._gens
-- without closed sees unfinished and replaced computations.
CREATE TABLE IF NOT EXISTS tributary.edges_1m_gens
(
    minute DateTime('UTC') COMMENT 'start of the minute' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
    client_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_port UInt16 COMMENT 'the server\'s port' CODEC(ZSTD(1)),
    class Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3) COMMENT 'whose records: client_only, server_only (no client recorded the connection), both (the client\'s count)' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_why LowCardinality(String) COMMENT 'why the client has no name' CODEC(ZSTD(1)),
    server_why LowCardinality(String) COMMENT 'why the server has no name' CODEC(ZSTD(1)),
    client_zone LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_region LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_release LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_zone LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_region LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_release LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    connections SimpleAggregateFunction(sum, UInt64) COMMENT 'connections opened, failed attempts among them' CODEC(T64, ZSTD(1)),
    closed SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that ended after they had been established' CODEC(T64, ZSTD(1)),
    resets SimpleAggregateFunction(sum, UInt64) COMMENT 'of those closed, ended by a reset' CODEC(T64, ZSTD(1)),
    open SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that live at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    unanswered SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that still wait at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    failures SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that failed' CODEC(T64, ZSTD(1)),
    failures_by_reason SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'failed attempts by close_reason' CODEC(ZSTD(1)),
    bytes_to_server SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from client to server' CODEC(T64('bit'), ZSTD(1)),
    bytes_to_client SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from server to client' CODEC(T64('bit'), ZSTD(1)),
    retrans_segs SimpleAggregateFunction(sum, UInt64) COMMENT 'segments sent again by the end whose record counts' CODEC(T64, ZSTD(1)),
    rtt_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'round trip times, one sample a record: how many were 2^(key/5) microseconds' CODEC(ZSTD(5)),
    connect_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds' CODEC(ZSTD(5)),
    first_seen SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'second in which the first connection started' CODEC(GCD, Delta(8), ZSTD(1)),
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'second in which the last record ended' CODEC(GCD, Delta(8), ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toDate(minute, 'UTC')
ORDER BY (toStartOfHour(minute), client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, minute, gen)
TTL minute + toIntervalDay(30)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS tributary.edges_1h_gens
(
    hour DateTime('UTC') COMMENT 'start of the hour' CODEC(Delta, ZSTD(1)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(1)),
    client_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_port UInt16 COMMENT 'the server\'s port' CODEC(ZSTD(1)),
    class Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3) COMMENT 'whose records: client_only, server_only (no client recorded the connection), both (the client\'s count)' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_why LowCardinality(String) COMMENT 'why the client has no name' CODEC(ZSTD(1)),
    server_why LowCardinality(String) COMMENT 'why the server has no name' CODEC(ZSTD(1)),
    client_zone LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_region LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    client_release LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_zone LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_region LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_release LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    connections SimpleAggregateFunction(sum, UInt64) COMMENT 'connections opened, failed attempts among them' CODEC(T64, ZSTD(1)),
    closed SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that ended after they had been established' CODEC(T64, ZSTD(1)),
    resets SimpleAggregateFunction(sum, UInt64) COMMENT 'of those closed, ended by a reset' CODEC(T64, ZSTD(1)),
    open SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that live at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    unanswered SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that still wait at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    failures SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that failed' CODEC(T64, ZSTD(1)),
    failures_by_reason SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'failed attempts by close_reason' CODEC(ZSTD(1)),
    bytes_to_server SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from client to server' CODEC(T64('bit'), ZSTD(1)),
    bytes_to_client SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from server to client' CODEC(T64('bit'), ZSTD(1)),
    retrans_segs SimpleAggregateFunction(sum, UInt64) COMMENT 'segments sent again by the end whose record counts' CODEC(T64, ZSTD(1)),
    rtt_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'round trip times, one sample a record: how many were 2^(key/5) microseconds' CODEC(ZSTD(5)),
    connect_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds' CODEC(ZSTD(5)),
    first_seen SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'second in which the first connection started' CODEC(GCD, Delta(8), ZSTD(1)),
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'second in which the last record ended' CODEC(GCD, Delta(8), ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour, 'UTC')
ORDER BY (toDate(hour, 'UTC'), client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, hour, gen)
TTL hour + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

-- Which exporter recorded how much of which workload: what was lost by an exporter concerns these workloads.
CREATE TABLE IF NOT EXISTS tributary.recorded_1m_gens
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
CREATE TABLE IF NOT EXISTS tributary.closed
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
CREATE TABLE IF NOT EXISTS tributary.touched
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

CREATE MATERIALIZED VIEW IF NOT EXISTS tributary.touch TO tributary.touched AS
SELECT
    arrayJoin(arrayDistinct([toStartOfMinute(at), toStartOfMinute(at - toIntervalSecond(10)), toStartOfMinute(at + toIntervalSecond(40))])) AS minute,
    toStartOfMinute(toDateTime(now64(3), 'UTC')) AS touched_minute,
    max(toDateTime64(now64(3), 3, 'UTC')) AS touched,
    sumIf(n, minute = toStartOfMinute(at)) AS rows
FROM (SELECT toDateTime(end_time_ns, 'UTC') AS at, count() AS n FROM tributary.flows_raw GROUP BY at)
GROUP BY minute, touched_minute;

-- What was there before the roll-ups were.
INSERT INTO tributary.touched
SELECT toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, toStartOfMinute(toDateTime(now64(3), 'UTC')), max(toDateTime64(now64(3), 3, 'UTC')), 0
FROM tributary.flows_raw
GROUP BY minute;

-- The computation of each minute and hour that is the answer.
CREATE OR REPLACE VIEW tributary.closed_latest AS
SELECT c.step AS step, c.start AS start, argMax(c.gen, (c.rows, c.versions, c.gen)) AS gen, max(c.rows) AS rows, max(c.started) AS started
FROM tributary.closed AS c
GROUP BY step, start;

-- Of a table that is older than these columns.
ALTER TABLE tributary.flows_raw ADD COLUMN IF NOT EXISTS nat_local_addr IPv6 COMMENT 'the local end\'s address as the remote end knows it, where NAT on this host changed it and the remote end is on another host' CODEC(ZSTD(1)) AFTER orig_remote_addr, ADD COLUMN IF NOT EXISTS nat_local_port UInt16 COMMENT 'the local end\'s port as the remote end knows it, where nat_local_addr says so; else 0' CODEC(T64, ZSTD(1)) AFTER orig_remote_port;

-- Edges by minute: computed ones, and from flows those of the minutes that are not closed yet.
CREATE OR REPLACE VIEW tributary.edges_1m AS
SELECT minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, connections, closed, resets, open, unanswered, failures, failures_by_reason, bytes_to_server, bytes_to_client, retrans_segs, rtt_us_histogram, connect_us_histogram, first_seen, last_seen
FROM tributary.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
WITH
    role = 'client' AS by_client,
    cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS connection,
    cityHash64(exporter_id, flow_id) AS flow,
    arrayExists(s -> s.1 != role AND if(by_client,
        start_time_ns <= s.2 + toIntervalSecond(5) AND end_time_ns >= s.2 - toIntervalSecond(5),
        s.2 <= start_time_ns + toIntervalSecond(5) AND s.3 >= start_time_ns - toIntervalSecond(5)), sightings) AS mirrored,
    arrayExists(s -> s.4 = flow AND s.5 > record_seq AND s.3 < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND s.6 = minute, sightings) AS overtaken,
    toUInt64(own.connections) * sample_rate AS stands_for,
    toUInt64(own.failures) * sample_rate AS failed,
    start_observed AND record_seq = 0 AS opened,
    kind = 'closed' AS ended,
    kind = 'active' AND NOT overtaken AS lives,
    toUInt8(round(log2(greatest(srtt_us, 1)) * 5)) AS rtt_bucket,
    toUInt8(round(log2(greatest(connect_us, 1)) * 5)) AS connect_bucket
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute,
    if(by_client, local_workload, remote_workload) AS client_workload,
    if(by_client, remote_workload, local_workload) AS server_workload,
    if(by_client, remote_port, local_port) AS server_port,
    CAST(multiIf(NOT by_client, 'server_only', mirrored, 'both', 'client_only') AS Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3)) AS class,
    own.network AS network,
    toString(if(by_client, local_why, remote_why)) AS client_why,
    toString(if(by_client, remote_why, local_why)) AS server_why,
    if(by_client, local_zone, remote_zone) AS client_zone,
    if(by_client, local_region, remote_region) AS client_region,
    if(by_client, local_release, remote_release) AS client_release,
    if(by_client, remote_zone, local_zone) AS server_zone,
    if(by_client, remote_region, local_region) AS server_region,
    if(by_client, remote_release, local_release) AS server_release,
    sumIf(stands_for, opened) AS connections,
    sumIf(stands_for, ended) AS closed,
    sumIf(stands_for, ended AND close_reason IN ('rst_local', 'rst_remote')) AS resets,
    sumIf(stands_for, lives AND last_state != 'syn_sent') AS open,
    sumIf(stands_for, lives AND last_state = 'syn_sent') AS unanswered,
    sum(failed) AS failures,
    sumMapIf(map(toString(close_reason), failed), failed > 0) AS failures_by_reason,
    sum(if(by_client, tx_bytes, rx_bytes) * sample_rate) AS bytes_to_server,
    sum(if(by_client, rx_bytes, tx_bytes) * sample_rate) AS bytes_to_client,
    sum(toUInt64(own.retrans_segs) * sample_rate) AS retrans_segs,
    sumMapIf(map(rtt_bucket, toUInt64(1)), srtt_us > 0) AS rtt_us_histogram,
    sumMapIf(map(connect_bucket, toUInt64(1)), connect_us > 0 AND opened AND by_client) AS connect_us_histogram,
    toDateTime64(toDateTime(min(start_time_ns), 'UTC'), 3, 'UTC') AS first_seen,
    toDateTime64(toDateTime(max(end_time_ns), 'UTC'), 3, 'UTC') AS last_seen
FROM tributary.flows_raw AS own FINAL
INNER JOIN
(
    SELECT cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS met, groupArray((role, start_time_ns, end_time_ns, cityHash64(exporter_id, flow_id), record_seq, toStartOfMinute(toDateTime(end_time_ns, 'UTC')))) AS sightings
    FROM tributary.flows_raw FINAL
    WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') - toIntervalSecond(40) AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') + toIntervalSecond(10) AND 1
    GROUP BY met
) AS near ON connection = near.met
WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND 1 AND (by_client OR NOT mirrored)
GROUP BY minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release;

-- Edges by hour: computed ones, and from edges_1m those of the hours that are not closed yet.
CREATE OR REPLACE VIEW tributary.edges_1h AS
SELECT hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, connections, closed, resets, open, unanswered, failures, failures_by_reason, bytes_to_server, bytes_to_client, retrans_segs, rtt_us_histogram, connect_us_histogram, first_seen, last_seen
FROM tributary.edges_1h_gens
WHERE (hour, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'hour')
UNION ALL
SELECT toStartOfHour(e.minute) AS hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, sum(e.connections) AS connections, sum(e.closed) AS closed, sum(e.resets) AS resets, sumIf(e.open, e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)) AS open, sumIf(e.unanswered, e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)) AS unanswered, sum(e.failures) AS failures, sumMap(e.failures_by_reason) AS failures_by_reason, sum(e.bytes_to_server) AS bytes_to_server, sum(e.bytes_to_client) AS bytes_to_client, sum(e.retrans_segs) AS retrans_segs, sumMap(e.rtt_us_histogram) AS rtt_us_histogram, sumMap(e.connect_us_histogram) AS connect_us_histogram, min(e.first_seen) AS first_seen, max(e.last_seen) AS last_seen
FROM tributary.edges_1m AS e
WHERE e.minute >= (SELECT max(start) + toIntervalHour(count() > 0) FROM tributary.closed WHERE step = 'hour')
GROUP BY hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release;

-- Who talks to what, over all minutes that are kept. open and unanswered are those of the last two minutes.
CREATE OR REPLACE VIEW tributary.edges AS
SELECT
    client_workload, client_why, server_workload, server_why, server_port,
    sum(e.connections) AS connections,
    sum(e.closed) AS closed,
    sum(e.resets) AS resets,
    sum(e.failures) AS failures,
    sumMap(e.failures_by_reason) AS failures_by_reason,
    sum(e.bytes_to_server) AS bytes_to_server,
    sum(e.bytes_to_client) AS bytes_to_client,
    sum(e.retrans_segs) AS retrans_segs,
    min(e.first_seen) AS first_seen,
    max(e.last_seen) AS last_seen,
    if((quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e.rtt_us_histogram), mapValues(e.rtt_us_histogram)) AS rtt_us_buckets)[1] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[1] / 5)))) AS rtt_us_p50,
    if(rtt_us_buckets[2] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[2] / 5)))) AS rtt_us_p95,
    if(rtt_us_buckets[3] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[3] / 5)))) AS rtt_us_p99,
    if((quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e.connect_us_histogram), mapValues(e.connect_us_histogram)) AS connect_us_buckets)[1] = 0, 0, toUInt32(round(exp2(connect_us_buckets[1] / 5)))) AS connect_us_p50,
    if(connect_us_buckets[2] = 0, 0, toUInt32(round(exp2(connect_us_buckets[2] / 5)))) AS connect_us_p95,
    if(connect_us_buckets[3] = 0, 0, toUInt32(round(exp2(connect_us_buckets[3] / 5)))) AS connect_us_p99,
    sumIf(e.connections, e.class = 'client_only') AS client_only,
    sumIf(e.connections, e.class = 'server_only') AS server_only,
    sumIf(e.connections, e.class = 'both') AS both,
    sumIf(e.open, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS open,
    sumIf(e.unanswered, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS unanswered
FROM tributary.edges_1m AS e
GROUP BY client_workload, client_why, server_workload, server_why, server_port;

CREATE OR REPLACE VIEW tributary.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM tributary.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, exporter_id, host, local_workload AS workload,
    count() AS records,
    sumMapIf(map(toString(remote_why), toUInt64(1)), remote_workload = '') AS unnamed
FROM tributary.flows_raw FINAL
WHERE NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC')
GROUP BY minute, exporter_id, host, workload;

-- Every workload that was a client or a server of a connection, while edges are kept.
CREATE OR REPLACE VIEW tributary.workloads AS
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
    FROM tributary.edges_1h
) AS e
WHERE end.1 != ''
GROUP BY workload;

-- migration 3: completeness

-- The loss ledger: each exporter's own counters, as they stood at its last word of each minute. They count from the start of its run.
CREATE TABLE IF NOT EXISTS tributary.exporter_health
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
CREATE OR REPLACE VIEW tributary.exporter_completeness AS
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
        minute, exporter_id, host, pending,
        toUInt64(greatest(0, read - lagInFrame(read) OVER w)) AS made,
        mapFilter((name, n) -> n > 0, CAST(mapSubtract(losses, lagInFrame(losses) OVER w) AS Map(String, Int64))) AS grown,
        CAST(grown AS Map(String, UInt64)) AS lost_records,
        arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'probe.'), lost_records))) AS lost_before,
        arraySum(mapValues(mapFilter((name, n) -> NOT startsWith(name, 'probe.'), lost_records))) AS lost_after
    FROM
    (
        SELECT
            minute, exporter_id, host,
            toInt64(counters['ring.read'] + counters['ring.walked']) AS read,
            CAST(mapFilter((name, n) -> (name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', 'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_')), counters) AS Map(String, Int64)) AS losses,
            read + arraySum(mapValues(losses)) AS progress,
            toUInt64(greatest(0, toInt64(counters['spool.appended_rows'] + counters['spool.recovered_rows'] + counters['spool.rollup_rows'])
                - toInt64(counters['spool.acked_rows'] + counters['spool.rejected_rows'] + counters['spool.rolled_up_rows']
                + arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'spool.dropped_rows_'), counters)))))) AS pending
        FROM tributary.exporter_health FINAL
        WHERE 1
    )
    WINDOW w AS (PARTITION BY exporter_id ORDER BY progress, minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

-- The same with the workloads whose connections each exporter recorded: what it lost concerns them. An exporter that recorded nothing in a
-- minute has one row, with workload ''. Its captured, lost and pending are repeated for each workload: add them up in exporter_completeness.
CREATE OR REPLACE VIEW tributary.completeness AS
SELECT c.minute AS minute, c.exporter_id AS exporter_id, c.host AS host, w.workload AS workload, w.records AS records,
    c.captured AS captured, c.lost AS lost, c.lost_rows AS lost_rows, c.pending AS pending, c.complete AS complete
FROM tributary.exporter_completeness AS c
LEFT JOIN tributary.recorded_1m AS w ON w.minute = c.minute AND w.exporter_id = c.exporter_id;

-- migration 4: edges_without_replays

-- What is not closed yet is read through this view: a recording (replay) is not in it.
CREATE OR REPLACE VIEW tributary.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM tributary.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, exporter_id, host, local_workload AS workload,
    count() AS records,
    sumMapIf(map(toString(remote_why), toUInt64(1)), remote_workload = '') AS unnamed
FROM tributary.flows_raw FINAL
WHERE NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC')
GROUP BY minute, exporter_id, host, workload;

-- What is noted of minutes is of use while their edges are kept, 30 days. Hours are kept for 400.
ALTER TABLE tributary.closed MODIFY TTL start + toIntervalDay(if(step = 'minute', 31, 400));

-- migration 5: listeners

-- What exporters say about listening sockets: the last word of each minute in which one was said. An exporter repeats what does not change
-- every 10 minutes. Counters run since since_ns, as long as the exporter runs.
CREATE TABLE IF NOT EXISTS tributary.listeners_1m
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
    local_evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'what named it' CODEC(ZSTD(1)),
    local_why Enum8('named' = 0, 'no_evidence' = 1, 'gap' = 2, 'conflict' = 3, 'shared_address' = 4, 'external' = 5, 'pending' = 6, 'late' = 7, 'clock' = 8, 'refused_claim' = 9, 'peer_region_down' = 10) COMMENT 'why it has no name' CODEC(ZSTD(1)),
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
CREATE OR REPLACE VIEW tributary.listeners AS
SELECT * EXCEPT (minute, ended_ns)
FROM
(
    SELECT * FROM tributary.listeners_1m
    WHERE minute > now('UTC') - toIntervalMinute(30)
    ORDER BY read_time_ns DESC
    LIMIT 1 BY host, netns, local_addr, local_port
)
WHERE ended_ns = toDateTime64(0, 9, 'UTC');

-- migration 6: reachability

-- The ledger of reachability: how the attempts of each path went, by minute (schema/reachability.go). Computed with the edges of the
-- minute, and visible under the same commit.
CREATE TABLE IF NOT EXISTS tributary.reachability_gens
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

CREATE OR REPLACE VIEW tributary.reachability AS
SELECT minute, client_workload, server_workload, server_port, attempts, successes, replies, failures, failures_by_cause, sample_rate, last_success, last_failure
FROM tributary.reachability_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
SELECT
    minute, client_workload, server_workload, server_port,
    sumIf(stands_for, NOT given_up AND opened) AS attempts,
    sumIf(toUInt64(stands_for - least(fell, stands_for)), opened AND established) AS successes,
    sumIf(stands_for, replied) AS replies,
    sumIf(if(fell > 0, fell, stands_for), cause != '') AS failures,
    sumMapIf(map(cause, if(fell > 0, fell, stands_for)), cause != '') AS failures_by_cause,
    max(sample_rate) AS sample_rate,
    max(if(opened AND established AND stands_for > fell, toDateTime64(start_time_ns, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))) AS last_success,
    max(if(cause != '', toDateTime64(start_time_ns, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))) AS last_failure
FROM
(
    SELECT
        toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, local_workload AS client_workload, if(remote_workload != '', remote_workload, remote_last_workload) AS server_workload, remote_port AS server_port, start_time_ns, sample_rate,
        toUInt64(connections) * sample_rate AS stands_for,
        start_observed AND record_seq = 0 AS opened,
        if(kind = 'rollup', toUInt64(own.failures) * sample_rate, 0) AS fell,
        kind = 'rollup' OR (kind IN ('active', 'closed') AND last_state != 'syn_sent') AS established,
        kind = 'closed' AND record_seq = 0 AS whole,
        whole AND rx_bytes > 0 AS replied,
        end_time_ns > start_time_ns + toIntervalMillisecond(200) AS waited,
        kind = 'failed' AND (close_reason = 'unknown' OR (close_reason = 'aborted' AND NOT waited)) AS given_up,
        multiIf(
            given_up, '',
            kind = 'failed' OR fell > 0, 'connect.' || if(close_reason IN ('refused', 'unreachable', 'no_port', 'policy'), toString(close_reason), 'no_answer'),
            NOT whole OR rx_bytes > 0, '',
            close_reason = 'rst_remote', 'data.reset',
            close_reason = 'fin_remote', 'data.early_close',
            tx_bytes > 0 AND waited, 'data.no_reply', '') AS cause
    FROM tributary.flows_raw AS own FINAL
    WHERE role = 'client' AND NOT replay AND local_workload != '' AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC')
)
WHERE server_workload != ''
GROUP BY minute, client_workload, server_workload, server_port;

-- Paths that worked and failed then, every version of each. They are opened and closed by collector/reachability.
CREATE TABLE IF NOT EXISTS tributary.regressions_raw
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

CREATE OR REPLACE VIEW tributary.regressions AS
SELECT * EXCEPT (version), closed_at = toDateTime64(0, 3, 'UTC') AS open
FROM tributary.regressions_raw FINAL;

-- Paths of which nobody is told.
CREATE TABLE IF NOT EXISTS tributary.reachability_silences
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
CREATE TABLE IF NOT EXISTS tributary.reachability_judges
(
    collector String COMMENT 'one run of one collector',
    started DateTime64(3, 'UTC') COMMENT 'when it began',
    seen DateTime64(3, 'UTC') COMMENT 'when it last looked, by the clock of the server'
)
ENGINE = ReplacingMergeTree(seen)
ORDER BY collector
TTL toDateTime(seen) + toIntervalDay(1)
SETTINGS non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS tributary.alerts_told
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
INSERT INTO tributary.touched
SELECT start, toStartOfMinute(toDateTime(now64(3), 'UTC')), max(toDateTime64(now64(3), 3, 'UTC')), 0
FROM tributary.closed
WHERE step = 'minute' AND start >= now() - toIntervalDay(1)
GROUP BY start;

-- migration 7: skip_indexes

-- Look-ups of an address or a flow over days skip what cannot have it. Parts written before get none: they expire.
ALTER TABLE tributary.flows_raw ADD INDEX IF NOT EXISTS local_addr_filter local_addr TYPE bloom_filter(0.1) GRANULARITY 1;

ALTER TABLE tributary.flows_raw ADD INDEX IF NOT EXISTS remote_addr_filter remote_addr TYPE bloom_filter(0.1) GRANULARITY 1;

ALTER TABLE tributary.flows_raw ADD INDEX IF NOT EXISTS flow_filter flow_id TYPE bloom_filter(0.1) GRANULARITY 1;

-- migration 8: ownership

-- What exporters and feeds of assignments said of addresses, as the collectors took it in, in the order of received_ns and seq: claims, releases, and
-- the latest watermark when each was said. Said again in the same order it gives the same table of ranges (`reattribute`). Each collector writes what
-- it was told itself.
CREATE TABLE IF NOT EXISTS tributary.ownership
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
    evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'claim or assignment' CODEC(ZSTD(1)),
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
CREATE TABLE IF NOT EXISTS tributary.renames
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
    remote_evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'as in flows' CODEC(ZSTD(1)),
    remote_why Enum8('named' = 0, 'no_evidence' = 1, 'gap' = 2, 'conflict' = 3, 'shared_address' = 4, 'external' = 5, 'pending' = 6, 'late' = 7, 'clock' = 8, 'refused_claim' = 9, 'peer_region_down' = 10) COMMENT 'as in flows' CODEC(ZSTD(1)),
    was_workload LowCardinality(String) COMMENT 'remote_workload before' CODEC(ZSTD(1)),
    was_evidence Enum8('none' = 0, 'socket' = 1, 'cgroup' = 2, 'netns' = 3, 'port' = 4, 'address' = 5, 'certificate' = 6, 'unit' = 7, 'program' = 8, 'claim' = 9, 'mirror' = 10, 'assignment' = 11, 'static' = 12) COMMENT 'remote_evidence before' CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (job, made, run, exporter_id, flow_id, record_seq)
TTL made + toIntervalDay(1);

-- Records of the last day whose remote end was named after somebody else than the peer says of itself. There should be none.
CREATE OR REPLACE VIEW tributary.disagreements AS
SELECT made, exporter_id, flow_id, record_seq, was_workload, was_evidence, remote_workload AS peer_workload, remote_instance AS peer_instance
FROM tributary.renames
WHERE job = 'pairs' AND was_workload != '' AND was_workload != remote_workload;

-- migration 9: minute_ranges

-- A condition on the minute or hour alone reads only what it asks for: the keys begin with the hour or day, which ClickHouse does not derive
-- from a column that is itself further back in the key.
ALTER TABLE tributary.edges_1m_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE tributary.edges_1m_gens MATERIALIZE INDEX minute_range;

ALTER TABLE tributary.edges_1h_gens ADD INDEX IF NOT EXISTS hour_range hour TYPE minmax GRANULARITY 1;

ALTER TABLE tributary.edges_1h_gens MATERIALIZE INDEX hour_range;

ALTER TABLE tributary.recorded_1m_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE tributary.recorded_1m_gens MATERIALIZE INDEX minute_range;

ALTER TABLE tributary.reachability_gens ADD INDEX IF NOT EXISTS minute_range minute TYPE minmax GRANULARITY 1;

ALTER TABLE tributary.reachability_gens MATERIALIZE INDEX minute_range;

-- migration 10: smaller_edges

-- A quarter less for the roll-ups (docs/schema.md): codecs by measurement, times to the second, samples of times to a fifth of an octave. What is
-- stored already stays as exact as it is, and takes the codecs at its next merge.
ALTER TABLE tributary.edges_1m_gens
    MODIFY COLUMN minute CODEC(ZSTD(9)),
    MODIFY COLUMN gen CODEC(ZSTD(9)),
    MODIFY COLUMN bytes_to_server CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN bytes_to_client CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN first_seen CODEC(GCD, Delta(8), ZSTD(1)),
    MODIFY COLUMN last_seen CODEC(GCD, Delta(8), ZSTD(1)),
    COMMENT COLUMN first_seen 'second in which the first connection started',
    COMMENT COLUMN last_seen 'second in which the last record ended';

ALTER TABLE tributary.edges_1h_gens
    MODIFY COLUMN hour CODEC(ZSTD(9)),
    MODIFY COLUMN gen CODEC(ZSTD(9)),
    MODIFY COLUMN bytes_to_server CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN bytes_to_client CODEC(T64('bit'), ZSTD(1)),
    MODIFY COLUMN first_seen CODEC(GCD, Delta(8), ZSTD(1)),
    MODIFY COLUMN last_seen CODEC(GCD, Delta(8), ZSTD(1)),
    COMMENT COLUMN first_seen 'second in which the first connection started',
    COMMENT COLUMN last_seen 'second in which the last record ended';

-- migration 11: quick_hashes

-- The newest minutes by quicker hashes and without views in between.
CREATE OR REPLACE VIEW tributary.recorded_1m AS
SELECT minute, exporter_id, host, workload, records, unnamed
FROM tributary.recorded_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, exporter_id, host, local_workload AS workload,
    count() AS records,
    sumMapIf(map(toString(remote_why), toUInt64(1)), remote_workload = '') AS unnamed
FROM tributary.flows_raw FINAL
WHERE NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC')
GROUP BY minute, exporter_id, host, workload;

-- migration 12: ends_filter

-- The edges of one workload, at either end, skip what cannot have it: the key begins with the client.
ALTER TABLE tributary.edges_1m_gens ADD INDEX IF NOT EXISTS ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE tributary.edges_1m_gens MATERIALIZE INDEX ends_filter;

ALTER TABLE tributary.edges_1h_gens ADD INDEX IF NOT EXISTS ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE tributary.edges_1h_gens MATERIALIZE INDEX ends_filter;

-- migration 13: lighter_completeness

-- The same numbers without copies of all counters.
CREATE OR REPLACE VIEW tributary.exporter_completeness AS
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
        minute, exporter_id, host, pending,
        toUInt64(greatest(0, read - lagInFrame(read) OVER w)) AS made,
        mapFilter((name, n) -> n > 0, CAST(mapSubtract(losses, lagInFrame(losses) OVER w) AS Map(String, Int64))) AS grown,
        CAST(grown AS Map(String, UInt64)) AS lost_records,
        arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'probe.'), lost_records))) AS lost_before,
        arraySum(mapValues(mapFilter((name, n) -> NOT startsWith(name, 'probe.'), lost_records))) AS lost_after
    FROM
    (
        SELECT
            minute, exporter_id, host,
            toInt64(counters['ring.read'] + counters['ring.walked']) AS read,
            CAST(mapFilter((name, n) -> (name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', 'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_')), counters) AS Map(String, Int64)) AS losses,
            read + arraySum(mapValues(losses)) AS progress,
            toUInt64(greatest(0, toInt64(counters['spool.appended_rows'] + counters['spool.recovered_rows'] + counters['spool.rollup_rows'])
                - toInt64(counters['spool.acked_rows'] + counters['spool.rejected_rows'] + counters['spool.rolled_up_rows']
                + arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'spool.dropped_rows_'), counters)))))) AS pending
        FROM tributary.exporter_health FINAL
        WHERE 1
    )
    WINDOW w AS (PARTITION BY exporter_id ORDER BY progress, minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

-- migration 14: rollups

-- What an exporter had to sum up because its spool was full: pending counts what came of it, and reachability counts its connections.
CREATE OR REPLACE VIEW tributary.exporter_completeness AS
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
        minute, exporter_id, host, pending,
        toUInt64(greatest(0, read - lagInFrame(read) OVER w)) AS made,
        mapFilter((name, n) -> n > 0, CAST(mapSubtract(losses, lagInFrame(losses) OVER w) AS Map(String, Int64))) AS grown,
        CAST(grown AS Map(String, UInt64)) AS lost_records,
        arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'probe.'), lost_records))) AS lost_before,
        arraySum(mapValues(mapFilter((name, n) -> NOT startsWith(name, 'probe.'), lost_records))) AS lost_after
    FROM
    (
        SELECT
            minute, exporter_id, host,
            toInt64(counters['ring.read'] + counters['ring.walked']) AS read,
            CAST(mapFilter((name, n) -> (name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', 'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_')), counters) AS Map(String, Int64)) AS losses,
            read + arraySum(mapValues(losses)) AS progress,
            toUInt64(greatest(0, toInt64(counters['spool.appended_rows'] + counters['spool.recovered_rows'] + counters['spool.rollup_rows'])
                - toInt64(counters['spool.acked_rows'] + counters['spool.rejected_rows'] + counters['spool.rolled_up_rows']
                + arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'spool.dropped_rows_'), counters)))))) AS pending
        FROM tributary.exporter_health FINAL
        WHERE 1
    )
    WINDOW w AS (PARTITION BY exporter_id ORDER BY progress, minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

CREATE OR REPLACE VIEW tributary.reachability AS
SELECT minute, client_workload, server_workload, server_port, attempts, successes, replies, failures, failures_by_cause, sample_rate, last_success, last_failure
FROM tributary.reachability_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
SELECT
    minute, client_workload, server_workload, server_port,
    sumIf(stands_for, NOT given_up AND opened) AS attempts,
    sumIf(toUInt64(stands_for - least(fell, stands_for)), opened AND established) AS successes,
    sumIf(stands_for, replied) AS replies,
    sumIf(if(fell > 0, fell, stands_for), cause != '') AS failures,
    sumMapIf(map(cause, if(fell > 0, fell, stands_for)), cause != '') AS failures_by_cause,
    max(sample_rate) AS sample_rate,
    max(if(opened AND established AND stands_for > fell, toDateTime64(start_time_ns, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))) AS last_success,
    max(if(cause != '', toDateTime64(start_time_ns, 3, 'UTC'), toDateTime64(0, 3, 'UTC'))) AS last_failure
FROM
(
    SELECT
        toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute, local_workload AS client_workload, if(remote_workload != '', remote_workload, remote_last_workload) AS server_workload, remote_port AS server_port, start_time_ns, sample_rate,
        toUInt64(connections) * sample_rate AS stands_for,
        start_observed AND record_seq = 0 AS opened,
        if(kind = 'rollup', toUInt64(own.failures) * sample_rate, 0) AS fell,
        kind = 'rollup' OR (kind IN ('active', 'closed') AND last_state != 'syn_sent') AS established,
        kind = 'closed' AND record_seq = 0 AS whole,
        whole AND rx_bytes > 0 AS replied,
        end_time_ns > start_time_ns + toIntervalMillisecond(200) AS waited,
        kind = 'failed' AND (close_reason = 'unknown' OR (close_reason = 'aborted' AND NOT waited)) AS given_up,
        multiIf(
            given_up, '',
            kind = 'failed' OR fell > 0, 'connect.' || if(close_reason IN ('refused', 'unreachable', 'no_port', 'policy'), toString(close_reason), 'no_answer'),
            NOT whole OR rx_bytes > 0, '',
            close_reason = 'rst_remote', 'data.reset',
            close_reason = 'fin_remote', 'data.early_close',
            tx_bytes > 0 AND waited, 'data.no_reply', '') AS cause
    FROM tributary.flows_raw AS own FINAL
    WHERE role = 'client' AND NOT replay AND local_workload != '' AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC')
)
WHERE server_workload != ''
GROUP BY minute, client_workload, server_workload, server_port;

-- migration 15: renames_told

-- Where a renamed row is, and who its peer is: enough to find it, to tell Kafka of it, and to show a disagreement.
ALTER TABLE tributary.renames
    ADD COLUMN IF NOT EXISTS end_time_ns DateTime64(9, 'UTC') COMMENT 'as in flows' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS network LowCardinality(String) COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS remote_addr IPv6 COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS remote_port UInt16 COMMENT 'as in flows; pairs' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS peer_exporter_id LowCardinality(String) COMMENT 'whose record the peer\'s is; pairs' CODEC(ZSTD(1));

-- Runs of renames of which Kafka has been told.
CREATE TABLE IF NOT EXISTS tributary.renames_told
(
    job Enum8('reattribute' = 0, 'pairs' = 1) COMMENT 'as in renames' CODEC(ZSTD(1)),
    run UInt64 COMMENT 'as in renames' CODEC(ZSTD(1)),
    told DateTime('UTC') DEFAULT now() COMMENT 'when' CODEC(ZSTD(1)),
    told_rows UInt64 COMMENT 'how many; the others have got better names meanwhile' CODEC(ZSTD(1))
)
ENGINE = MergeTree
ORDER BY (job, run)
TTL told + toIntervalDay(2);

CREATE OR REPLACE VIEW tributary.disagreements AS
SELECT made, exporter_id, flow_id, record_seq, was_workload, was_evidence, remote_workload AS peer_workload, remote_instance AS peer_instance,
    end_time_ns, network, remote_addr, remote_port, peer_exporter_id
FROM tributary.renames
WHERE job = 'pairs' AND was_workload != '' AND was_workload != remote_workload;

-- migration 16: histograms

-- Times of edges as histograms in place of states of quantiles, which took two thirds of a map's processor time (docs/schema.md). What the states
-- hold is taken over: a million rows a few seconds. If the migration is repeated their columns come back empty for a moment.
ALTER TABLE tributary.edges_1m_gens
    ADD COLUMN IF NOT EXISTS rtt_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'round trip times, one sample a record: how many were 2^(key/5) microseconds' CODEC(ZSTD(5)) AFTER retrans_segs,
    ADD COLUMN IF NOT EXISTS connect_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds' CODEC(ZSTD(5)) AFTER rtt_us_histogram,
    ADD COLUMN IF NOT EXISTS rtt_us AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt32),
    ADD COLUMN IF NOT EXISTS connect_us AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt32);

ALTER TABLE tributary.edges_1m_gens
    UPDATE rtt_us_histogram = CAST(arrayReduce('sumMap',
        [arrayMap(s -> toUInt8(round(log2(greatest(reinterpretAsFloat32(concat('\0\0', substring(s, 1, 2))), 1)) * 5)), arrayMap(i -> substring(toString(rtt_us), length(toString(rtt_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(rtt_us)), 10))))],
        [arrayMap(s -> reinterpretAsUInt64(substring(s, 3)), arrayMap(i -> substring(toString(rtt_us), length(toString(rtt_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(rtt_us)), 10))))]), 'Map(UInt8, UInt64)'), connect_us_histogram = CAST(arrayReduce('sumMap',
        [arrayMap(s -> toUInt8(round(log2(greatest(reinterpretAsFloat32(concat('\0\0', substring(s, 1, 2))), 1)) * 5)), arrayMap(i -> substring(toString(connect_us), length(toString(connect_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(connect_us)), 10))))],
        [arrayMap(s -> reinterpretAsUInt64(substring(s, 3)), arrayMap(i -> substring(toString(connect_us), length(toString(connect_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(connect_us)), 10))))]), 'Map(UInt8, UInt64)')
    WHERE empty(rtt_us_histogram) AND empty(connect_us_histogram) AND length(toString(rtt_us)) + length(toString(connect_us)) > 2
    SETTINGS mutations_sync = 2;

ALTER TABLE tributary.edges_1h_gens
    ADD COLUMN IF NOT EXISTS rtt_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'round trip times, one sample a record: how many were 2^(key/5) microseconds' CODEC(ZSTD(5)) AFTER retrans_segs,
    ADD COLUMN IF NOT EXISTS connect_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds' CODEC(ZSTD(5)) AFTER rtt_us_histogram,
    ADD COLUMN IF NOT EXISTS rtt_us AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt32),
    ADD COLUMN IF NOT EXISTS connect_us AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt32);

ALTER TABLE tributary.edges_1h_gens
    UPDATE rtt_us_histogram = CAST(arrayReduce('sumMap',
        [arrayMap(s -> toUInt8(round(log2(greatest(reinterpretAsFloat32(concat('\0\0', substring(s, 1, 2))), 1)) * 5)), arrayMap(i -> substring(toString(rtt_us), length(toString(rtt_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(rtt_us)), 10))))],
        [arrayMap(s -> reinterpretAsUInt64(substring(s, 3)), arrayMap(i -> substring(toString(rtt_us), length(toString(rtt_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(rtt_us)), 10))))]), 'Map(UInt8, UInt64)'), connect_us_histogram = CAST(arrayReduce('sumMap',
        [arrayMap(s -> toUInt8(round(log2(greatest(reinterpretAsFloat32(concat('\0\0', substring(s, 1, 2))), 1)) * 5)), arrayMap(i -> substring(toString(connect_us), length(toString(connect_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(connect_us)), 10))))],
        [arrayMap(s -> reinterpretAsUInt64(substring(s, 3)), arrayMap(i -> substring(toString(connect_us), length(toString(connect_us)) % 10 + 10 * i + 1, 10), range(intDiv(length(toString(connect_us)), 10))))]), 'Map(UInt8, UInt64)')
    WHERE empty(rtt_us_histogram) AND empty(connect_us_histogram) AND length(toString(rtt_us)) + length(toString(connect_us)) > 2
    SETTINGS mutations_sync = 2;

-- Of a table that is older than these columns.
ALTER TABLE tributary.flows_raw ADD COLUMN IF NOT EXISTS nat_local_addr IPv6 COMMENT 'the local end\'s address as the remote end knows it, where NAT on this host changed it and the remote end is on another host' CODEC(ZSTD(1)) AFTER orig_remote_addr, ADD COLUMN IF NOT EXISTS nat_local_port UInt16 COMMENT 'the local end\'s port as the remote end knows it, where nat_local_addr says so; else 0' CODEC(T64, ZSTD(1)) AFTER orig_remote_port;

CREATE OR REPLACE VIEW tributary.edges_1m AS
SELECT minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, connections, closed, resets, open, unanswered, failures, failures_by_reason, bytes_to_server, bytes_to_client, retrans_segs, rtt_us_histogram, connect_us_histogram, first_seen, last_seen
FROM tributary.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
WITH
    role = 'client' AS by_client,
    cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS connection,
    cityHash64(exporter_id, flow_id) AS flow,
    arrayExists(s -> s.1 != role AND if(by_client,
        start_time_ns <= s.2 + toIntervalSecond(5) AND end_time_ns >= s.2 - toIntervalSecond(5),
        s.2 <= start_time_ns + toIntervalSecond(5) AND s.3 >= start_time_ns - toIntervalSecond(5)), sightings) AS mirrored,
    arrayExists(s -> s.4 = flow AND s.5 > record_seq AND s.3 < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND s.6 = minute, sightings) AS overtaken,
    toUInt64(own.connections) * sample_rate AS stands_for,
    toUInt64(own.failures) * sample_rate AS failed,
    start_observed AND record_seq = 0 AS opened,
    kind = 'closed' AS ended,
    kind = 'active' AND NOT overtaken AS lives,
    toUInt8(round(log2(greatest(srtt_us, 1)) * 5)) AS rtt_bucket,
    toUInt8(round(log2(greatest(connect_us, 1)) * 5)) AS connect_bucket
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute,
    if(by_client, local_workload, remote_workload) AS client_workload,
    if(by_client, remote_workload, local_workload) AS server_workload,
    if(by_client, remote_port, local_port) AS server_port,
    CAST(multiIf(NOT by_client, 'server_only', mirrored, 'both', 'client_only') AS Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3)) AS class,
    own.network AS network,
    toString(if(by_client, local_why, remote_why)) AS client_why,
    toString(if(by_client, remote_why, local_why)) AS server_why,
    if(by_client, local_zone, remote_zone) AS client_zone,
    if(by_client, local_region, remote_region) AS client_region,
    if(by_client, local_release, remote_release) AS client_release,
    if(by_client, remote_zone, local_zone) AS server_zone,
    if(by_client, remote_region, local_region) AS server_region,
    if(by_client, remote_release, local_release) AS server_release,
    sumIf(stands_for, opened) AS connections,
    sumIf(stands_for, ended) AS closed,
    sumIf(stands_for, ended AND close_reason IN ('rst_local', 'rst_remote')) AS resets,
    sumIf(stands_for, lives AND last_state != 'syn_sent') AS open,
    sumIf(stands_for, lives AND last_state = 'syn_sent') AS unanswered,
    sum(failed) AS failures,
    sumMapIf(map(toString(close_reason), failed), failed > 0) AS failures_by_reason,
    sum(if(by_client, tx_bytes, rx_bytes) * sample_rate) AS bytes_to_server,
    sum(if(by_client, rx_bytes, tx_bytes) * sample_rate) AS bytes_to_client,
    sum(toUInt64(own.retrans_segs) * sample_rate) AS retrans_segs,
    sumMapIf(map(rtt_bucket, toUInt64(1)), srtt_us > 0) AS rtt_us_histogram,
    sumMapIf(map(connect_bucket, toUInt64(1)), connect_us > 0 AND opened AND by_client) AS connect_us_histogram,
    toDateTime64(toDateTime(min(start_time_ns), 'UTC'), 3, 'UTC') AS first_seen,
    toDateTime64(toDateTime(max(end_time_ns), 'UTC'), 3, 'UTC') AS last_seen
FROM tributary.flows_raw AS own FINAL
INNER JOIN
(
    SELECT cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS met, groupArray((role, start_time_ns, end_time_ns, cityHash64(exporter_id, flow_id), record_seq, toStartOfMinute(toDateTime(end_time_ns, 'UTC')))) AS sightings
    FROM tributary.flows_raw FINAL
    WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') - toIntervalSecond(40) AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') + toIntervalSecond(10) AND 1
    GROUP BY met
) AS near ON connection = near.met
WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND 1 AND (by_client OR NOT mirrored)
GROUP BY minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release;

CREATE OR REPLACE VIEW tributary.edges_1h AS
SELECT hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, connections, closed, resets, open, unanswered, failures, failures_by_reason, bytes_to_server, bytes_to_client, retrans_segs, rtt_us_histogram, connect_us_histogram, first_seen, last_seen
FROM tributary.edges_1h_gens
WHERE (hour, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'hour')
UNION ALL
SELECT toStartOfHour(e.minute) AS hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, sum(e.connections) AS connections, sum(e.closed) AS closed, sum(e.resets) AS resets, sumIf(e.open, e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)) AS open, sumIf(e.unanswered, e.minute = toStartOfHour(e.minute) + toIntervalMinute(59)) AS unanswered, sum(e.failures) AS failures, sumMap(e.failures_by_reason) AS failures_by_reason, sum(e.bytes_to_server) AS bytes_to_server, sum(e.bytes_to_client) AS bytes_to_client, sum(e.retrans_segs) AS retrans_segs, sumMap(e.rtt_us_histogram) AS rtt_us_histogram, sumMap(e.connect_us_histogram) AS connect_us_histogram, min(e.first_seen) AS first_seen, max(e.last_seen) AS last_seen
FROM tributary.edges_1m AS e
WHERE e.minute >= (SELECT max(start) + toIntervalHour(count() > 0) FROM tributary.closed WHERE step = 'hour')
GROUP BY hour, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release;

CREATE OR REPLACE VIEW tributary.edges AS
SELECT
    client_workload, client_why, server_workload, server_why, server_port,
    sum(e.connections) AS connections,
    sum(e.closed) AS closed,
    sum(e.resets) AS resets,
    sum(e.failures) AS failures,
    sumMap(e.failures_by_reason) AS failures_by_reason,
    sum(e.bytes_to_server) AS bytes_to_server,
    sum(e.bytes_to_client) AS bytes_to_client,
    sum(e.retrans_segs) AS retrans_segs,
    min(e.first_seen) AS first_seen,
    max(e.last_seen) AS last_seen,
    if((quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e.rtt_us_histogram), mapValues(e.rtt_us_histogram)) AS rtt_us_buckets)[1] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[1] / 5)))) AS rtt_us_p50,
    if(rtt_us_buckets[2] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[2] / 5)))) AS rtt_us_p95,
    if(rtt_us_buckets[3] = 0, 0, toUInt32(round(exp2(rtt_us_buckets[3] / 5)))) AS rtt_us_p99,
    if((quantilesExactWeightedArray(0.5, 0.95, 0.99)(mapKeys(e.connect_us_histogram), mapValues(e.connect_us_histogram)) AS connect_us_buckets)[1] = 0, 0, toUInt32(round(exp2(connect_us_buckets[1] / 5)))) AS connect_us_p50,
    if(connect_us_buckets[2] = 0, 0, toUInt32(round(exp2(connect_us_buckets[2] / 5)))) AS connect_us_p95,
    if(connect_us_buckets[3] = 0, 0, toUInt32(round(exp2(connect_us_buckets[3] / 5)))) AS connect_us_p99,
    sumIf(e.connections, e.class = 'client_only') AS client_only,
    sumIf(e.connections, e.class = 'server_only') AS server_only,
    sumIf(e.connections, e.class = 'both') AS both,
    sumIf(e.open, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS open,
    sumIf(e.unanswered, e.minute = toStartOfMinute(now('UTC') - toIntervalMinute(1))) AS unanswered
FROM tributary.edges_1m AS e
GROUP BY client_workload, client_why, server_workload, server_why, server_port;

ALTER TABLE tributary.edges_1m_gens DROP COLUMN IF EXISTS rtt_us, DROP COLUMN IF EXISTS connect_us;

ALTER TABLE tributary.edges_1h_gens DROP COLUMN IF EXISTS rtt_us, DROP COLUMN IF EXISTS connect_us;

-- migration 17: set_clocks

-- What a minute captured is its reading less the one that had counted less, not the one of the minute before: an exporter's clock may have been set.
CREATE OR REPLACE VIEW tributary.exporter_completeness AS
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
        minute, exporter_id, host, pending,
        toUInt64(greatest(0, read - lagInFrame(read) OVER w)) AS made,
        mapFilter((name, n) -> n > 0, CAST(mapSubtract(losses, lagInFrame(losses) OVER w) AS Map(String, Int64))) AS grown,
        CAST(grown AS Map(String, UInt64)) AS lost_records,
        arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'probe.'), lost_records))) AS lost_before,
        arraySum(mapValues(mapFilter((name, n) -> NOT startsWith(name, 'probe.'), lost_records))) AS lost_after
    FROM
    (
        SELECT
            minute, exporter_id, host,
            toInt64(counters['ring.read'] + counters['ring.walked']) AS read,
            CAST(mapFilter((name, n) -> (name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', 'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_')), counters) AS Map(String, Int64)) AS losses,
            read + arraySum(mapValues(losses)) AS progress,
            toUInt64(greatest(0, toInt64(counters['spool.appended_rows'] + counters['spool.recovered_rows'] + counters['spool.rollup_rows'])
                - toInt64(counters['spool.acked_rows'] + counters['spool.rejected_rows'] + counters['spool.rolled_up_rows']
                + arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'spool.dropped_rows_'), counters)))))) AS pending
        FROM tributary.exporter_health FINAL
        WHERE 1
    )
    WINDOW w AS (PARTITION BY exporter_id ORDER BY progress, minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
);

-- migration 18: translated

-- What the local end is called beyond a host that translates its address: by that its peer's record is of the same connection.
ALTER TABLE tributary.flows_raw ADD COLUMN IF NOT EXISTS nat_local_addr IPv6 COMMENT 'the local end\'s address as the remote end knows it, where NAT on this host changed it and the remote end is on another host' CODEC(ZSTD(1)) AFTER orig_remote_addr, ADD COLUMN IF NOT EXISTS nat_local_port UInt16 COMMENT 'the local end\'s port as the remote end knows it, where nat_local_addr says so; else 0' CODEC(T64, ZSTD(1)) AFTER orig_remote_port;

CREATE OR REPLACE VIEW tributary.flows AS
SELECT
    exporter_id,
    host,
    boot_id,
    network,
    comm,
    netns,
    flow_id,
    record_seq,
    batch_seq,
    sock_cookie,
    cgroup_id,
    version,
    kind,
    role,
    role_source,
    close_reason,
    last_state,
    sample_rate,
    connections,
    failures,
    start_time_ns,
    interval_start_ns,
    end_time_ns,
    received_time_ns,
    local_addr,
    remote_addr,
    orig_remote_addr,
    nat_local_addr,
    local_port,
    remote_port,
    orig_remote_port,
    nat_local_port,
    tx_bytes,
    rx_bytes,
    tx_bytes_before,
    rx_bytes_before,
    tx_segs,
    rx_segs,
    retrans_segs,
    retrans_syn,
    retrans_closing,
    retrans_bytes,
    lost_segs,
    reord_seen,
    delivered_ce,
    rst_sent,
    rst_received,
    rto,
    srtt_us,
    min_rtt_us,
    rttvar_us,
    connect_us,
    busy_us,
    rwnd_limited_us,
    sndbuf_limited_us,
    snd_cwnd,
    mss,
    start_observed,
    accepted,
    replay,
    errno,
    pid,
    uid,
    local_workload,
    local_instance,
    local_zone,
    local_region,
    local_release,
    remote_workload,
    remote_instance,
    remote_zone,
    remote_region,
    remote_release,
    local_evidence,
    remote_evidence,
    local_why,
    remote_why,
    peer_observed,
    remote_last_workload,
    remote_last_instance,
    remote_last_seen_ns
FROM tributary.flows_raw FINAL;

CREATE OR REPLACE VIEW tributary.edges_1m AS
SELECT minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release, connections, closed, resets, open, unanswered, failures, failures_by_reason, bytes_to_server, bytes_to_client, retrans_segs, rtt_us_histogram, connect_us_histogram, first_seen, last_seen
FROM tributary.edges_1m_gens
WHERE (minute, gen) IN (SELECT start, gen FROM tributary.closed_latest WHERE step = 'minute')
UNION ALL
WITH
    role = 'client' AS by_client,
    cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS connection,
    cityHash64(exporter_id, flow_id) AS flow,
    arrayExists(s -> s.1 != role AND if(by_client,
        start_time_ns <= s.2 + toIntervalSecond(5) AND end_time_ns >= s.2 - toIntervalSecond(5),
        s.2 <= start_time_ns + toIntervalSecond(5) AND s.3 >= start_time_ns - toIntervalSecond(5)), sightings) AS mirrored,
    arrayExists(s -> s.4 = flow AND s.5 > record_seq AND s.3 < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND s.6 = minute, sightings) AS overtaken,
    toUInt64(own.connections) * sample_rate AS stands_for,
    toUInt64(own.failures) * sample_rate AS failed,
    start_observed AND record_seq = 0 AS opened,
    kind = 'closed' AS ended,
    kind = 'active' AND NOT overtaken AS lives,
    toUInt8(round(log2(greatest(srtt_us, 1)) * 5)) AS rtt_bucket,
    toUInt8(round(log2(greatest(connect_us, 1)) * 5)) AS connect_bucket
SELECT
    toStartOfMinute(toDateTime(end_time_ns, 'UTC')) AS minute,
    if(by_client, local_workload, remote_workload) AS client_workload,
    if(by_client, remote_workload, local_workload) AS server_workload,
    if(by_client, remote_port, local_port) AS server_port,
    CAST(multiIf(NOT by_client, 'server_only', mirrored, 'both', 'client_only') AS Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3)) AS class,
    own.network AS network,
    toString(if(by_client, local_why, remote_why)) AS client_why,
    toString(if(by_client, remote_why, local_why)) AS server_why,
    if(by_client, local_zone, remote_zone) AS client_zone,
    if(by_client, local_region, remote_region) AS client_region,
    if(by_client, local_release, remote_release) AS client_release,
    if(by_client, remote_zone, local_zone) AS server_zone,
    if(by_client, remote_region, local_region) AS server_region,
    if(by_client, remote_release, local_release) AS server_release,
    sumIf(stands_for, opened) AS connections,
    sumIf(stands_for, ended) AS closed,
    sumIf(stands_for, ended AND close_reason IN ('rst_local', 'rst_remote')) AS resets,
    sumIf(stands_for, lives AND last_state != 'syn_sent') AS open,
    sumIf(stands_for, lives AND last_state = 'syn_sent') AS unanswered,
    sum(failed) AS failures,
    sumMapIf(map(toString(close_reason), failed), failed > 0) AS failures_by_reason,
    sum(if(by_client, tx_bytes, rx_bytes) * sample_rate) AS bytes_to_server,
    sum(if(by_client, rx_bytes, tx_bytes) * sample_rate) AS bytes_to_client,
    sum(toUInt64(own.retrans_segs) * sample_rate) AS retrans_segs,
    sumMapIf(map(rtt_bucket, toUInt64(1)), srtt_us > 0) AS rtt_us_histogram,
    sumMapIf(map(connect_bucket, toUInt64(1)), connect_us > 0 AND opened AND by_client) AS connect_us_histogram,
    toDateTime64(toDateTime(min(start_time_ns), 'UTC'), 3, 'UTC') AS first_seen,
    toDateTime64(toDateTime(max(end_time_ns), 'UTC'), 3, 'UTC') AS last_seen
FROM tributary.flows_raw AS own FINAL
INNER JOIN
(
    SELECT cityHash64(network, if(role = 'client', if(nat_local_port != 0, nat_local_addr, local_addr), remote_addr), if(role = 'client', if(nat_local_port != 0, nat_local_port, local_port), remote_port), if(role = 'client', remote_addr, if(nat_local_port != 0, nat_local_addr, local_addr)), if(role = 'client', remote_port, if(nat_local_port != 0, nat_local_port, local_port))) AS met, groupArray((role, start_time_ns, end_time_ns, cityHash64(exporter_id, flow_id), record_seq, toStartOfMinute(toDateTime(end_time_ns, 'UTC')))) AS sightings
    FROM tributary.flows_raw FINAL
    WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') - toIntervalSecond(40) AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') + toIntervalSecond(10) AND 1
    GROUP BY met
) AS near ON connection = near.met
WHERE role != 'unknown' AND NOT replay AND end_time_ns >= (SELECT toDateTime64(max(start), 9, 'UTC') + toIntervalMinute(count() > 0) FROM tributary.closed WHERE step = 'minute') AND end_time_ns < toDateTime64('2200-01-01 00:00:00', 9, 'UTC') AND 1 AND (by_client OR NOT mirrored)
GROUP BY minute, client_workload, server_workload, server_port, class, network, client_why, server_why, client_zone, client_region, client_release, server_zone, server_region, server_release;

-- migration 19: corrected_verdicts

-- When a verdict was found: it may be corrected while a regression is young, and those who were told are told again.
ALTER TABLE tributary.regressions_raw
    ADD COLUMN IF NOT EXISTS verdict_at DateTime64(3, 'UTC') DEFAULT opened_at COMMENT 'when the verdict was found; later than opened_at: it was corrected then';

CREATE OR REPLACE VIEW tributary.regressions AS
SELECT * EXCEPT (version), closed_at = toDateTime64(0, 3, 'UTC') AS open
FROM tributary.regressions_raw FINAL;

-- migration 20: map

-- The edges of an hour once more, without zones, regions, releases, networks and classes: a tenth of the rows, for those who ask only who talks to whom
-- (docs/schema.md). An hour's rows have the gen of its edges_1h_gens, and its row in closed says that they are there: hours computed before this
-- migration have none, and are read from edges_1h_gens.
CREATE TABLE IF NOT EXISTS tributary.map_1h_gens
(
    hour DateTime('UTC') COMMENT 'start of the hour' CODEC(ZSTD(9)),
    gen UInt64 COMMENT 'the computation' CODEC(ZSTD(9)),
    client_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_workload LowCardinality(String) COMMENT 'as in flows' CODEC(ZSTD(1)),
    server_port UInt16 COMMENT 'the server\'s port' CODEC(ZSTD(1)),
    client_why LowCardinality(String) COMMENT 'why the client has no name' CODEC(ZSTD(1)),
    server_why LowCardinality(String) COMMENT 'why the server has no name' CODEC(ZSTD(1)),
    connections SimpleAggregateFunction(sum, UInt64) COMMENT 'connections opened, failed attempts among them' CODEC(T64, ZSTD(1)),
    closed SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that ended after they had been established' CODEC(T64, ZSTD(1)),
    resets SimpleAggregateFunction(sum, UInt64) COMMENT 'of those closed, ended by a reset' CODEC(T64, ZSTD(1)),
    open SimpleAggregateFunction(sum, UInt64) COMMENT 'connections that live at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    unanswered SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that still wait at the end of the minute or hour' CODEC(T64, ZSTD(1)),
    failures SimpleAggregateFunction(sum, UInt64) COMMENT 'attempts that failed' CODEC(T64, ZSTD(1)),
    failures_by_reason SimpleAggregateFunction(sumMap, Map(String, UInt64)) COMMENT 'failed attempts by close_reason' CODEC(ZSTD(1)),
    bytes_to_server SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from client to server' CODEC(T64('bit'), ZSTD(1)),
    bytes_to_client SimpleAggregateFunction(sum, UInt64) COMMENT 'payload bytes from server to client' CODEC(T64('bit'), ZSTD(1)),
    retrans_segs SimpleAggregateFunction(sum, UInt64) COMMENT 'segments sent again by the end whose record counts' CODEC(T64, ZSTD(1)),
    rtt_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'round trip times, one sample a record: how many were 2^(key/5) microseconds' CODEC(ZSTD(5)),
    connect_us_histogram SimpleAggregateFunction(sumMap, Map(UInt8, UInt64)) COMMENT 'times to connect, one sample a connection that a client opened: how many took 2^(key/5) microseconds' CODEC(ZSTD(5)),
    first_seen SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'second in which the first connection started' CODEC(GCD, Delta(8), ZSTD(1)),
    last_seen SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'second in which the last record ended' CODEC(GCD, Delta(8), ZSTD(1)),
    client_only SimpleAggregateFunction(sum, UInt64) COMMENT 'connections of this class' CODEC(T64, ZSTD(1)),
    server_only SimpleAggregateFunction(sum, UInt64) COMMENT 'connections of this class' CODEC(T64, ZSTD(1)),
    both SimpleAggregateFunction(sum, UInt64) COMMENT 'connections of this class' CODEC(T64, ZSTD(1)),
    INDEX ends_filter (client_workload, server_workload) TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour, 'UTC')
ORDER BY (toDate(hour, 'UTC'), client_workload, server_workload, server_port, client_why, server_why, hour, gen)
TTL hour + toIntervalDay(400)
SETTINGS non_replicated_deduplication_window = 1000, ttl_only_drop_parts = 1;

ALTER TABLE tributary.closed ADD COLUMN IF NOT EXISTS mapped Bool DEFAULT false COMMENT 'of an hour: map_1h_gens has it too';

-- migration 21: readings

-- Every answer says how complete it is: of each reading that needs a few numbers, and all counters of a day of 100 exporters are 95 MB (docs/schema.md).
-- Readings from before get theirs in the background; until then they are made out of the counters when they are read.
ALTER TABLE tributary.exporter_health
    ADD COLUMN IF NOT EXISTS read_rows UInt64 MATERIALIZED counters['ring.read'] + counters['ring.walked'] COMMENT 'of counters: records that the exporter has read' CODEC(T64, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS lost_rows Map(LowCardinality(String), UInt64) MATERIALIZED mapFilter((name, n) -> n > 0 AND (name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', 'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_')), counters) COMMENT 'of counters: those of lost records' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_from_ns UInt64 MATERIALIZED counters['gap.from_ns'] COMMENT 'of counters: what the run before did not see' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_to_ns UInt64 MATERIALIZED counters['gap.to_ns'] COMMENT 'of counters: the end of that' CODEC(ZSTD(1)),
    ADD COLUMN IF NOT EXISTS gap_killed UInt64 MATERIALIZED counters['gap.killed'] COMMENT 'of counters: 1 if the run before was killed' CODEC(ZSTD(1));

ALTER TABLE tributary.exporter_health
    MATERIALIZE COLUMN read_rows, MATERIALIZE COLUMN lost_rows, MATERIALIZE COLUMN gap_from_ns, MATERIALIZE COLUMN gap_to_ns, MATERIALIZE COLUMN gap_killed;

-- migration 22: shared_addresses

-- An address that stands for others from some moment on is released apart from one that is given up: past such an end nobody is named, however little (docs/ownership.md).
ALTER TABLE tributary.ownership
    MODIFY COLUMN event Enum8('hello' = 0, 'claim' = 1, 'release' = 2, 'whole_set' = 3, 'repeated_claim' = 4, 'repeated_set' = 5, 'watermark' = 6, 'shared' = 7)
        COMMENT 'shared: a release, because the address stands for others too; whole_set: what was not claimed on this stream has ended; repeated: said again for those who come later' CODEC(ZSTD(1));
