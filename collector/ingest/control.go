package ingest

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Control implements flowv1.CollectorServer.
func (s *Server) Control(stream grpc.BidiStreamingServer[flowv1.ControlRequest, flowv1.ControlResponse]) error {
	return s.control(stream)
}

// control is the life of a stream of claims, whatever carries it.
func (s *Server) control(stream controlCarrier) error {
	s.metrics.streams.WithLabelValues("control").Inc()
	defer s.metrics.streams.WithLabelValues("control").Dec()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello, err := checkHello(first.GetHello())
	if err != nil {
		return err
	}
	names := Identities(stream.Context())
	if _, err := s.own(names, hello.GetExporterId(), "control"); err != nil {
		return err
	}
	by := session.Peer{Identity: session.IdentityOf(names), Grant: s.cfg.Grants.Of(names)}
	claims, err := s.book.Open(hello, time.Now().UnixNano(), by)
	switch {
	case errors.Is(err, session.ErrOtherIdentity): // since it was asked above
		return status.Error(codes.PermissionDenied, err.Error())
	case errors.Is(err, session.ErrSuperseded):
		return status.Error(codes.Aborted, err.Error())
	case err != nil:
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	c := &control{s: s, id: hello.GetExporterId(), host: hello.GetHost(), bootID: hello.GetBootId(), names: names, session: claims, stream: stream}
	epoch, forgotten := s.epoch.get()
	if err := c.welcome(epoch); err != nil {
		return err
	}
	defer c.follow(forgotten)()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.handle(m); err != nil {
			return err
		}
	}
}

// control is one Control stream.
type control struct {
	s                *Server
	id, host, bootID string   // of the exporter
	names            []string // Identities of the stream
	session          *session.Stream
	stream           controlCarrier
	refused          []*flowv1.Refusal // of the present message
	book             *datagrams.Book   // of the datagrams it sends; nil before it has asked for a key

	toldNotAllowed bool // in the log

	sending sync.Mutex
}

func (c *control) send(m *flowv1.ControlResponse) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(m)
}

// welcome says who we are, and which life of the store this is.
func (c *control) welcome(epoch string) error {
	return c.send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{
		Welcome: &flowv1.Welcome{CollectorId: c.s.cfg.CollectorID, StoreEpoch: epoch},
	}})
}

// follow sends settings and another welcome whenever they change, until the function it returns is called.
func (c *control) follow(forgotten <-chan struct{}) (end func()) {
	ctx, cancel := context.WithCancel(c.stream.Context())
	var following sync.WaitGroup
	following.Go(func() { c.followEpoch(ctx, forgotten) })
	if settings := c.s.cfg.Settings; settings != nil {
		settings.Connect(c.id, c.host)
		following.Go(func() { c.followSettings(ctx, settings) })
	}
	return func() {
		cancel()
		following.Wait()
		if c.s.cfg.Settings != nil {
			c.s.cfg.Settings.Disconnect(c.id)
		}
	}
}

func (c *control) followEpoch(ctx context.Context, forgotten <-chan struct{}) {
	for {
		select {
		case <-forgotten:
		case <-ctx.Done():
			return
		}
		var epoch string
		if epoch, forgotten = c.s.epoch.get(); c.welcome(epoch) != nil {
			return // the receiving side has the reason
		}
	}
}

