package ingest

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"tributary/collector/ownership/session"
)

// own finds what is known of an exporter_id for the one who speaks on a stream, unless it belongs to somebody else: who uses it first has it, for as long as
// this node or another one knows the exporter. names are the identities of who speaks, use is the label of the metric.
func (s *Server) own(names []string, id, use string) (*exporter, error) {
	who := session.IdentityOf(names)
	err := s.book.Check(id, who)
	if err == nil {
		e, ours := s.exporters.get(id, who)
		if ours {
			return e, nil
		}
		err = session.ErrOtherIdentity
	}
	s.metrics.refused.WithLabelValues(use).Inc()
	s.log.Warn("an exporter_id is used by somebody who does not own it", "exporter_id", id, "identity", quote(strings.Join(names, " ")), "use", use)
	return nil, status.Error(codes.PermissionDenied, err.Error())
}

// Identities are the names in the certificate by which the stream's exporter has proven who it is: the SPIFFE ID of one that has any URI, else DNS names
// and the common name. Without a certificate there are none.
func Identities(ctx context.Context) []string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	cert := info.State.PeerCertificates[0]
	var names []string
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	if len(names) > 0 {
		return names
	}
	names = slices.Clone(cert.DNSNames)
	if cn := cert.Subject.CommonName; cn != "" && !slices.Contains(names, cn) {
		names = append(names, cn)
	}
	return names
}
