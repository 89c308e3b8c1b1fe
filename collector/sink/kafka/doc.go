// Package kafka writes attributed batches to a Kafka topic, flows.v1 by default.
//
// In the format protobuf one message is one batch, or a part of one that is larger than the topic takes: the value is a
// tributary.flow.v1 AttributedBatch, the exporter's sealed payload passed through untouched beside the attribution columns. In the
// format json one message is one flow, an object with the names of the record. Rows that are named later arrive as batches of
// their own with higher versions. The key is always the exporter_id (murmur2, as the Java client places it), so that one exporter's
// messages stay in one partition; the headers are listed at HeaderExporterID.
//
// It promises: done is called exactly once for every Write; with nil only after all in-sync replicas have the whole batch. Until
// then it tries for ever, with its own backoff, and sends the same bytes under the same headers each time. What Kafka will never
// take (too large even alone, refused by the topic) is dropped, counted by reason and reported to done. Memory is bounded: Write blocks
// while QueueBytes are pending. Rows in = written + dropped + pending, always.
//
// It does not promise that a message is there only once: a reply that was lost, or an exporter that sent its batch to another
// collector, doubles it. Consumers keep, per row key (exporter_id, flow_id, record_seq), the row with the highest version; see Decoder. It
// keeps nothing over a restart: what has no done stays with the exporter.
package kafka
