// Attribution is a simulator of a whole fleet with ground truth. It asks how often a name is wrong, how often there is none and why, and
// how long a name takes, for the collector's own rules and, on the same events, for two other designs.
//
// What is real: the ownership table, the attributor, the hold, claims_allowed and the resolving between regions of the collector, and the messages of tributary.flow.v1, marshalled by
// the sender and unmarshalled by the receiver. What is simulated: hosts, networks, clocks, exporters and time. Nothing sleeps: one queue of
// events is worked off in the order of virtual time, and a seed gives the same run again.
//
//	go run ./benchmarks/attribution -seeds 20
//
// The program ends with 1 if a bar of -bars is missed. README.md has the method and the figures.
package main
