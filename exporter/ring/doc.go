// Package ring reads the kernel's ring buffer and, between its records, the walk of
// open sockets, and hands every record to one handler on one goroutine.
//
// [Reader.Run] sleeps until the kernel says that the ring has reached its fill mark,
// or for [Options.Poll], whichever comes first; where nothing happens it sleeps until the next record or walk. It promises that
//
//   - a record is handed over once, in the ring's order, and its bytes are valid
//     only during the call;
//   - an active record is handed over before the record of its connection's end
//     (nothing is taken from the ring between the kernel's making a part of the
//     walk and the handing over of that part);
//   - after [Reader.Drain] returns nil, all that was in the ring when it was called
//     has been handed over;
//   - when Run's context ends, a last walk is made and all that is in the ring is
//     handed over before it returns.
//
// The handler runs on the reading goroutine: while it blocks, the ring fills, and
// what does not fit is counted by the kernel (probe.Counters), not here. Records the
// handler refuses are counted as invalid and reading goes on.
package ring
