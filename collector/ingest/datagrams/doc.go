// Package datagrams takes small batches that come by UDP: it hands out keys, opens what comes, and keeps the books of what never came.
//
// What it promises. Only what an exporter of this collector sealed gets through, each datagram once: what is truncated, oversized, unknown, forged,
// repeated, too old or too late is counted by that reason and dropped, and nobody else is affected. Everything that an exporter says it has sent
// is, at most two epochs later, either come or never came, to the row (see [Book.Mark]): what is too late for the books is not taken any more.
//
// What it does not. Nothing is acknowledged, kept or sent again. Claims and settings do not come this way.
//
// What blocks. Nothing: a reader hands a batch on at once or counts that there was no room. While readers do not keep up the kernel drops, which shows as
// datagrams that never came. Memory: a book an exporter, at most maxBooks; the one that was quiet longest goes, and its keys with it.
package datagrams
