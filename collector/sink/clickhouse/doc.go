// Package clickhouse writes attributed batches to a ClickHouse server, or the embedded engine, over its HTTP interface.
//
// Rows are copied column by column into blocks; a block goes out when it is full or old, as one INSERT of one Native block into one
// partition (a UTC day of end_time_ns), under a deduplication token. The encoded bytes are kept until the server has answered, and a
// retry sends the same bytes under the same token: never re-encoded, so the server stores them once whatever became of the
// first answer. Retries go on for ever, with a pause that grows; what only a person can repair (a missing table, a refused password)
// is tried again too, slowly, and Ready says what it is. Nothing that was taken is dropped while the sink runs.
//
// Write copies and returns; the batch's done is called once, from another goroutine, when every row is in successful inserts.
// Write blocks only while MaxPendingBytes wait for answers. Close flushes until its context ends; what is not stored then is
// reported as ErrClosed, counted, and the exporters' to send again.
package clickhouse
