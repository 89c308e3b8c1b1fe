// Package schema holds the one table of fields of a flow record, and everything that is derived from it: the ClickHouse tables and
// views, the order of columns in inserts and in Kafka's JSON, docs/record.md, and the migrations that bring a database up to them.
//
// It promises that names are those of proto/flow, that Migrate can be run by any number of collectors at once and again after a
// failure in its middle, and that it refuses a server that is too old and a database that a newer collector has migrated. It also
// says what a ClickHouse server is to the other rooms (Server: address, credentials, database). It keeps no connection open and
// writes no flows.
package schema
