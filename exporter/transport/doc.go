// Package transport sends what service/spool keeps to a collector, and tells it who owns which address.
//
// Two streams go to the collector, over one gRPC connection or as POSTs over HTTP/1.1 where nothing else passes; where UDP was chosen, small batches go by
// datagrams beside them. Flows sends batches and takes acknowledgements; Control sends claims, releases, a
// watermark every second, and health. Claims never wait behind batches: a batch may wait at the collector for a claim.
//
// What it promises:
//
//   - A batch given to [Transport.Add] is in the spool when Add returns, and stays there until the collector has acknowledged or
//     rejected it. There is no second queue: what bounds, drops and counts is the spool.
//
//   - Batches go out in the spool's order, those of earlier runs under the exporter_id of theirs. After a reconnect everything
//     unacknowledged is sent again, the same bytes: delivery is at least once. A rejected batch goes to the quarantine, so that it
//     cannot stop those behind it.
//
//   - Sending keeps to the collector's credit, counted in bytes as the spool keeps them; a collector that asks to drain gets no new
//     batch, its acknowledgements are awaited, and another connection is opened.
//
//   - Every change of ownership up to a moment T is on the stream before the watermark of T.
//
//   - An acknowledgement of something never sent is a protocol error: counted, and the stream is opened again.
//
//   - [Transport.Run] retries until its context ends: 100 ms after a loss, then slower, at most every 5 s, with jitter.
//
//   - Of the ways in the order the first that works is used: after three attempts without an answer the next is tried, and one that
//     comes before the present one is probed until it works again. Why is in the log and counted.
//
//   - A batch goes by UDP only if UDP comes first in the order, it fits into a datagram, and the collector has said on the Control stream, in the last 5 s,
//     that datagrams arrive. It is then acknowledged to nobody and never sent again; what the collector says became of such batches is in
//     [Transport.Datagrams]. Everything else goes through the spool.
//
// It does not seal batches (exporter/batch), know identities (exporter/identity) or keep anything.
package transport