func (c *control) followSettings(ctx context.Context, settings Settings) {
	for {
		m, changed := settings.For(c.host)
		if m != nil && c.send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Settings{Settings: m}}) != nil {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (c *control) handle(m *flowv1.ControlRequest) error {
	switch v := m.GetMessage().(type) {
	case *flowv1.ControlRequest_Ownership:
		return c.ownership(v.Ownership)
	case *flowv1.ControlRequest_Watermark:
		return c.watermark(v.Watermark)
	case *flowv1.ControlRequest_Health:
		c.health(v.Health)
		return nil
	case *flowv1.ControlRequest_Listeners:
		c.listeners(v.Listeners)
		return nil
	case *flowv1.ControlRequest_Applied:
		if c.s.cfg.Settings != nil {
			c.s.cfg.Settings.Answered(c.id, v.Applied, time.Now())
		}
		return nil
	case *flowv1.ControlRequest_DatagramRequest:
		return c.datagramRequest(v.DatagramRequest)
	case *flowv1.ControlRequest_DatagramMark:
		return c.datagramMark(v.DatagramMark)
	default:
		return status.Error(codes.InvalidArgument, "an unknown message on the Control stream")
	}
}

// health hands on the counters of an exporter that has no batch to send. What is out of bounds is left out: the next batch has it again.
func (c *control) health(m *flowv1.Health) {
	if c.s.cfg.Ledger == nil || len(m.GetCounters()) > flow.MaxCounters {
		return
	}
	counters := make([]flow.Counter, 0, len(m.GetCounters()))
	for _, k := range m.GetCounters() {
		if name := k.GetName(); len(name) <= flow.MaxNameBytes && flow.Sanitize(name) == name {
			counters = append(counters, flow.Counter{Name: name, Value: k.GetValue()})
		}
	}
	c.s.cfg.Ledger.Note(c.id, c.host, m.GetClockNs(), counters)
}

// listeners hands on what is sound of a list.
func (c *control) listeners(m *flowv1.Listeners) {
	sound := make([]*flowv1.Listener, 0, len(m.GetListeners()))
	for _, l := range m.GetListeners() {
		if soundListener(l) {
			sound = append(sound, l)
		}
	}
	c.s.metrics.listeners.WithLabelValues("accepted").Add(float64(len(sound)))
	c.s.metrics.listeners.WithLabelValues("refused").Add(float64(len(m.GetListeners()) - len(sound)))
	if len(sound) < len(m.GetListeners()) {
		c.s.log.Warn("listeners refused: a name, address, port or time of theirs is out of bounds", "exporter_id", c.id, "number", len(m.GetListeners())-len(sound))
	}
	if c.s.cfg.Listeners != nil {
		c.s.cfg.Listeners.Note(c.id, c.host, sound)
	}
}

func soundListener(l *flowv1.Listener) bool {
	for _, s := range []string{
		l.GetNetwork(), l.GetNetns(), l.GetLocalWorkload(), l.GetLocalInstance(), l.GetLocalZone(), l.GetLocalRegion(), l.GetLocalRelease(), l.GetComm(),
	} {
		if len(s) > flow.MaxStringBytes || flow.Sanitize(s) != s {
			return false
		}
	}
	for _, t := range []int64{l.GetSinceNs(), l.GetEndedNs(), l.GetLastAcceptedNs(), l.GetReadTimeNs()} {
		if t < 0 {
			return false
		}
	}
	return len(l.GetLocalAddr()) == 16 && l.GetLocalPort() <= 65535 &&
		flow.EvidenceNames.Name(uint32(l.GetLocalEvidence())) != "" && flow.WhyNames.Name(uint32(l.GetLocalWhy())) != ""
}

func (c *control) watermark(m *flowv1.Watermark) error {
	switch err := c.session.Watermark(m, time.Now().UnixNano()); {
	case errors.Is(err, session.ErrSuperseded):
		return status.Error(codes.Aborted, err.Error())
	case err != nil:
		c.s.metrics.watermarks.WithLabelValues("refused").Inc()
		c.s.log.Warn("watermark refused", "exporter_id", c.id, "reason", err)
	default:
		c.s.metrics.watermarks.WithLabelValues("accepted").Inc()
		c.s.wake()
	}
	return c.clock()
}

// clock says once that the exporter's clock has become too wrong for its claims to name anybody, or is right again.
func (c *control) clock() error {
	clock, turned := c.session.Clock()
	if !turned {
		return nil
	}
	if !clock.Bad {
		c.s.log.Info("the exporter's clock is right again", "exporter_id", c.id)
		return nil
	}
	c.s.log.Warn("the exporter's clock is off: its claims name nobody", "exporter_id", c.id, "host", quote(c.host), "error", clock.Slack)
	return c.refuse(&flowv1.Refusal{Reason: ownership.BadClock.String()})
}

func (c *control) refuse(r *flowv1.Refusal) error {
	return c.send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Refusal{Refusal: r}})
}

func (c *control) ownership(m *flowv1.Ownership) error {
	c.refused = c.refused[:0]
	if err := c.session.Ownership(m, time.Now().UnixNano(), c); err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	for _, r := range c.refused {
		if err := c.refuse(r); err != nil {
			return err
		}
	}
	c.s.wake()
	return nil
}

// Claim implements session.Observer.
func (c *control) Claim(m *flowv1.Claim, result string) {
	c.s.metrics.claims.WithLabelValues(result).Inc()
	if result == session.Accepted {
		return
	}
	if result != session.NotAllowed || !c.toldNotAllowed { // an exporter that may not claim something tries again with every stream
		c.s.log.Warn("claim refused", "exporter_id", c.id, "identity", quote(strings.Join(c.names, " ")), "network", quote(m.GetNetwork()),
			"workload", quote(m.GetWorkload()), "reason", result)
	}
	c.toldNotAllowed = c.toldNotAllowed || result == session.NotAllowed
	c.refused = append(c.refused, &flowv1.Refusal{Network: clip(m.GetNetwork()), Addr: m.GetAddr()[:min(16, len(m.GetAddr()))], Reason: result})
}

// Release implements session.Observer.
func (c *control) Release(result string) { c.s.metrics.releases.WithLabelValues(result).Inc() }

// greet validates who speaks and makes the exporter known.
func (s *Server) greet(names []string, m *flowv1.Hello) (*exporter, error) {
	hello, err := checkHello(m)
	if err != nil {
		return nil, err
	}
	select {
	case <-s.quiet:
		return nil, status.Error(codes.Unavailable, "the collector is stopping")
	default:
	}
	e, err := s.own(names, hello.GetExporterId(), "flows")
	if err != nil {
		return nil, err
	}
	if err := s.book.Seen(hello.GetExporterId(), hello.GetHost(), hello.GetClockNs(), time.Now().UnixNano()); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return e, nil
}

// checkHello validates who speaks.
func checkHello(m *flowv1.Hello) (*flowv1.Hello, error) {
	if m == nil {
		return nil, status.Error(codes.InvalidArgument, "the first message of a stream must be a hello")
	}
	for _, s := range []string{m.GetExporterId(), m.GetHost(), m.GetBootId(), m.GetVersion()} {
		if len(s) > flow.MaxNameBytes || flow.Sanitize(s) != s {
			return nil, status.Error(codes.InvalidArgument, "a name in the hello is too long or has control characters")
		}
	}
	if m.GetExporterId() == "" || m.GetHost() == "" {
		return nil, status.Error(codes.InvalidArgument, "the hello has no exporter_id or no host")
	}
	if n := m.GetControlStream(); n < 0 || n > session.MaxStream {
		return nil, status.Error(codes.InvalidArgument, "the stream number in the hello is out of bounds")
	}
	return m, nil
}

// quote and clip make a sender's text safe and short for logs and answers.
func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string { return flow.Sanitize(s[:min(len(s), 64)]) }
