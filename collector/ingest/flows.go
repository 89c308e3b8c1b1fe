package ingest

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/collector/ingest/datagrams"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Flows implements flowv1.CollectorServer.
func (s *Server) Flows(stream grpc.BidiStreamingServer[flowv1.FlowsRequest, flowv1.FlowsResponse]) error {
	return s.flows(stream)
}

// flows is the life of a stream of batches, whatever carries it.
func (s *Server) flows(stream flowsCarrier) error {
	s.flowing.Add(1)
	defer s.flowing.Add(-1)
	s.metrics.streams.WithLabelValues("flows").Inc()
	defer s.metrics.streams.WithLabelValues("flows").Dec()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	names := Identities(stream.Context())
	e, err := s.greet(names, first.GetHello())
	if err != nil {
		return err
	}
	find := func(id string) (*exporter, error) { return s.own(names, id, "batch") }
	r := newRuns(find, e, first.GetHello().GetHost()) // the first answer states the credit
	if of := s.cfg.Grants.Of(names); of != nil {
		r.grant = of
	}
	defer r.detach()

	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	received := make(chan error, 1)
	go func() {
		received <- s.receive(ctx, r, stream)
		cancel()
	}()
	// Whichever ends first ends the stream: returning from here makes the other's Recv or Send fail.
	if err := s.tell(ctx, r, stream); err != nil {
		return err
	}
	return <-received
}

// lingerAfterEOF is how long a stream whose exporter has sent everything is still open for what it brought to be acknowledged and told.
const lingerAfterEOF = 30 * time.Second

func (s *Server) receive(ctx context.Context, r *runs, stream flowsCarrier) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			told, cancel := context.WithTimeout(ctx, lingerAfterEOF)
			defer cancel()
			waitUntil(told, r.idle)
			return nil
		}
		if err != nil {
			return err
		}
		batch := m.GetBatch()
		if batch == nil {
			return status.Error(codes.InvalidArgument, "a message without a batch on the Flows stream")
		}
		if err := s.take(ctx, r, batch); err != nil {
			return err
		}
	}
}

// take validates a batch, waits for room, and hands it on. The error ends the stream; a batch that is refused does not.
func (s *Server) take(ctx context.Context, r *runs, m *flowv1.Batch) error {
	select {
	case <-s.shut:
		<-ctx.Done() // the batch is sent again elsewhere, or here after a restart
		return status.FromContextError(ctx.Err()).Err()
	default:
	}
	s.metrics.bytes.Add(float64(len(m.GetPayload())))
	e, foreign, err := r.of(m)
	if err != nil {
		return err
	}
	if foreign != nil {
		s.refuse(e, m, status.Code(foreign), status.Convert(foreign).Message())
		return nil
	}
	room := s.roomFor(m)
	if err := s.room.Acquire(ctx, room); err != nil {
		return status.FromContextError(err).Err()
	}
	b := s.batches.Get().(*flow.Batch)
	opener := s.openers.Get().(*flow.Opener)
	err = opener.Open(m, b)
	s.openers.Put(opener)
	if err != nil {
		code := codes.InvalidArgument
		if errors.Is(err, flow.ErrTooLarge) {
			code = codes.ResourceExhausted
		}
		s.room.Release(room)
		s.recycle(b, nil)
		s.refuse(e, m, code, err.Error())
		return nil
	}
	if s.cfg.Ledger != nil {
		s.cfg.Ledger.Note(b.ExporterID, b.Host, b.SealedTimeNs, b.Counters)
	}
	v, life := e.arrived(b.Seq)
	if v != takeIn {
		s.metrics.rows.WithLabelValues("repeated").Add(float64(b.Rows))
		s.metrics.batches.WithLabelValues("repeated").Inc()
		s.room.Release(room)
		s.recycle(b, nil)
		return nil
	}
	s.admit(ticket{exporter: e, seq: b.Seq, bytes: s.settleRoom(room, b), rows: b.Rows, life: life}, b, r.grant)
	return nil
}

// settleRoom corrects what was taken for a batch by what it does take. More than was thought is taken where that is free.
func (s *Server) settleRoom(room int64, b *flow.Batch) int64 {
	actual := min(int64(b.MemoryBytes()), s.cfg.PendingBytes)
	switch {
	case actual < room:
		s.room.Release(room - actual)
	case actual > room && !s.room.TryAcquire(actual-room):
		return room
	}
	return actual
}

// roomFor is what a batch will take of the node's memory, by what it says of itself: it is not opened before there is room, so that many exporters
// that wait cost no more than their messages.
func (s *Server) roomFor(m *flowv1.Batch) int64 {
	return min(int64(min(m.GetRows(), flow.MaxRows))*rowBytes+int64(len(m.GetPayload())), s.cfg.PendingBytes)
}

