// Package history keeps what exporters said of addresses in the store, table ownership, and names rows whose evidence came late.
//
// A Writer is a session.Publisher: it gathers what comes by this collector's streams and writes it every few seconds. Of watermarks it writes the latest of
// each exporter once a minute and after a claim, and with each claim and release the one that held then; of repeated sets one an hour. What cannot be written waits, bounded;
// beyond, the oldest is dropped and counted.
//
// Reattribute says the history again, in its order, to a table of its own, and asks that table once more for every row without a name. It uses the same
// rooms as the collector does (ownership, session, attribute), so the answers are those that the collector would have given had it known then. Rows go into
// flows_raw as new versions; what is computed from them is computed again by itself. Kafka is told by
// renames.
package history
