package tlsconf

import (
	"context"
	"net"

	"google.golang.org/grpc/credentials"
)

// GRPC returns the server's transport credentials for grpc.Creds.
func (s *Server) GRPC() credentials.TransportCredentials { return credentials.NewTLS(s.Config()) }

// GRPC returns the client's transport credentials for grpc.WithTransportCredentials: each connection that gRPC opens or
// reopens uses the files of its moment.
func (c *Client) GRPC() credentials.TransportCredentials { return &dialCredentials{client: c} }

// dialCredentials makes ordinary TLS credentials anew for each handshake.
type dialCredentials struct {
	client *Client
}

func (d *dialCredentials) now() credentials.TransportCredentials {
	return credentials.NewTLS(d.client.Config())
}

// ClientHandshake implements credentials.TransportCredentials.
func (d *dialCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return d.now().ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials; a client has no use for it.
func (d *dialCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return d.now().ServerHandshake(conn)
}

// Info implements credentials.TransportCredentials.
func (d *dialCredentials) Info() credentials.ProtocolInfo { return d.now().Info() }

// Clone implements credentials.TransportCredentials.
func (d *dialCredentials) Clone() credentials.TransportCredentials {
	return &dialCredentials{client: d.client}
}

// OverrideServerName implements credentials.TransportCredentials; the interface marks it deprecated, and the name comes
// from ClientFiles.ServerName.
func (d *dialCredentials) OverrideServerName(string) error { return nil }
