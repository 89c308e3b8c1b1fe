package transport

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// flows is the life of one stream of batches.
func (t *Transport) flows(ctx context.Context, conn connection) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := conn.flows(ctx)
	if err != nil {
		return err
	}
	t.window.restart()
	if t.route.now() != conn.way() { // it changed in this moment
		t.window.turn()
	}
	defer t.expectAnswer(streamFlows, cancel)()
	t.config.Spool.Restart()
	if err := stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: t.hello()}}); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send hello: %w", err)
	}
	t.link.up(streamFlows, "", t.where())
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
func (t *Transport) answers(stream flowsStream) error {
	for {
		r, err := stream.Recv()
		if err != nil {
			return ended(err)
		}
		t.heard(streamFlows)
		if err := t.apply(r); err != nil {
			return err
		}
	}
}

var errSilent = errors.New("the collector does not answer")

// expectAnswer ends a stream on which the collector says nothing; the function it returns forgets that.
func (t *Transport) expectAnswer(name streamName, end context.CancelCauseFunc) (forget func()) {
	before := t.link.answers(name)
	timer := time.AfterFunc(helloMost, func() {
		if t.link.answers(name) == before {
			end(errSilent)
		}
	})
	return func() { timer.Stop() }
}

// heard notes that the collector spoke on a stream.
func (t *Transport) heard(name streamName) {
	t.link.heard(name)
	t.route.answered(name)
}

// where names the present way and where it leads, for logs.
func (t *Transport) where() slog.Attr {
	way := t.route.now()
	return slog.Group("", "address", t.config.Destination(way), "transport", string(way))
}

// apply believes a response, or says why it cannot be true; then nothing of it has been applied.
func (t *Transport) apply(r *flowv1.FlowsResponse) error {
	id, kept := cmp.Or(r.GetExporterId(), t.config.ExporterID), t.config.Spool
	if err := t.window.check(r, id); err != nil {
		return err
	}
	for _, a := range r.GetAcked() {
		if id == t.config.ExporterID && kept.Unsent(a.GetFirst(), a.GetLast()) {
			return fmt.Errorf("%w: batches %d to %d acknowledged, not all of them were sent", errProtocol, a.GetFirst(), a.GetLast())
		}
	}
	for _, a := range r.GetAcked() {
		kept.Ack(id, a.GetFirst(), a.GetLast())
	}
	for _, rejected := range r.GetRejected() {
		t.reject(id, rejected.GetBatchSeq(), rejected.GetReason())
	}
	t.window.apply(r, id)
	return nil
}

// reject sets a batch aside that the collector will never accept.
func (t *Transport) reject(exporterID string, seq uint64, reason string) {
	if n := t.config.Spool.Reject(exporterID, seq, reason); n.Batches > 0 {
		t.log.Warn("a batch was rejected and goes to the quarantine", "exporter_id", exporterID, "batch_seq", seq, "rows", n.Rows, "reason", short(reason))
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
func (t *Transport) sendBatches(ctx context.Context, stream flowsStream) (drained bool) {
	for ctx.Err() == nil {
		if t.window.draining() {
			t.drain(ctx)
			return true
		}
		b, ok := t.config.Spool.Next(t.window.room())
		if !ok {
			select {
			case <-t.config.Spool.Ready():
			case <-t.window.wake:
			case <-ctx.Done():
			}
			continue
		}
		sealed, err := opened(b)
		if err != nil {
			t.reject(b.Run, b.Seq, err.Error())
			continue
		}
		t.window.took(b)
		if stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: sealed}}) != nil {
			<-ctx.Done()
		}
	}
	return false
}

// opened is the batch that Add took over. It may have been in the spool of an earlier run, perhaps of another version.
func opened(b spool.Batch) (*flowv1.Batch, error) {
	sealed := new(flowv1.Batch)
	if err := proto.Unmarshal(b.Body, sealed); err != nil {
		return nil, fmt.Errorf("what the spool kept is not a batch: %w", err)
	}
	if sealed.GetExporterId() != b.Run || sealed.GetBatchSeq() != b.Seq {
		return nil, fmt.Errorf("the spool kept batch %d of %.64q as batch %d of %.64q", sealed.GetBatchSeq(), sealed.GetExporterId(), b.Seq, b.Run)
	}
	return sealed, nil
}

// drain takes the acknowledgements of what is under way; then the stream may end and the next one find another node.
func (t *Transport) drain(ctx context.Context) {
	t.log.Info("taking the last acknowledgements to connect again")
	t.books.drains.Add(1)
	most := time.NewTimer(drainMost)
	defer most.Stop()
	t.datagrams.drain()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for t.config.Spool.Stats().UnderWay > 0 || !t.datagrams.settled() {
		select {
		case <-t.window.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-most.C:
			return
		}
	}
}

// short bounds a text from the network for a log line.
func short(s string) string { return fmt.Sprintf("%.200s", s) }
