package schema

import (
	"cmp"
	"fmt"
	"strings"
)

// An edge is a client workload that asks a server workload on a port. Its numbers are sums over single records, kept in two resolutions
// (edges_1m, edges_1h) and computed here.
//
// A connection is recorded by both of its ends where both have an exporter, and counts once: each record is in exactly one class. A
// client's record is `both` where a server's record of the same connection is near it, else `client_only`; a server's record is
// `server_only` where no client's record is near it, and in no class where there is one. The same connection means the same addresses and
// ports, and times that overlap within 5 s (two clocks). Near means within the records' own rhythm: a connection that lives has a record
// at 5 s and every 30 s, so whatever else it has is at most 35 s before or 5 s after. Records whose role is unknown are in no edge, nor
// are those of a recording (replay). Every sum is weighted by sample_rate.

const classType = "Enum8('client_only' = 1, 'server_only' = 2, 'both' = 3)"

// EdgeKey are the columns that tell edges apart.
func EdgeKey() []string {
	return []string{
		"client_workload", "server_workload", "server_port", "class", "network", "client_why", "server_why",
		"client_zone", "client_region", "client_release", "server_zone", "server_region", "server_release",
	}
}

// MapKey are the columns that tell the edges of a map apart.
func MapKey() []string {
	return []string{"client_workload", "server_workload", "server_port", "client_why", "server_why"}
}

var classes = []string{"client_only", "server_only", "both"}

// edgeMeasure is a number of an edge: how a table keeps it, how rows of edges become one, and how it is read.
type edgeMeasure struct {
	name, kept, codec, doc string
	fold                   string // makes one row out of several, e
	shown                  bool   // the folded number is what people read
}

// First and last seen are kept to the second.
const (
	sumState  = "SimpleAggregateFunction(sum, UInt64)"
	timeCodec = "GCD, Delta(8), ZSTD(1)"
	byteCodec = "T64('bit'), ZSTD(1)"
)

func edgeMeasures() []edgeMeasure {
	sum := func(name, doc string) edgeMeasure {
		return edgeMeasure{name: name, kept: sumState, codec: codecSmall, doc: doc, fold: "sum(e." + name + ")", shown: true}
	}
	bytes := func(name, doc string) edgeMeasure {
		m := sum(name, doc)
		m.codec = byteCodec
		return m
	}
	histogram := func(name, doc string) edgeMeasure {
		return edgeMeasure{name: name, kept: histogramType, codec: histogramCodec, doc: doc, fold: "sumMap(e." + name + ")"}
	}
	return []edgeMeasure{
		sum("connections", "connections opened, failed attempts among them"),
		sum("closed", "connections that ended after they had been established"),
		sum("resets", "of those closed, ended by a reset"),
		sum("open", "connections that live at the end of the minute or hour"),
		sum("unanswered", "attempts that still wait at the end of the minute or hour"),
		sum("failures", "attempts that failed"),
		{
			name: "failures_by_reason", kept: "SimpleAggregateFunction(sumMap, Map(String, UInt64))", codec: codecPlain, doc: "failed attempts by close_reason",
			fold: "sumMap(e.failures_by_reason)", shown: true,
		},
		bytes("bytes_to_server", "payload bytes from client to server"),
		bytes("bytes_to_client", "payload bytes from server to client"),
		sum("retrans_segs", "segments sent again by the end whose record counts"),
		histogram("rtt_us_histogram", rttDoc),
		histogram("connect_us_histogram", connectDoc),
		{
			name: "first_seen", kept: "SimpleAggregateFunction(min, DateTime64(3, 'UTC'))", codec: timeCodec, doc: "second in which the first connection started",
			fold: "min(e.first_seen)", shown: true,
		},
		{
			name: "last_seen", kept: "SimpleAggregateFunction(max, DateTime64(3, 'UTC'))", codec: timeCodec, doc: "second in which the last record ended",
			fold: "max(e.last_seen)", shown: true,
		},
	}
}

// EdgeColumns returns the columns of edges_1m and edges_1h behind the time: the key, then the measures.
func EdgeColumns() []string {
	columns := EdgeKey()
	for _, m := range edgeMeasures() {
		columns = append(columns, m.name)
	}
	return columns
}

