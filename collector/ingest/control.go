package ingest

import (
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// claimKey is what a release names.
type claimKey struct {
	network  string
	addr     [16]byte
	from, to uint16
}

// claimRef remembers when a claim was last part of a set.
type claimRef struct{ generation uint64 }

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
	e, err := s.greet(first.GetHello())
	if err != nil {
		return err
	}
	if err := stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{
		Welcome: &flowv1.Welcome{CollectorId: s.cfg.CollectorID, StoreEpoch: s.cfg.StoreEpoch},
	}}); err != nil {
		return err
	}
	c := &control{s: s, e: e, host: first.GetHello().GetHost(), stream: stream, generation: e.newControl()}
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
	s          *Server
	e          *exporter
	host       string
	stream     controlCarrier
	generation uint64 // of this stream and its set of claims
}

func (c *control) handle(m *flowv1.ControlRequest) error {
	c.e.control.Lock()
	defer c.e.control.Unlock()
	if c.e.generation != c.generation {
		return status.Error(codes.Aborted, "the exporter has opened a newer stream")
	}
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
	c.s.cfg.Ledger.Note(c.e.id, c.host, m.GetClockNs(), counters)
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
		c.s.log.Warn("listeners refused: a name, address, port or time of theirs is out of bounds", "exporter_id", c.e.id, "number", len(m.GetListeners())-len(sound))
	}
	if c.s.cfg.Listeners != nil {
		c.s.cfg.Listeners.Note(c.e.id, c.host, sound)
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
	now := time.Now().UnixNano()
	err := c.s.table.Watermark(&ownership.Watermark{
		Exporter: c.e.id, Host: c.host, VerifiedTo: m.GetVerifiedToNs(), ReceivedAt: now, ClockNs: m.GetClockNs(),
	})
	if err != nil {
		c.s.metrics.watermarks.WithLabelValues("refused").Inc()
		c.s.log.Warn("watermark refused", "exporter_id", c.e.id, "reason", err)
		return c.clock()
	}
	c.e.verified = max(c.e.verified, m.GetVerifiedToNs())
	c.s.metrics.watermarks.WithLabelValues("accepted").Inc()
	c.s.wake()
	return c.clock()
}

// clock says once that the exporter's clock has become too wrong for its claims to name anybody, or is right again.
func (c *control) clock() error {
	clock := c.s.table.Clock(c.e.id)
	if clock.Bad == c.e.badClock {
		return nil
	}
	c.e.badClock = clock.Bad
	if !clock.Bad {
		c.s.log.Info("the exporter's clock is right again", "exporter_id", c.e.id)
		return nil
	}
	c.s.log.Warn("the exporter's clock is off: its claims name nobody", "exporter_id", c.e.id, "host", quote(c.host), "error", clock.Slack)
	return c.stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Refusal{
		Refusal: &flowv1.Refusal{Reason: ownership.BadClock.String()},
	}})
}

func (c *control) ownership(m *flowv1.Ownership) error {
	for _, claim := range m.GetClaims() {
		if err := c.claim(claim); err != nil {
			return err
		}
	}
	for _, release := range m.GetReleases() {
		c.release(release)
	}
	if m.GetFull() {
		c.releaseMissing()
	}
	c.s.wake()
	return nil
}

func (c *control) claim(m *flowv1.Claim) error {
	key, reason := keyOf(m.GetNetwork(), m.GetAddr(), m.GetPortFrom(), m.GetPortTo())
	if reason == "" {
		err := c.s.table.Claim(&ownership.Claim{
			Exporter: c.e.id, Host: c.host, Network: key.network, Addr: ownership.AddrFrom16(&key.addr), PortFrom: key.from, PortTo: key.to,
			Owner: ownership.Owner{
				Workload: m.GetWorkload(), Instance: m.GetInstance(), Zone: m.GetZone(), Region: m.GetRegion(), Release: m.GetRelease(),
				Derived: m.GetInstanceDerived(),
			},
			From: m.GetFromNs(),
		}, time.Now().UnixNano())
		if err == nil {
			c.e.claims[key] = claimRef{c.generation}
			c.s.metrics.claims.WithLabelValues("accepted").Inc()
			return nil
		}
		reason = refusalReason(err)
	}
	c.s.metrics.claims.WithLabelValues(reason).Inc()
	c.s.log.Warn("claim refused", "exporter_id", c.e.id, "network", quote(m.GetNetwork()), "workload", quote(m.GetWorkload()), "reason", reason)
	return c.stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Refusal{
		Refusal: &flowv1.Refusal{Network: clip(m.GetNetwork()), Addr: m.GetAddr()[:min(16, len(m.GetAddr()))], Reason: reason},
	}})
}

func (c *control) release(m *flowv1.Release) {
	key, reason := keyOf(m.GetNetwork(), m.GetAddr(), m.GetPortFrom(), m.GetPortTo())
	if reason == "" {
		reason = c.close(key, m.GetAtNs(), m.GetReason().String(), false)
	}
	c.s.metrics.releases.WithLabelValues(reason).Inc()
}

// close ends the exporter's range and returns "accepted" or the reason of the refusal.
func (c *control) close(key claimKey, at int64, why string, absent bool) string {
	delete(c.e.claims, key)
	err := c.s.table.Release(&ownership.Release{
		Exporter: c.e.id, Network: key.network, Addr: ownership.AddrFrom16(&key.addr), PortFrom: key.from, PortTo: key.to, At: at, Reason: why, Absent: absent,
	}, time.Now().UnixNano())
	if err != nil {
		return refusalReason(err)
	}
	return "accepted"
}

// releaseMissing closes what was open before and is not in the whole set: it was released while nobody listened. The exporter had verified
// it up to its last watermark at least; when after that it ended nobody knows, so it ends there, or where it began if that came later.
func (c *control) releaseMissing() {
	for key, ref := range c.e.claims {
		if ref.generation != c.generation {
			reason := c.close(key, c.e.verified, "gone", true)
			c.s.metrics.releases.WithLabelValues(reason).Inc()
		}
	}
}

// keyOf validates what names a range on the wire; reason is "" if it is sound.
func keyOf(network string, addr []byte, from, to uint32) (key claimKey, reason string) {
	switch {
	case len(addr) != 16:
		return key, ownership.BadAddress.String()
	case from > 65535 || to > 65535:
		return key, ownership.BadPorts.String()
	case len(network) > flow.MaxStringBytes:
		return key, ownership.BadName.String()
	}
	return claimKey{network, [16]byte(addr), uint16(from), uint16(to)}, ""
}

func refusalReason(err error) string {
	var refused *ownership.RefusedError
	if errors.As(err, &refused) {
		return refused.Reason.String()
	}
	return "internal"
}

// greet validates who speaks and makes the exporter known.
func (s *Server) greet(m *flowv1.Hello) (*exporter, error) {
	hello, err := checkHello(m)
	if err != nil {
		return nil, err
	}
	if err := s.table.Seen(hello.GetExporterId(), hello.GetHost(), hello.GetClockNs(), time.Now().UnixNano()); err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return s.exporters.get(hello.GetExporterId()), nil
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
	return m, nil
}

// quote and clip make a sender's text safe and short for logs and answers.
func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string { return flow.Sanitize(s[:min(len(s), 64)]) }
