// Package ingest is the collector's front door: the servers (gRPC, and HTTP/1.1 where it is asked for) that take batches, claims and watermarks
// from exporters and tell them what became of their batches. Over HTTP a stream is a sequence of POSTs; behind that all is the same. Where it is
// asked for, small batches come as UDP datagrams too (ingest/datagrams): these are acknowledged to nobody, and dropped where there is no room.
//
// What it promises. A batch is validated whole before anybody else sees it; one that is not valid is refused with a gRPC status code and
// a sentence, counted, and neither its stream nor the process suffers. A batch that was seen before (by exporter_id and batch_seq) is not
// taken in again: if it is stored it is acknowledged at once, if it is on its way its acknowledgement follows. An acknowledgement goes
// out only after Done was called for the batch, which the app does when every required sink has it. A Flows stream may bring batches of
// earlier runs of its exporter on the same host, out of its spool; those of another host are refused.
//
// What blocks. Batches that are taken in and not yet done are bounded in bytes for the whole node; over the bound a Flows stream is no
// longer read, so that gRPC's flow control slows its exporter. The Control stream never waits for that: claims and watermarks are always
// taken. There is room before a batch is opened, so an exporter that waits costs one message and its windows. Memory a stream is fixed: static windows, one message, no growth with bandwidth. An HTTP body waits for its turn before it is
// read, and is cut off if it trickles; connections that say nothing are closed.
//
// What is lost. Nothing that was acknowledged. What was taken in and not acknowledged when the process dies is sent again by its
// exporter.
package ingest
