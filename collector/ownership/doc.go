// Package ownership is the time-indexed cache of who owned which address when.
//
// It holds, per (network, address[, port range]), ranges {owner, from, to} that exporters claim and release. An open range
// reaches as far as its exporter's watermark: the time up to which the exporter verified that the address was there. The
// question it answers is "who owned this address at time t, give or take the tolerance", and the answer is a name only where
// the evidence brackets t. Everything else is unnamed and says why, or says that it is worth waiting because the evidence is
// still on its way.
//
// The room is pure: no goroutine, clock, network or log. Time is always an argument, in wall clock nanoseconds.
//
// Clocks. Claims, releases and watermarks are in their exporter's time. Its error is estimated from the watermarks (clock.go) and widens the bounds of
// its ranges in the careful direction: a name needs the evidence at its narrowest, a contradiction only at its widest. Ranges of a clock that is off
// beyond MaxClockError name nobody. An error is held against the exporter for 8 x 32 watermarks after it was mended; a record that comes later than that,
// about a time when the clock was wrong, finds the ranges as they were sent.
//
// Concurrency. Writers (Claim, Release, Watermark, Seen, Expire) take one mutex. Readers take no lock and never wait for a
// writer, not even for one that the scheduler stopped half way. What is known of an address is one record, which is never changed once the index
// shows it: a change writes a new one and turns the index to it. A reader looks at the end whether the index still shows the record it read, and
// whether any memory was used again meanwhile; if so it begins anew. So an answer is true of one moment. Every word that readers read is an
// atomic; on amd64 such a load is a plain load. What readers read at each look-up and what writers write at each claim lie on different cache lines: sharing them cost readers a twentieth of their processor time.
//
// Speed. A look-up of a random address among a million waits twice for memory: for the index and for the record. Find looks for many addresses at once, so
// that the waits overlap; package attribute does so for 64 rows at a time. The rest is branches that cannot be foreseen: whether the address is known, in which
// slot, with one range or two. So four slots are compared at once, and a second range is read in any case. benchmarks/table measures it.
//
// Memory. A record is a key of 8 bytes (IPv4) or 24 (IPv6) and 16 bytes a range, in a log of chunks without pointers; an index of 4 bytes a slot finds it.
// Records that were replaced leave holes; when those make up more than a 16th, records are moved together. Times are kept to the millisecond, which
// clocks of two hosts never agree on. Chunks are used again and never returned. Config bounds ranges, addresses, ranges per address, ranges per exporter, owners,
// networks and exporters; all records together have at most 1 GiB. Order of forgetting:
//  1. ranges that ended longer ago than the retention (Expire);
//  2. over the bound of one address: the range of that address that ended first;
//  3. over the bound of the table: ranges that have ended, the longest ended among the next few the hand meets.
//
// A range that is still open and verified is never forgotten; when nothing else is left the new claim is refused. An entry
// remembers up to when its history is incomplete and answers no_evidence there: a forgotten owner never turns into a wrong
// one. Every refusal and every forgotten range is counted by reason (Stats).
package ownership