// FoldEdges returns the expressions that make one row of edges out of several rows e of the same key; open and unanswered are those of
// the rows for which the condition last holds.
func FoldEdges(last string) string {
	var out []string
	for _, m := range edgeMeasures() {
		fold := m.fold
		if m.name == "open" || m.name == "unanswered" {
			fold = "sumIf(e." + m.name + ", " + last + ")"
		}
		out = append(out, fold+" AS "+m.name)
	}
	return strings.Join(out, ", ")
}

// MapColumns returns the columns of map_1h_gens behind hour and gen: the key, the measures, and connections by class.
func MapColumns() []string {
	columns := MapKey()
	for _, m := range edgeMeasures() {
		columns = append(columns, m.name)
	}
	return append(columns, classes...)
}

// FoldMap returns the expressions that make one row of map_1h_gens, behind its key, out of the rows e of edges_1h_gens of one hour.
func FoldMap() string {
	var out []string
	for _, m := range edgeMeasures() {
		out = append(out, m.fold+" AS "+m.name)
	}
	return strings.Join(append(out, ofClasses()...), ", ")
}

func ofClasses() []string {
	var out []string
	for _, class := range classes {
		out = append(out, "sumIf(e.connections, e.class = '"+class+"') AS "+class)
	}
	return out
}

// ShowEdges returns the expressions that make numbers for people out of rows e of edges, all but open and unanswered: those are of a
// moment, not of a time.
func ShowEdges() string {
	out := sumEdges(func(m edgeMeasure) string { return m.fold })
	out = append(append(out, showQuantiles("rtt_us")...), showQuantiles("connect_us")...)
	return strings.Join(append(out, ofClasses()...), ",\n    ")
}

// ReadEdges returns the same for a program that adds up several answers: histograms in place of quantiles. The rows e are of edges, or mapped, of
// map_1h_gens.
func ReadEdges(mapped bool) string {
	out := sumEdges(func(m edgeMeasure) string {
		if m.name == "failures_by_reason" { // most edges have none: a condition is quicker than to look into empty maps
			return "sumMapIf(e.failures_by_reason, e.failures > 0)"
		}
		return m.fold
	})
	for _, m := range edgeMeasures() {
		if !m.shown {
			out = append(out, m.fold+" AS "+m.name)
		}
	}
	if !mapped {
		return strings.Join(append(out, ofClasses()...), ",\n    ")
	}
	for _, class := range classes {
		out = append(out, "sum(e."+class+") AS "+class)
	}
	return strings.Join(out, ",\n    ")
}

// sumEdges returns the expressions of what is shown of a sum, but open and unanswered.
func sumEdges(fold func(edgeMeasure) string) []string {
	var out []string
	for _, m := range edgeMeasures() {
		if m.shown && m.name != "open" && m.name != "unanswered" {
			out = append(out, fold(m)+" AS "+m.name)
		}
	}
	return out
}

// edgeDefinitions are the columns behind time and gen.
func edgeDefinitions() string {
	return strings.Join(append(keyDefinitions(EdgeKey()), measureDefinitions()...), ",\n")
}

// mapDefinitions are the columns of map_1h_gens behind hour and gen.
func mapDefinitions() string {
	lines := append(keyDefinitions(MapKey()), measureDefinitions()...)
	for _, class := range classes {
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT 'connections of this class' CODEC(%s)", class, sumState, codecSmall))
	}
	return strings.Join(lines, ",\n")
}

func keyDefinitions(key []string) []string {
	types := map[string]string{"server_port": "UInt16", "class": classType}
	docs := map[string]string{
		"class":      "whose records: client_only, server_only (no client recorded the connection), both (the client's count)",
		"client_why": "why the client has no name", "server_why": "why the server has no name", "server_port": "the server's port",
	}
	var lines []string
	for _, name := range key {
		typ, doc := types[name], docs[name]
		if typ == "" {
			typ = typeText
		}
		if doc == "" {
			doc = "as in flows"
		}
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT '%s' CODEC(%s)", name, typ, strings.ReplaceAll(doc, "'", `\'`), codecPlain))
	}
	return lines
}

