// Package attribute names the remote end of every row of a batch: it writes the attribution columns.
//
// Three sources, the finer first: the mirror (the peer's own record of the same connection, seen on this node lately), what the
// flow was named before (an end once named stays named while bytes arrive), and the claims of the ownership table. Where a
// mirror and a claim name different workloads the mirror wins and the disagreement is counted: it must be zero.
//
// The room is pure: no goroutine, clock, network or log; the time is that of the ownership view it is given. It never blocks,
// and allocates per batch and per new name, not per row. An Attributor may be used from many goroutines, each with its own
// batch. What it remembers (mirror entries, names of flows with active records, names) is bounded; forgetting costs a
// peer_observed or a wait, never a wrong name.
//
// Rows that wait are given back to the caller (hold), who asks again. Until then they say pending.
package attribute
