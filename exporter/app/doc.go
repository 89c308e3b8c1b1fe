// Package app puts the exporter together: it starts the rooms in order, stops them in reverse, and moves each record from the
// kernel's ring to a batch on one goroutine.
//
// Start: metrics server, spool, identity, transport, probe, ring. Stop, on the end of Run's context: the probe is detached, the
// ring emptied, the open batch sealed, and everything sent; what is not acknowledged within the shutdown timeout stays on disk for
// the next start, or is counted and said where there is no disk. A record is named by the owner of the moment its connection began, so a
// changed identity file renames nothing that began before it, and no record waits for a change or is lost by it.
//
// A collector that cannot be reached is no error: the exporter keeps trying. The books, all on /metrics: records read and walked = decoded +
// invalid; decoded = rows sealed + refused + open, and those that the filter judged otherwise; and that of the spool, in docs/delivery.md.
package app