func measureDefinitions() []string {
	var lines []string
	for _, m := range edgeMeasures() {
		lines = append(lines, fmt.Sprintf("    %s %s COMMENT '%s' CODEC(%s)", m.name, m.kept, m.doc, m.codec))
	}
	return lines
}

// Part is a part of the connections, by their hash. The zero value is all of them.
type Part struct{ Of, Index uint64 }

func (p Part) condition(connection string) string {
	if p.Of <= 1 {
		return "1"
	}
	return fmt.Sprintf("%s %% %d = %d", connection, p.Of, p.Index)
}

// EdgesOf returns the SELECT of the edges of the records that end at from or later and before to, from single records. from, to and at are
// SQL expressions: times, and the value of the first column, which is the minute in edges_1m.
func EdgesOf(database, at, from, to string, part Part) string {
	key := EdgeKey()
	text := edgesWith + "\nSELECT\n    $at AS minute,\n" + edgeExpressions(key) + edgesMeasured + edgesFrom + "\nGROUP BY minute, " + strings.Join(key, ", ")
	return strings.NewReplacer("$part", part.condition("connection"), "$met", part.condition("met"), "$at", at, "$sighted", ", "+at, "$alike", " AND s.6 = minute",
		"$filter", "", "$living", "").Replace(ofRecords(text, database, from, to))
}

// MapOf returns the SELECT of the same by the columns of MapKey, with connections by class, in the columns of ReadEdges. Of their columns, and of client_release and
// server_release, is the SQL condition filter. open and unanswered are those of the records that end at lively or later.
func MapOf(database, from, to, lively, filter string) string {
	key := MapKey()
	releases := ",\n" + strings.TrimSuffix(edgeExpressions([]string{"client_release", "server_release"}), ",\n")
	byClass := ",\n    sumIf(stands_for, opened AND by_client AND NOT mirrored) AS client_only,\n    sumIf(stands_for, opened AND NOT by_client) AS server_only" +
		",\n    sumIf(stands_for, opened AND by_client AND mirrored) AS both"
	text := edgesWith + releases + "\nSELECT\n" + edgeExpressions(key) + edgesMeasured + byClass + edgesFrom + "\nGROUP BY " + strings.Join(key, ", ")
	return strings.NewReplacer("$part", "1", "$met", "1", "$sighted", "", "$alike", "", "$filter", " AND ("+cmp.Or(filter, "1")+")",
		"$living", " AND end_time_ns >= "+lively).Replace(ofRecords(text, database, from, to))
}

// ofRecords fills in what both have.
func ofRecords(text, database, from, to string) string {
	return strings.NewReplacer("$database", database, "$from", from, "$to", to, "$connection", connectionHash, "$flow", flowHash,
		"$bucketRTT", bucketOf("srtt_us"), "$bucketConnect", bucketOf("connect_us")).Replace(text)
}

// edgeExpressions are the columns of a key, in SQL, of a record.
func edgeExpressions(key []string) string {
	var out strings.Builder
	expressions := edgeKeys()
	for _, name := range key {
		out.WriteString("    " + expressions[name] + " AS " + name + ",\n")
	}
	return out.String()
}

// Minute is the value of at for edges by minute.
const Minute = "toStartOfMinute(toDateTime(end_time_ns, 'UTC'))"

