// Command collector measures what a flow costs a collector.
//
// It starts the real tributary-collector with TLS and both sinks on, sends it sealed batches over real gRPC streams from another
// process, and divides the rows that were acknowledged by the CPU time of the collector process alone. Four processes take part:
//
//   - this one starts the others, reads the collector's /metrics and /proc, and prints the table;
//   - the collector (bin/tributary-collector serve), or with -profile the same program under pprof;
//   - the fleet: exporters' streams, each with its claims, its watermark of every second and batches whose times and flow ids are new;
//   - the store: a ClickHouse HTTP interface that answers everything from the real engine and, after the first block of flows, counts and
//     discards inserts. The first block is stored for real and asked about, so that a block ClickHouse would refuse cannot pass;
//
// and one Kafka broker, started by deploy/dev/kafka.sh, or the one that -kafka names.
//
// A figure is worth printing only if it is right: after each configuration the rows sent, acknowledged, inserted and produced must be
// equal, Kafka must have as many messages as the collector says, and every row must have been named, because every remote was
// claimed. Otherwise the program says what differs and ends with status 1.
package main
