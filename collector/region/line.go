package region

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"tributary/proto/flowv1"
)

// line is the connection to a region's collectors, one at a time. It belongs to one goroutine.
type line struct {
	collectors  []string
	serverName  string
	credentials credentials.TransportCredentials
	conn        *grpc.ClientConn
	turn        int // which collector is asked
}

// call is one request to one collector. After an error the next one is asked, on a new connection: this one may be dead without knowing.
func (l *line) call(ctx context.Context, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error) {
	if l.conn == nil {
		conn, err := l.dial(l.collectors[l.turn%len(l.collectors)])
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		l.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := flowv1.NewRegionsClient(l.conn).Resolve(ctx, m)
	if err != nil {
		l.hangUp()
		l.turn++
		return nil, err //nolint:wrapcheck // a gRPC status says what it is of
	}
	return r, nil
}

// Try asks a collector of another region whether it answers this one.
func Try(ctx context.Context, collector, serverName string, c credentials.TransportCredentials) error {
	l := line{collectors: []string{collector}, serverName: serverName, credentials: c}
	defer l.hangUp()
	_, err := l.call(ctx, &flowv1.ResolveRequest{})
	return err
}

func (l *line) dial(target string) (*grpc.ClientConn, error) {
	name := l.serverName
	if name == "" {
		name, _, _ = net.SplitHostPort(target) // checked with the table
	}
	return grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(l.credentials), grpc.WithAuthority(name),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: requestTimeout,
		}))
}

func (l *line) hangUp() {
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}
