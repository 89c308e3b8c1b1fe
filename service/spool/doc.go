// Package spool keeps sealed batches until they are acknowledged: on disk, and in memory where the disk cannot take them.
//
// Both programs use it: an exporter for what is sealed and not acknowledged, filled and emptied by exporter/transport; a collector for what a sink does not
// have that nobody waits for, filled and emptied by collector/sink/backlog. A batch handed to [Spool.Append] is written to a log of segment files
// at once (page cache) and synced within [Config.SyncEvery]. [Spool.Next] hands batches out for sending, [Spool.Ack] and
// [Spool.Reject] settle them by the id of the run that sealed them, and [Spool.Restart] lets everything under way wait
// again. A segment is deleted when all its batches are settled, which needs no free space.
//
// What it promises:
//
//   - A kill loses nothing that Append has returned for while the disk was well ([Spool.Stats] tells). A power cut loses at
//     most what was written in the last SyncEvery and the sync itself. The next run finds the rest and sends it under the
//     old run's id. Whole segments are the memory of what was acknowledged, so a restart sends at most the batches that
//     shared a segment with an unacknowledged one a second time.
//   - A torn tail or a flipped byte costs the record it hit and no other; no damaged record is ever handed out.
//   - Nothing about the directory stops the program: missing, read-only, full, failing, locked by another spool, of a
//     newer version, of another host or full of rubbish, it goes on in memory, says so once, counts, and tries again every
//     [Config.RetryEvery]. Segments of newer versions and other hosts are left alone; unreadable ones are set aside.
//   - Everything has a bound: bytes on disk, age, number of batches and segments, bytes in memory, quarantine. Beyond it
//     what is only kept for Recall goes, then the oldest, counted in rows and batches by [Reason]: in = acked + rejected + dropped + pending, at any moment.
//     A batch that overflows while under way stays in the books until its stream ends, because the collector may have it.
//   - Every SyncEvery, or when [Spool.Sealed] is told, a run writes down until when it has kept everything, so that the next one can tell ([Stats].Before)
//     from when on something of it may be missing.
//   - Append waits for the disk at most appendWait, once; a disk that takes longer is not waited for until it is well.
//     Next may wait for a read. Nothing else blocks.
//   - What would overflow and was never handed out is given to [Config.Shrink] first: on disk a segment at a time, whose file is then replaced at once, in memory
//     as much as a segment holds. A batch comes out as it is or in what was made of it, never in both.
//
// It does not know what a batch contains, or talk to collectors.
//
// # Files
//
// All in one directory, mode 0600: lock (with the word of the run that holds it), N.seg (a segment, N counts up in 16 hex digits), N.rejected (one batch that a
// collector refused, with the reason) and N.corrupt (a file whose head could not be read); the last two are bounded by
// [Config.QuarantineBytes]. A file begins with its head, twice, each copy in a slot of 1024 bytes with its own checksum;
// records follow, each a header of 32 bytes with its own CRC32C and the body, whose CRC32C is in the header. The checksum
// of a header also covers a random number of the segment and its place in it, so that no old block, no moved record and
// nothing inside a body can pass for a record. See format.go.
package spool
