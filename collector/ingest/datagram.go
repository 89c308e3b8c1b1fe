package ingest

import (
	"errors"
	"net"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// ServeDatagrams takes batches that come by UDP, from exporters that asked for a key on their Control stream, until Quiesce is over or Stop.
func (s *Server) ServeDatagrams(conns ...*net.UDPConn) error { return s.datagrams.Serve(conns...) }

// takeDatagram takes the batch of an authentic datagram. It waits for nothing: where there is no room the batch is dropped and counted.
func (s *Server) takeDatagram(from *datagrams.Book, rows int, body []byte) {
	sender := from.Sender()
	drop := func(result string, reason error) {
		from.Dropped(rows)
		s.metrics.rows.WithLabelValues(result).Add(float64(rows))
		s.metrics.batches.WithLabelValues(result).Inc()
		if reason != nil {
			s.log.Warn("batch of a datagram refused", "exporter_id", sender.ExporterID, "reason", reason)
		}
	}
	if err := s.book.Check(sender.ExporterID, sender.Identity); err != nil { // since it got the key
		s.metrics.refused.WithLabelValues("datagram").Inc()
		drop("rejected", err)
		return
	}
	m := new(flowv1.Batch)
	err := proto.Unmarshal(body, m)
	if err == nil && int64(m.GetRows()) != int64(rows) {
		err = errors.New("the datagram and the batch in it do not agree on the number of rows")
	}
	if err != nil {
		drop("rejected", err)
		return
	}
	m.ExporterId, m.Host, m.BootId, m.Counters = sender.ExporterID, sender.Host, sender.BootID, nil
	room := s.roomFor(m)
	if !s.room.TryAcquire(room) {
		drop("no_room", nil)
		return
	}
	b := s.small.Get().(*flow.Batch)
	opener := s.openers.Get().(*flow.Opener)
	err = opener.Open(m, b)
	s.openers.Put(opener)
	if err != nil {
		s.room.Release(room)
		s.recycle(b, from)
		drop("rejected", err)
		return
	}
	s.admit(ticket{book: from, seq: b.Seq, bytes: s.settleRoom(room, b), rows: b.Rows}, b, sender.Grant)
}

// datagramRequest hands out a key, or says why not.
func (c *control) datagramRequest(m *flowv1.DatagramRequest) error {
	key := &flowv1.DatagramKey{Refused: "this collector takes no datagrams: it was started without --udp-listen"}
	if c.s.cfg.Datagrams {
		if _, err := c.s.own(c.names, c.id, "datagram"); err != nil {
			return err
		}
		sender := datagrams.Sender{ExporterID: c.id, Host: c.host, BootID: c.bootID, Identity: session.IdentityOf(c.names)}
		if grant := c.s.cfg.Grants.Of(c.names); grant != nil {
			sender.Grant = grant
		}
		var err error
		if c.book, key, err = c.s.datagrams.Grant(sender, m.GetEpoch(), m.GetBook()); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	return c.send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_DatagramKey{DatagramKey: key}})
}

// datagramMark answers with the books of what the exporter sent.
func (c *control) datagramMark(m *flowv1.DatagramMark) error {
	if c.book == nil {
		return status.Error(codes.InvalidArgument, "a mark of datagrams from an exporter that has no key for them")
	}
	return c.send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_DatagramReport{DatagramReport: c.book.Mark(m)}})
}
