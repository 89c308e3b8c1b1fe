package ingest

import (
	"crypto/sha256"
	"net"
	"net/http"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// stream finds a stream by the request, or opens one.
func (d *door) stream(r *http.Request, kind string, open bool) (*posts, error) {
	name := r.Header.Get(StreamHeader)
	if len(name) != 32 || !hexadecimal(name) {
		return nil, &refusal{http.StatusBadRequest, "refused", StreamHeader + " must be 32 hex digits"}
	}
	key, who := kind+name, certificateOf(r)
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.streams[key]; p != nil {
		if p.peer != who {
			return nil, &refusal{http.StatusForbidden, "refused", "the stream was opened with another certificate"}
		}
		return p, nil
	}
	switch {
	case !open || d.ctx.Err() != nil:
		return nil, &refusal{http.StatusNotFound, "unknown_stream", "there is no such stream on this node: open another one"}
	case len(d.streams) >= maxPostStreams:
		return nil, &refusal{http.StatusTooManyRequests, "refused", "too many streams"}
	}
	p := newPosts(peer.NewContext(d.ctx, peerOf(r)), kind, key, who)
	d.streams[key] = p
	d.running.Go(func() { p.end(d.run(p)) })
	return p, nil
}

// run handles a stream as if it were gRPC's.
func (d *door) run(p *posts) error {
	if p.kind == "flows" {
		return d.s.flows(flowsPosts{p, d.recycle})
	}
	return d.s.control(controlPosts{p, d.recycle})
}

func hexadecimal(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// certificateOf names the certificate that a request came with; "" without one.
func certificateOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return string(sum[:])
}

// peerOf tells the stream who speaks, as gRPC does.
func peerOf(r *http.Request) *peer.Peer {
	p := new(peer.Peer)
	if addr, err := net.ResolveTCPAddr("tcp", r.RemoteAddr); err == nil {
		p.Addr = addr
	}
	if r.TLS != nil {
		p.AuthInfo = credentials.TLSInfo{State: *r.TLS, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}}
	}
	return p
}
