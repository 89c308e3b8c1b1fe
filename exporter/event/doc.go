// Package event turns the bytes of one kernel record into an [Event] and a
// connection's successive readings into exact deltas.
//
// The room is pure: no goroutine, no clock, no network, no global. It promises
// that
//
//   - [Decode] accepts any bytes: it checks size, enumerations, flags, addresses
//     and times, and refuses what the kernel program cannot have written with an
//     error that answers errors.Is;
//   - [Tracker.Apply] numbers connections and their records and replaces the
//     kernel's running totals by what was added since the connection's previous
//     record, so that sums over records are exact;
//   - neither allocates per record (the tracker remembers only connections that
//     had an active record).
//
// It does not know wall time (see exporter/clock), names (exporter/identity) or
// columns (exporter/batch). All times are nanoseconds of CLOCK_BOOTTIME, the
// kernel clock that goes on counting while the machine sleeps.
package event
