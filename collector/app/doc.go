// Package app is the collector's wiring: it builds the rooms in the order in which a flow passes them, starts them from the sinks
// backwards, and stops them from the front door on, so that nothing is taken in that cannot leave.
//
// What a stop promises: batches that wait are written as they are, the sinks are flushed, and their acknowledgements go out on the streams
// that are still open, within stop_timeout. What is not acknowledged by then the exporters send again.
package app
