// Package filter decides which records become rows: by rules that change while the exporter runs, and by sampling.
//
// It stands before the numbering of records and the making of deltas (event.Tracker). The kernel's counters are running totals, so a record
// that is left out leaves its counts for the next one that is kept: no change of the rules loses bytes or counts them twice. A
// connection of which something was told is told to its end: its last record is kept whatever the rules say by then, so that
// its records add up.
//
// Sampling keeps one of N connections that were established, by a hash of both ends' addresses and ports that is the same at both
// ends and in the whole fleet; what never was established is always kept. N is the one in force when the connection began, so that it
// is the same in all of its records, and sums times sample_rate are right through changes.
//
// [Filter.Judge] takes no lock and allocates nothing. The room does not name and does not count: it is told the workload, and its
// caller counts the verdicts.
package filter
