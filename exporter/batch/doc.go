// Package batch turns events into rows and rows into sealed batches.
//
// A [Batcher] writes each event straight into the columns of a flow.Builder: no message, map or interface value per row. A
// batch is sealed when it has Config.Rows rows, or when its owner calls [Batcher.Flush]: the owner keeps the time, because
// it also owns the goroutine ([Batcher.Add] says when a batch begins). Sealing sorts, encodes and compresses, and hands an
// immutable flowv1.Batch to Config.Emit. Its header carries the exporter's cumulative counters of that moment, so that the
// news of a loss travels with the data that survived it.
//
// Rows leave in two ways only: sealed, or refused because their times are beyond what a collector accepts (the host's clock
// is wrong; one such row would take its whole batch with it). What is not yet sealed is lost if the process is killed.
// Nothing blocks, unless Emit does. The room does not keep, send or forget sealed batches (service/spool,
// exporter/transport).
package batch