// It is one SELECT with one subquery, whose aliases are named once: ClickHouse takes 0.1 s to analyse the same in four levels (docs/schema.md).
// It reads flows_raw and not the view flows, which has 86 columns to analyse. Where a column and an alias have one name, own. is the column.
const (
	edgesWith = `WITH
    role = 'client' AS by_client,
    $connection AS connection,
    $flow AS flow,
    arrayExists(s -> s.1 != role AND if(by_client,
        start_time_ns <= s.2 + toIntervalSecond(5) AND end_time_ns >= s.2 - toIntervalSecond(5),
        s.2 <= start_time_ns + toIntervalSecond(5) AND s.3 >= start_time_ns - toIntervalSecond(5)), sightings) AS mirrored,
    arrayExists(s -> s.4 = flow AND s.5 > record_seq AND s.3 < $to$alike, sightings) AS overtaken,
    toUInt64(own.connections) * sample_rate AS stands_for,
    toUInt64(own.failures) * sample_rate AS failed,
    start_observed AND record_seq = 0 AS opened,
    kind = 'closed' AS ended,
    kind = 'active' AND NOT overtaken$living AS lives,
    $bucketRTT AS rtt_bucket,
    $bucketConnect AS connect_bucket`
	edgesMeasured = `    sumIf(stands_for, opened) AS connections,
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
    toDateTime64(toDateTime(max(end_time_ns), 'UTC'), 3, 'UTC') AS last_seen`
	edgesFrom = `
FROM $database.flows_raw AS own FINAL
INNER JOIN
(
    SELECT $connection AS met, groupArray((role, start_time_ns, end_time_ns, $flow, record_seq$sighted)) AS sightings
    FROM $database.flows_raw FINAL
    WHERE role != 'unknown' AND NOT replay AND end_time_ns >= $from - toIntervalSecond(40) AND end_time_ns < $to + toIntervalSecond(10) AND $met
    GROUP BY met
) AS near ON connection = near.met
WHERE role != 'unknown' AND NOT replay AND end_time_ns >= $from AND end_time_ns < $to AND $part AND (by_client OR NOT mirrored)$filter`
)

// edgeKeys returns the columns of EdgeKey of a record, in SQL.
func edgeKeys() map[string]string {
	return map[string]string{
		"client_workload": "if(by_client, local_workload, remote_workload)",
		"server_workload": "if(by_client, remote_workload, local_workload)",
		"server_port":     "if(by_client, remote_port, local_port)",
		"class":           "CAST(multiIf(NOT by_client, 'server_only', mirrored, 'both', 'client_only') AS " + classType + ")",
		"network":         "own.network",
		"client_why":      "toString(if(by_client, local_why, remote_why))",
		"server_why":      "toString(if(by_client, remote_why, local_why))",
		"client_zone":     "if(by_client, local_zone, remote_zone)",
		"client_region":   "if(by_client, local_region, remote_region)",
		"client_release":  "if(by_client, local_release, remote_release)",
		"server_zone":     "if(by_client, remote_zone, local_zone)",
		"server_region":   "if(by_client, remote_region, local_region)",
		"server_release":  "if(by_client, remote_release, local_release)",
	}
}

// RecordedOf returns the SELECT of which exporter recorded how much of which workload, with the arguments of EdgesOf.
func RecordedOf(database, at, from, to string) string {
	return strings.NewReplacer("$database", database, "$at", at, "$from", from, "$to", to).Replace(recordedOf)
}

const recordedOf = `SELECT
    $at AS minute, exporter_id, host, local_workload AS workload,
    count() AS records,
    sumMapIf(map(toString(remote_why), toUInt64(1)), remote_workload = '') AS unnamed
FROM $database.flows_raw FINAL
WHERE NOT replay AND end_time_ns >= $from AND end_time_ns < $to
GROUP BY minute, exporter_id, host, workload`

// KnownAs selects from flows the address and port by which the remote end knows the local one, known_addr and known_port.
const KnownAs = knownAddr + " AS known_addr, " + knownPort + " AS known_port"

// Both ends' records of a connection have one connectionHash. Hashes are of 64 bits and quick: sipHash128 took half of the time that a minute
// takes. Of 100 million connections at once one pair in 4,000 minutes has the same; then one of the two may be in the wrong class.
const (
	knownAddr      = "if(nat_local_port != 0, nat_local_addr, local_addr)"
	knownPort      = "if(nat_local_port != 0, nat_local_port, local_port)"
	connectionHash = "cityHash64(network, if(role = 'client', " + knownAddr + ", remote_addr), if(role = 'client', " + knownPort + ", remote_port), " +
		"if(role = 'client', remote_addr, " + knownAddr + "), if(role = 'client', remote_port, " + knownPort + "))"
	flowHash = "cityHash64(exporter_id, flow_id)"
)
