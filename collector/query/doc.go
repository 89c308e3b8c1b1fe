// Package query answers questions about recorded flows at the command line: sql, map, observe, top, diff, impact,
// exposure, whois, reachability and schema.
//
// Everything is plain SQL over ClickHouse's HTTP interface, read-only (but for silences), in the database the collector writes; whois asks the collector's
// own table first. Answers go to the writer as aligned tables for people or one JSON object a line for programs; an unnamed workload
// is ” in JSON and says why in tables. The room prints answers as they are: it retries nothing, and an error carries ClickHouse's text.
package query
