// Package session keeps the book of what each run of an exporter claims at present, whichever collector it speaks with, and applies what
// it says to the ownership table.
//
// An exporter speaks on one Control stream at a time: hello, its whole set of claims, then changes and watermarks. It numbers its streams; what
// comes by an older one than the newest counts no more, the hello included, however late it arrives and by whichever node. What was open before
// and is not in a new stream's whole set was released while nobody listened: it ends at the last watermark.
//
// Streams reach this node in two ways: by gRPC (Open) or, those of the other nodes of the region, through Kafka (Apply and Mark). Both do the same to
// the table. What came by gRPC is handed to the Publisher, for the other nodes.
//
// The room does no input or output and has no clock. It may be used from many goroutines; the steps of one exporter wait for one another. It is
// bounded in exporters: beyond, the one that was silent longest is forgotten and its claims end at its last watermark.
package session
