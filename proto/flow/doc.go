// Package flow is the columnar batch: flow records as a struct of arrays, built, encoded, decoded and validated column by column.
//
// A Builder collects rows in an exporter and seals them into the bytes of a tributary.flow.v1 Columns message; Decode reads such bytes
// straight into a Batch whose memory is used again and again; a collector adds the attribution columns, which are encoded
// separately, so that the exporter's payload passes through unchanged to Kafka.
//
// It promises that a Batch that Decode accepts is rectangular and that every index, enum, port and time in it is in range, whoever sent
// the bytes. It does not compress by itself (Seal and Open do), does not know the network, and has no goroutine, clock or global state.
package flow
