// Package rollup computes edges_1m, edges_1h and the ledger of reachability out of flows, minute by minute and hour by hour, in the store itself.
//
// A minute is a pure function of the records around it (schema.EdgesOf). It is computed whole when it closes, and again whole when a record
// that is late or was named late has touched it; the materialized view `touch` notes which minutes were written to. Each computation
// writes its rows under a gen of its own, and then one row into `closed`, which makes them visible: a computation that was killed is
// never seen, and an edge that a late name moved away is gone from where it was. Of several computations the one that covers more
// records, and better named ones, is the answer. So any number of collectors may compute at the same time, and agree.
//
// It promises that minutes are closed in order, so that everything after the last closed minute, and nothing before it, has to be
// read from single records; and that a minute whose records may have begun to expire is never computed again: what arrives for it is
// counted as too late. It loses nothing if it stops: the next loop, here or in another collector, finds the same minutes due. It blocks
// nobody and costs the store about a microsecond a record. Replaced computations stay on disk for one to two hours.
package rollup
