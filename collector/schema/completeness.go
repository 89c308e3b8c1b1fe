package schema

import "strings"

// readRows is how many records an exporter has read, of its counters.
const readRows = "counters['ring.read'] + counters['ring.walked']"

// LossCondition says which of an exporter's counters, by name, count records that are lost: those that say so, and some that have names
// of their own. A record that was repaired later (event.forgotten) is none. It is in lost_rows of exporter_health: who changes it adds a migration.
const LossCondition = "(name IN ('probe.ring_full', 'probe.ends_missed', 'probe.recursion', 'probe.map_full', 'probe.map_nomem', 'ring.invalid', " +
	"'batch.refused_rows', 'spool.rejected_rows') OR match(name, '[._](dropped|lost)_'))"

// CompletenessOf returns the SELECT of what each exporter captured and lost, by minute, out of the readings for which the SQL condition
// holds. A minute's numbers are its reading less the one before, so the condition should take some minutes more than are asked for. Before is what had counted
// less: where an exporter's clock was set, later minutes are not later.
func CompletenessOf(database, condition string) string {
	return strings.NewReplacer("$database", database, "$condition", condition, "$loss", LossCondition, "$read", readRows).Replace(completenessOf)
}

// What a window or a lambda carries along it copies for every reading or element: only the few counters of losses go through them. (With all
// counters a day of 100 exporters did not fit into a gigabyte.)
const completenessOf = `SELECT
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
            toInt64($read) AS read,
            CAST(mapFilter((name, n) -> $loss, counters) AS Map(String, Int64)) AS losses,
            read + arraySum(mapValues(losses)) AS progress,
            toUInt64(greatest(0, toInt64(counters['spool.appended_rows'] + counters['spool.recovered_rows'] + counters['spool.rollup_rows'])
                - toInt64(counters['spool.acked_rows'] + counters['spool.rejected_rows'] + counters['spool.rolled_up_rows']
                + arraySum(mapValues(mapFilter((name, n) -> startsWith(name, 'spool.dropped_rows_'), counters)))))) AS pending
        FROM $database.exporter_health FINAL
        WHERE $condition
    )
    WINDOW w AS (PARTITION BY exporter_id ORDER BY progress, minute ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)`
