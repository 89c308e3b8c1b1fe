package schema

import "strings"

// EdgesSelect returns the SELECT behind the view edges, over the rows of flows for which the SQL condition holds.
//
// A connection is recorded by both of its ends where both have an exporter. It counts once: the client's record is taken, and the
// server's only where no client's record of the same addresses and ports covers its start (5 s of tolerance: two clocks). Ends whose
// role is unknown are in no edge. Every sum is weighted by sample_rate.
func EdgesSelect(database, condition string) string {
	return strings.NewReplacer("$database", database, "$condition", condition).Replace(edgesSelect)
}

const edgesSelect = `WITH
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
        WHERE ($condition) AND role != 'unknown'
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
GROUP BY client_workload, client_why, server_workload, server_why, server_port`
