// Package listeners knows which local addresses are listened on, by whom, since when, when a connection was last accepted there, and what
// their queues had no room for.
//
// It makes one [flowv1.Listener] of the listening sockets that share an address. It looks every [Config.Every], and reads the kernel's table when a socket has
// begun or ceased to listen, while any queue holds a connection, and every 10 s: reading takes a visit to each bucket of a hash. A
// listener that began, ended or has another owner is told at the next look, one that has dropped something at the next reading, other changes at most every 10 s, and what
// does not change every 10 minutes: so a reader can tell what is old. One that lived for less than Every may never be seen.
//
// Which queue overflowed the kernel counts by network namespace only (/proc/net/netstat), and by socket only what was dropped (sk_drops). So
// when a socket has dropped something, its namespace's overflows since the last look are its own; of several that dropped in the same
// interval each has a share by its drops. Where a namespace cannot be entered the overflows stay 0 and drops says what there is.
//
// A subscriber gets everything that listens or ended within the last 15 minutes, then each change in order; one that is too slow is cut off
// and subscribes again. Nothing is lost by that: each message stands for itself.
package listeners
