// Package renames tells Kafka of records that were renamed in the store: by pairs, from the peer's record of the same connection, and by reattribute,
// from evidence that came late. What the hold names later needs none of this: it has the rows, and gives them to every sink.
//
// A job that renames writes the names to the table renames, under the number of its run, and then the new versions to flows_raw. A Teller reads the runs
// of which Kafka has not been told, reads their rows as flows has them now, makes batches of them (the same exporter_id, batch_seq and row keys, the
// higher version), gives those to the sink, and notes the run in renames_told when the sink has all of them.
//
// So every renamed row comes at least once, whichever collector told it and however often that was killed; twice where two collectors saw the same run at the
// same moment, or where one was stopped before its note. A row that has got a still better name meanwhile is left out: whoever gave it that
// name tells of it. Names are kept for a day: what Kafka could not be told in that time it is never told.
package renames
