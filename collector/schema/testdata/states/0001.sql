-- What the collector of 21 November 2026 left behind: version 1 of the schema, and three connections.

CREATE DATABASE $database;

CREATE TABLE $database.schema_migrations (version UInt32, name String, applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version;

INSERT INTO $database.schema_migrations (version, name) SELECT 1, 'flows';

-- migration 1: flows

-- Every version of every record. The key holds no name and nothing else that may change, so a row that is named later replaces itself.
-- Partitions are UTC days of end_time_ns: the sink cuts its blocks at the same edge.
CREATE TABLE IF NOT EXISTS $database.flows_raw
(
    exporter_id LowCardinality(String) COMMENT 'one run of one exporter; with flow_id and record_seq the row\'s key' CODEC(ZSTD(1)),
    host LowCardinality(String) COMMENT 'name of the host the exporter ran on' CODEC(ZSTD(1)),
    boot_id LowCardinality(String) COMMENT 'one boot of that host' CODEC(ZSTD(1)),
    network LowCardinality(String) COMMENT 'address space of both addresses: equal addresses in different networks are different machines' CODEC(ZSTD(1)),
    comm LowCardinality(String) COMMENT 'name of the program\'s thread (at most 15 bytes) that opened, accepted or closed the socket' CODEC(ZSTD(1)),
    netns LowCardinality(String) COMMENT 'network namespace of the socket: its name under /run/netns, or its inode number' CODEC(ZSTD(1)),
    flow_id UInt64 COMMENT 'one end of one connection; counts up within exporter_id' CODEC(Delta, ZSTD(1)),
    record_seq UInt32 COMMENT 'number of the record within its flow, from 0' CODEC(T64, ZSTD(1)),
    batch_seq UInt64 COMMENT 'the batch that carried the row; counts up within exporter_id, from 1' CODEC(Delta, ZSTD(1)),
    sock_cookie UInt64 COMMENT 'the kernel\'s number of the socket, unique for a boot' CODEC(T64, ZSTD(1)),
    cgroup_id UInt64 COMMENT 'cgroup (v2) of the socket\'s owner' CODEC(T64, ZSTD(1)),
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
    interval_start_ns DateTime64(9) COMMENT 'start of the interval the row\'s counters cover' CODEC(ZSTD(1)),
    end_time_ns DateTime64(9) COMMENT 'end of the interval; in closed and failed records the end of the connection; decides partition and minute' CODEC(ZSTD(1)),
    received_time_ns DateTime64(9) COMMENT 'when the collector took the batch in, by its clock' CODEC(ZSTD(1)),
    local_addr IPv6 COMMENT 'the local end\'s address; IPv4 mapped (::ffff:a.b.c.d)' CODEC(ZSTD(1)),
    remote_addr IPv6 COMMENT 'the remote end\'s address; IPv4 mapped' CODEC(ZSTD(1)),
    orig_remote_addr IPv6 COMMENT 'the address the program asked for, where NAT or a virtual address changed it' CODEC(ZSTD(1)),
    local_port UInt16 COMMENT 'the local end\'s port' CODEC(T64, ZSTD(1)),
    remote_port UInt16 COMMENT 'the remote end\'s port' CODEC(T64, ZSTD(1)),
    orig_remote_port UInt16 COMMENT 'the port the program asked for, where NAT or a virtual address changed it' CODEC(T64, ZSTD(1)),
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
    pid UInt32 COMMENT 'process that opened, accepted or closed the socket' CODEC(T64, ZSTD(1)),
    uid UInt32 COMMENT 'user of that process' CODEC(T64, ZSTD(1)),
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
ORDER BY (toStartOfMinute(end_time_ns), exporter_id, flow_id, record_seq)
TTL toDateTime(end_time_ns) + toIntervalHour(168)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

-- Each record once, in its highest version.
CREATE VIEW IF NOT EXISTS $database.flows AS
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
    local_port,
    remote_port,
    orig_remote_port,
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
FROM $database.flows_raw FINAL;

-- Who talks to what, over everything that is still kept; for a shorter time ask with the same SELECT and a condition on end_time_ns.
CREATE VIEW IF NOT EXISTS $database.edges AS
WITH
    ends AS
    (
        SELECT
            exporter_id,
            flow_id,
            any(role) AS side,
            any(network) AS net,
            if(side = 'client', any(local_addr), any(remote_addr)) AS client_addr,
            if(side = 'client', any(local_port), any(remote_port)) AS client_port,
            if(side = 'client', any(remote_addr), any(local_addr)) AS server_addr,
            if(side = 'client', any(remote_port), any(local_port)) AS port,
            argMax((local_workload, toString(local_why)), (local_workload != '', version, record_seq)) AS local_end,
            argMax((remote_workload, toString(remote_why)), (remote_workload != '', version, record_seq)) AS remote_end,
            min(start_time_ns) AS started,
            max(end_time_ns) AS seen,
            argMax(kind, record_seq) AS last_kind,
            argMax(last_state, record_seq) AS state,
            argMax(toString(close_reason), record_seq) AS reason,
            sumIf(toUInt64(connections) * sample_rate, start_observed AND record_seq = 0) AS opened,
            sum(toUInt64(failures) * sample_rate) AS failed,
            sum(tx_bytes * sample_rate) AS tx,
            sum(rx_bytes * sample_rate) AS rx,
            sum(toUInt64(retrans_segs) * sample_rate) AS retrans,
            argMaxIf(srtt_us, record_seq, srtt_us > 0) AS rtt,
            max(connect_us) AS connect
        FROM $database.flows
        WHERE (1) AND role != 'unknown'
        GROUP BY exporter_id, flow_id
    ),
    client_ends AS
    (
        SELECT net, client_addr, client_port, server_addr, port, started AS client_started, seen AS client_seen
        FROM ends
        WHERE side = 'client'
    ),
    server_only AS
    (
        SELECT s.*
        FROM (SELECT *, started + toIntervalSecond(5) AS latest FROM ends WHERE side = 'server') AS s
        ASOF LEFT JOIN client_ends AS c
            ON s.net = c.net AND s.client_addr = c.client_addr AND s.client_port = c.client_port
                AND s.server_addr = c.server_addr AND s.port = c.port AND s.latest >= c.client_started
        WHERE toUnixTimestamp64Nano(c.client_started) = 0 OR c.client_seen < s.started - toIntervalSecond(5)
    )
SELECT
    if(side = 'client', local_end.1, remote_end.1) AS client_workload,
    if(side = 'client', local_end.2, remote_end.2) AS client_why,
    if(side = 'client', remote_end.1, local_end.1) AS server_workload,
    if(side = 'client', remote_end.2, local_end.2) AS server_why,
    port AS server_port,
    sum(opened) AS connections,
    sum(failed) AS failures,
    sumMapIf(map(reason, failed), failed > 0) AS failures_by_reason,
    countIf(last_kind = 'active' AND state = 'syn_sent') AS unanswered,
    countIf(last_kind = 'active' AND state != 'syn_sent') AS open,
    sum(if(side = 'client', tx, rx)) AS bytes_to_server,
    sum(if(side = 'client', rx, tx)) AS bytes_to_client,
    sum(retrans) AS retrans_segs,
    toUInt32(ifNotFinite(quantileTDigestIf(0.5)(rtt, rtt > 0), 0)) AS rtt_us_p50,
    toUInt32(ifNotFinite(quantileTDigestIf(0.95)(rtt, rtt > 0), 0)) AS rtt_us_p95,
    toUInt32(ifNotFinite(quantileTDigestIf(0.5)(connect, connect > 0), 0)) AS connect_us_p50,
    toUInt32(ifNotFinite(quantileTDigestIf(0.95)(connect, connect > 0), 0)) AS connect_us_p95,
    sumIf(opened, side = 'server') AS server_only,
    min(started) AS first_seen,
    max(seen) AS last_seen
FROM
(
    SELECT * FROM ends WHERE side = 'client'
    UNION ALL
    SELECT * EXCEPT (latest) FROM server_only
)
GROUP BY client_workload, client_why, server_workload, server_why, server_port;

INSERT INTO $database.flows_raw (exporter_id, flow_id, kind, role, start_observed, network, local_addr, local_port, remote_addr, remote_port, local_workload, remote_workload, start_time_ns, end_time_ns)
SELECT 'old', number, 'closed', 'client', true, 'default', '::ffff:10.0.0.1', 40000 + number, '::ffff:10.0.0.2', 80, 'shop/web', 'shop/api', now64(9) - toIntervalMinute(5), now64(9) - toIntervalMinute(4)
FROM numbers(3);
