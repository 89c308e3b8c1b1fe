// Package probe loads and attaches the kernel programs of tributary/bpf and gives
// access to what they make: the ring of ended connections, the walk of open ones,
// the loss counters and what the programs cost. It is the only package that knows
// eBPF.
//
// [New] is inert; [Probe.Start] loads and attaches and answers with one sentence
// where that is impossible; [Probe.Close] may be called early, late and twice, and
// leaves nothing in the kernel.
//
// What is lost is counted in the kernel at the place of the loss, by reason; see
// [Counters]. After [Probe.Detach] no new records come and the ring can be emptied.
// It does not read the ring (exporter/ring does) and does not know what a record
// says (exporter/event).
package probe
