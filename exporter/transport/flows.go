package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"tributary/proto/flowv1"
)

// flows is the life of one stream of batches.
func (t *Transport) flows(ctx context.Context, client flowv1.CollectorClient) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := client.Flows(ctx)
	if err != nil {
		return err
	}
	t.queue.restart()
	if err := stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: t.hello()}}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send hello: %w", err)
	}
	t.link.up(streamFlows, "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(t.answers(stream))
	}()
	if t.sendBatches(ctx, stream) {
		cancel(errDrained)
	}
	<-done
	return context.Cause(ctx)
}

// answers applies what the collector says until the stream ends.
func (t *Transport) answers(stream flowv1.Collector_FlowsClient) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		if err := t.queue.apply(r, t.config.ExporterID); err != nil {
			return err
		}
		for _, rejected := range r.GetRejected() {
			t.log.Warn("the collector rejected a batch: its rows are lost", "batch_seq", rejected.GetBatchSeq(), "reason", short(rejected.GetReason()))
		}
	}
}

// ended makes the end of a stream without an error one.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the collector ended the stream")
	}
	return err
}

// sendBatches sends what there is as credit allows, until ctx ends (false) or the stream is drained (true). An error of
// Send is the stream's: the receiving side has its reason and ends ctx.
func (t *Transport) sendBatches(ctx context.Context, stream flowv1.Collector_FlowsClient) (drained bool) {
	for ctx.Err() == nil {
		if asked, _ := t.queue.drained(); asked {
			t.drain(ctx)
			return true
		}
		b := t.queue.next()
		if b == nil {
			select {
			case <-t.queue.wake:
			case <-ctx.Done():
			}
			continue
		}
		if stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: b}}) != nil {
			<-ctx.Done()
		}
	}
	return false
}

// drain takes the acknowledgements of what is under way; then the stream may end and the next one find another node.
func (t *Transport) drain(ctx context.Context) {
	t.log.Info("the collector asked to connect again", "address", t.config.Address)
	t.books.drains.Add(1)
	most := time.NewTimer(drainMost)
	defer most.Stop()
	for {
		if _, done := t.queue.drained(); done {
			return
		}
		select {
		case <-t.queue.wake:
		case <-ctx.Done():
			return
		case <-most.C:
			return
		}
	}
}

// short bounds a text from the network for a log line.
func short(s string) string { return fmt.Sprintf("%.200s", s) }
