// Package feed shares ownership between the collectors of a region, through the Kafka topic ownership.v1, and keeps it over a restart.
//
// What it writes. Everything that the exporters of this node say: claims and releases as they come, gathered for a fifth of a second and keyed by
// exporter, and the latest watermarks of all of them, a message a partition. One exporter's messages stay in one partition, so that no
// watermark overtakes the claims that it vouches for. Every minute each exporter's whole set is said again (RepeatEvery).
//
// What it reads. Every partition whole, without a consumer group: every node needs everything. It starts at the offsets of the snapshot in the data
// directory, or, without one that is young enough, three minutes back, where every exporter's whole set stands. Until it has
// read up to what was there at its start, the node is not ready (Ready).
//
// What it promises. The table is told up to when the other nodes' news are complete (ownership.Table.Complete): a node that lags, or is cut off from
// Kafka, waits rather than guesses. A node that is silent for fifteen seconds is not waited for: its exporters have found another one.
// Collectors' clocks are taken for right.
//
// What is lost. A message of an unknown schema, or one that cannot be read, is left out and counted; nobody else is affected. While Kafka is away, what
// does not fit into the bounded memory is given up, counted, and replaced by the exporter's whole set when Kafka is back. Nothing here blocks
// an exporter.
package feed
