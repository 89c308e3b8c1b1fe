package schema

import "strings"

// The ledger of reachability says of each path (client workload, server workload, port) how its attempts went, by minute. It is made of
// clients' records alone: nobody else sees an attempt that failed. An address that has lost its owner stands for its last owner.
//
// A failure has a phase and a cause, written connect.refused. In the phase connect nothing was established: refused, no_answer (also one
// that was given up when an answer was overdue), unreachable, no_port, policy. In the phase data the connection stood, the client sent, and no
// byte came back: early_close (the server closed it), reset (the server reset it), no_reply. A connection that lives over 5 s is judged by
// how it was opened, and by its first 5 s. An attempt that its client gave up before an answer was due is none. A rollup counts its connections as
// attempts, and those that did not fail as successes; of its failures the cause is known where all had the same.

// Path is the SQL condition for records of attempts, and the server's name in them.
const (
	PathCondition = "role = 'client' AND NOT replay AND local_workload != ''"
	PathServer    = "if(remote_workload != '', remote_workload, remote_last_workload)"
)

// Overdue is how long an answer may take, in SQL: whoever gave up later has waited in vain.
const Overdue = "toIntervalMillisecond(200)"

// ReachabilityOf returns the SELECT of the ledger of the records that end at from or later and before to, with the arguments of EdgesOf.
func ReachabilityOf(database, at, from, to string) string {
	return strings.NewReplacer("$database", database, "$at", at, "$from", from, "$to", to, "$condition", PathCondition, "$server", PathServer,
		"$overdue", Overdue).Replace(reachabilityOf)
}

const reachabilityOf = `SELECT
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
        $at AS minute, local_workload AS client_workload, $server AS server_workload, remote_port AS server_port, start_time_ns, sample_rate,
        toUInt64(connections) * sample_rate AS stands_for,
        start_observed AND record_seq = 0 AS opened,
        if(kind = 'rollup', toUInt64(own.failures) * sample_rate, 0) AS fell,
        kind = 'rollup' OR (kind IN ('active', 'closed') AND last_state != 'syn_sent') AS established,
        kind = 'closed' AND record_seq = 0 AS whole,
        whole AND rx_bytes > 0 AS replied,
        end_time_ns > start_time_ns + $overdue AS waited,
        kind = 'failed' AND (close_reason = 'unknown' OR (close_reason = 'aborted' AND NOT waited)) AS given_up,
        multiIf(
            given_up, '',
            kind = 'failed' OR fell > 0, 'connect.' || if(close_reason IN ('refused', 'unreachable', 'no_port', 'policy'), toString(close_reason), 'no_answer'),
            NOT whole OR rx_bytes > 0, '',
            close_reason = 'rst_remote', 'data.reset',
            close_reason = 'fin_remote', 'data.early_close',
            tx_bytes > 0 AND waited, 'data.no_reply', '') AS cause
    FROM $database.flows_raw AS own FINAL
    WHERE $condition AND end_time_ns >= $from AND end_time_ns < $to
)
WHERE server_workload != ''
GROUP BY minute, client_workload, server_workload, server_port`

// ReachabilityColumns are the columns of the view reachability behind the time.
func ReachabilityColumns() string {
	return "client_workload, server_workload, server_port, attempts, successes, replies, failures, failures_by_cause, sample_rate, last_success, last_failure"
}
