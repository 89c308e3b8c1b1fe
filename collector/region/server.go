package region

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Table gives the state of ownership as of a moment.
type Table interface {
	View(now int64) ownership.View
	Network(name string) ownership.NetworkID
}

// Server answers other regions' questions.
type Server struct {
	flowv1.UnimplementedRegionsServer
	region  string
	table   Table
	allowed func(context.Context) bool
	now     func() time.Time
	served  *prometheus.CounterVec
}

// The results of served questions.
const (
	servedNamed      = "named"
	servedUnnamed    = "unnamed"
	servedNotAllowed = "not_allowed"
	servedMalformed  = "malformed"
)

// NewServer answers for a region from its table. allowed says whether who asks may, now is the clock.
func NewServer(region string, table Table, allowed func(context.Context) bool, now func() time.Time, reg prometheus.Registerer) (*Server, error) {
	s := &Server{region: region, table: table, allowed: allowed, now: now, served: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tributary_collector_region_served_questions_total", Help: "Questions of other regions, by what became of them.",
	}, []string{"result"})}
	for _, r := range []string{servedNamed, servedUnnamed, servedNotAllowed, servedMalformed} {
		s.served.WithLabelValues(r)
	}
	if err := reg.Register(s.served); err != nil {
		return nil, fmt.Errorf("metrics of region: %w", err)
	}
	return s, nil
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { flowv1.RegisterRegionsServer(r, s) }

// Resolve implements flowv1.RegionsServer.
func (s *Server) Resolve(ctx context.Context, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error) {
	questions := float64(len(m.GetQuestions()))
	if !s.allowed(ctx) {
		s.served.WithLabelValues(servedNotAllowed).Add(questions)
		return nil, status.Error(codes.PermissionDenied, "resolve_allowed does not name this certificate")
	}
	if err := malformed(m); err != "" {
		s.served.WithLabelValues(servedMalformed).Add(questions)
		return nil, status.Error(codes.InvalidArgument, err)
	}
	out := &flowv1.ResolveResponse{Region: s.region, Answers: make([]*flowv1.ResolveAnswer, len(m.GetQuestions()))}
	v := s.table.View(s.now().UnixNano())
	named := 0
	for i, q := range m.GetQuestions() {
		a := v.Lookup(s.table.Network(q.GetNetwork()), ownership.AddrFrom16((*[16]byte)(q.GetAddr())), uint16(q.GetPort()), q.GetAtNs(), q.GetToleranceNs())
		out.Answers[i] = s.answer(&a)
		if a.Owner != nil {
			named++
		}
	}
	s.served.WithLabelValues(servedNamed).Add(float64(named))
	s.served.WithLabelValues(servedUnnamed).Add(questions - float64(named))
	return out, nil
}

func malformed(m *flowv1.ResolveRequest) string {
	if len(m.GetQuestions()) > maxQuestions {
		return fmt.Sprintf("more than %d questions", maxQuestions)
	}
	for _, q := range m.GetQuestions() {
		n := q.GetNetwork()
		switch {
		case len(n) > maxNameBytes || flow.Sanitize(n) != n:
			return "a network's name is too long, or has control characters"
		case len(q.GetAddr()) != 16:
			return "an address is not 16 bytes"
		case q.GetPort() > 65535:
			return "a port is out of range"
		case q.GetAtNs() <= 0 || q.GetAtNs() > 1<<62 || q.GetToleranceNs() < 0 || q.GetToleranceNs() > maxTolerance:
			return "a time is out of range"
		}
	}
	return ""
}

func (s *Server) answer(a *ownership.Answer) *flowv1.ResolveAnswer {
	m := &flowv1.ResolveAnswer{Why: whys[a.Why], Wait: a.Wait, Edge: a.Edge, FromNs: a.From, UntilNs: a.Until}
	if o := a.Owner; o != nil {
		m.Workload, m.Instance, m.Zone, m.Region, m.Release, m.Assigned = o.Workload, o.Instance, o.Zone, o.Region, o.Release, o.Assigned
		if m.Region == "" {
			m.Region = s.region
		}
	}
	return m
}
