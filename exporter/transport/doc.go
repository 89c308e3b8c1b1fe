// Package transport keeps sealed batches until a collector has them, and tells it who owns which address.
//
// One gRPC connection carries two streams. Flows sends batches in order of batch_seq and takes acknowledgements; Control
// sends claims, releases, a watermark every second, and health. Claims never wait behind batches: a batch may wait at the
// collector for a claim.
//
// What it promises:
//
//   - [Transport.Add] never blocks. Batches that are not yet acknowledged stay in memory within a bound of bytes and number.
//     Beyond it the oldest batch that is not under way is dropped, and only if all are under way the oldest of those (the
//     collector may have it). Every drop is counted in rows and batches by reason, and later batches carry the counters.
//   - After a reconnect everything unacknowledged is sent again, in order, the same bytes: delivery is at least once. A
//     rejected batch leaves the queue and is counted, so that it cannot stop those behind it.
//   - Sending keeps to the collector's credit; a collector that asks to drain gets no new batch, its acknowledgements are
//     awaited, and another connection is opened.
//   - Every change of ownership up to a moment T is on the stream before the watermark of T.
//   - An acknowledgement of something never sent is a protocol error: counted, and the stream is opened again.
//   - [Transport.Run] retries until its context ends: 100 ms after a loss, then slower, at most every 5 s, with jitter. What
//     is still unacknowledged when it returns is counted as dropped at shutdown; [Transport.Flush] waits for it before.
//
// It does not seal batches (exporter/batch), know identities (exporter/identity) or keep anything on disk.
package transport
