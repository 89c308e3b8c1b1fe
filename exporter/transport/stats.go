package transport

import (
	"time"

	"tributary/proto/flowv1"
)

// Count is a number of batches and of the rows in them.
type Count struct {
	Batches uint64
	Rows    uint64
}

func (c *Count) add(b *flowv1.Batch) {
	c.Batches++
	c.Rows += uint64(b.GetRows())
}

func (c *Count) sub(b *flowv1.Batch) {
	c.Batches--
	c.Rows -= uint64(b.GetRows())
}

// Stats are the books of the queue at one moment: Queued = Acked + Rejected + DroppedFull + DroppedShutdown + Pending.
type Stats struct {
	Queued          Count
	Acked           Count
	Rejected        Count
	DroppedFull     Count // the queue was full
	DroppedShutdown Count // not acknowledged when the exporter had to stop
	Pending         Count
	PendingBytes    int64         // memory of what is pending
	OldestPending   time.Duration // how long the oldest pending batch has waited

	Sent      Count // every sending, repetitions included
	Resent    Count // of these, what had been sent before
	SentBytes uint64
}