// admit hands a batch to the pipeline.
func (s *Server) admit(t ticket, b *flow.Batch, grant flow.Grant) {
	b.ReceivedTimeNs, b.Grant = time.Now().UnixNano(), grant
	s.metrics.rows.WithLabelValues("accepted").Add(float64(t.rows))
	s.metrics.batches.WithLabelValues("accepted").Inc()
	s.metrics.pendingRows.Add(float64(t.rows))
	s.metrics.pendingBytes.Add(float64(t.bytes))
	s.tickets.put(b, t)
	s.pipeline.Add(b)
}

func (s *Server) refuse(e *exporter, m *flowv1.Batch, code codes.Code, reason string) {
	s.metrics.rows.WithLabelValues("rejected").Add(float64(min(m.GetRows(), flow.MaxRows)))
	s.metrics.batches.WithLabelValues("rejected").Inc()
	s.log.Warn("batch refused", "exporter_id", e.id, "batch_seq", m.GetBatchSeq(), "reason", reason)
	e.reject(&flowv1.Rejected{BatchSeq: m.GetBatchSeq(), Reason: reason, Code: uint32(code)})
}

// tell sends what there is to say whenever there is something.
func (s *Server) tell(ctx context.Context, r *runs, stream flowsCarrier) error {
	epoch, forgotten := s.epoch.get()
	spread, stopping := s.streamEnd(), s.quiet
	defer spread.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-forgotten:
			if epoch == "" { // now it is known
				epoch, forgotten = s.epoch.get()
				continue
			}
			return status.Error(codes.Aborted, "the store may have forgotten: send again what is not acknowledged")
		case <-spread.C:
			if err := s.drain(r.own, "spread", stream); err != nil {
				return err
			}
			continue
		case <-stopping:
			if err := s.drain(r.own, "stop", stream); err != nil {
				return err
			}
			stopping = nil
			continue
		case <-r.wake:
		}
		for _, e := range r.all() {
			m, present := e.tell(r.wake)
			switch {
			case !present && e == r.own:
				return status.Error(codes.Aborted, "the exporter has opened a newer stream")
			case !present:
				r.leave(e)
			case m != nil:
				m.CreditBytes = uint64(s.cfg.CreditBytes)
				if err := stream.Send(m); err != nil {
					return err
				}
			}
		}
	}
}

// drain asks an exporter to send no more, take its acknowledgements, and connect anew: behind a balancer to another node.
func (s *Server) drain(e *exporter, why string, stream flowsCarrier) error {
	s.metrics.drains.WithLabelValues(why).Inc()
	return stream.Send(&flowv1.FlowsResponse{ExporterId: e.id, Drain: true})
}

// streamEnd tells when a stream is to find another node: at a random time, so that those that came at once do not go at once.
func (s *Server) streamEnd() *time.Timer {
	if s.cfg.StreamLife <= 0 {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(s.cfg.StreamLife + rand.N(s.cfg.StreamLife))
}

// Done is Stored and at once the acknowledgement.
func (s *Server) Done(b *flow.Batch) { s.Stored(b)() }

// Stored says that every required sink has the batch, durably. The room that it took is free and its memory is used again, so nobody may keep a
// reference. Its exporter gets the acknowledgement when the returned function is called, once. A batch that this server did not take in (rows named later)
// is ignored.
func (s *Server) Stored(b *flow.Batch) (acknowledge func()) {
	t, ok := s.tickets.take(b)
	if !ok {
		return func() {}
	}
	s.free(t)
	s.recycle(b, t.book)
	return func() {
		if t.book != nil {
			t.book.Stored(t.rows)
		} else {
			t.exporter.finish(t.seq, t.life)
		}
		s.metrics.pendingRows.Sub(float64(t.rows))
		s.metrics.acked.Add(float64(t.rows))
	}
}

// recycle uses a batch's memory again; batches of datagrams have their own, because they are small.
func (s *Server) recycle(b *flow.Batch, book *datagrams.Book) {
	b.Reset()
	if book != nil {
		s.small.Put(b)
		return
	}
	s.batches.Put(b)
}

// Refuse says that a sink will never take the batch: its exporter is told, and it leaves the exporter's queue, counted.
func (s *Server) Refuse(b *flow.Batch, reason string) {
	t, ok := s.tickets.take(b)
	if !ok {
		return
	}
	s.free(t)
	s.metrics.pendingRows.Sub(float64(t.rows))
	s.metrics.rows.WithLabelValues("unstorable").Add(float64(t.rows))
	s.metrics.batches.WithLabelValues("unstorable").Inc()
	if t.book != nil {
		t.book.Dropped(t.rows)
	} else {
		t.exporter.forget(t.seq, t.life)
		t.exporter.reject(&flowv1.Rejected{BatchSeq: t.seq, Reason: reason, Code: uint32(codes.FailedPrecondition)})
	}
	s.recycle(b, t.book)
}

// free gives back the room of a batch on its way.
func (s *Server) free(t ticket) {
	s.room.Release(t.bytes)
	s.metrics.pendingBytes.Sub(float64(t.bytes))
}
