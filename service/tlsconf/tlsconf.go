// Package tlsconf makes TLS configurations from certificate files and keeps them current while the program runs.
//
// The files are read again at a handshake, at most once in Options.Every, so an idle program reads nothing and a rotated
// certificate is in use a moment after it is needed. They are compared by content, not by time: Kubernetes swaps
// symbolic links, others keep modification times. New files that cannot be used (half written, key and certificate of
// different pairs, deleted) leave the old ones in force; that is logged once for each new reason and counted. Running
// connections keep what they were opened with. A handshake waits for at most one read of a few small files.
//
// TLS is 1.2 or later. The room does not decide who may do what with a certificate.
package tlsconf

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"time"
)

// DefaultEvery is how often files are compared with what is in force, at most.
const DefaultEvery = 2 * time.Second

// Options is what both sides have in common.
type Options struct {
	// Use names the configuration in logs and metrics: a fixed word such as "ingest". Required.
	Use string
	// Log receives one line for each new reason why files could not be used, and one for each change. Required.
	Log *slog.Logger
	// Metrics counts reloads; nil counts nothing.
	Metrics *Metrics
	// Every bounds how often the files are read; 0 means DefaultEvery.
	Every time.Duration
}

// ServerFiles names the PEM files of a listener.
type ServerFiles struct {
	Cert, Key string // certificate chain, leaf first, and its private key; both required
	ClientCA  string // if set, clients must show a certificate that one of these authorities signed (mTLS)
}

// ClientFiles names the PEM files of a client.
type ClientFiles struct {
	CA         string // authorities of the server; empty means those of the system
	Cert, Key  string // what the client shows of itself; both or none
	ServerName string // the name the server's certificate must carry; empty means the host that is dialled
}

// Server is a listener's configuration, current at every handshake. It is safe for concurrent use.
type Server struct {
	files *watched
}

// NewServer reads the files once and returns an error that names the file at fault.
func NewServer(files ServerFiles, options Options) (*Server, error) {
	if files.Cert == "" || files.Key == "" {
		return nil, fmt.Errorf("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
	}
	watched, err := watch([]string{files.Cert, files.Key, files.ClientCA}, options, func(contents [][]byte) (*tls.Config, error) {
		return serverConfig(files, contents)
	})
	if err != nil {
		return nil, err
	}
	return &Server{watched}, nil
}

// Config returns a configuration that asks for the current files at each handshake. It offers HTTP/2 and HTTP/1.1 and
// fits net/http, crypto/tls and grpc's credentials.NewTLS.
func (s *Server) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return s.files.current(), nil
		},
		// net/http wants a certificate in the outer configuration before it serves; the handshake uses the one above.
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &s.files.current().Certificates[0], nil
		},
	}
}

// Client is a client's configuration, current at every dial. It is safe for concurrent use.
type Client struct {
	files *watched
}

// NewClient reads the files once and returns an error that names the file at fault.
func NewClient(files ClientFiles, options Options) (*Client, error) {
	if (files.Cert == "") != (files.Key == "") {
		return nil, fmt.Errorf("a client certificate needs its key: give both --tls-cert and --tls-key, or none")
	}
	watched, err := watch([]string{files.Cert, files.Key, files.CA}, options, func(contents [][]byte) (*tls.Config, error) {
		return clientConfig(files, contents)
	})
	if err != nil {
		return nil, err
	}
	return &Client{watched}, nil
}

// Config returns a copy of the configuration of this moment: take a new one for each dial. (A lasting configuration
// could only change its authorities by replacing Go's verification of the server, and so its check of the name.)
func (c *Client) Config() *tls.Config { return c.files.current().Clone() }

func serverConfig(files ServerFiles, contents [][]byte) (*tls.Config, error) {
	pair, err := keyPair(files.Cert, files.Key, contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if files.ClientCA != "" {
		if config.ClientCAs, err = authorities(files.ClientCA, contents[2]); err != nil {
			return nil, err
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

func clientConfig(files ClientFiles, contents [][]byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: files.ServerName}
	if files.Cert != "" {
		pair, err := keyPair(files.Cert, files.Key, contents[0], contents[1])
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if files.CA != "" {
		var err error
		if config.RootCAs, err = authorities(files.CA, contents[2]); err != nil {
			return nil, err
		}
	}
	return config, nil
}

func keyPair(certPath, keyPath string, cert, key []byte) (tls.Certificate, error) {
	if _, err := authorities(certPath, cert); err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("key file %s does not fit certificate file %s: %w", keyPath, certPath, err)
	}
	return pair, nil
}

func authorities(path string, content []byte) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("certificate file %s holds no PEM certificate", path)
	}
	return pool, nil
}
