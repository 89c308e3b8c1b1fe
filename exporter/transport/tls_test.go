package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"tributary/service/tlsconf"
)

// issue writes cert.pem and key.pem of an authority that is its own leaf for 127.0.0.1 into a new directory.
func issue(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMutualTLS(t *testing.T) {
	ours, foreign := issue(t), issue(t)
	options := tlsconf.Options{Use: "test", Log: slog.New(slog.DiscardHandler)}
	file := func(dir, name string) string { return filepath.Join(dir, name) }
	server, err := tlsconf.NewServer(tlsconf.ServerFiles{
		Cert: file(ours, "cert.pem"), Key: file(ours, "key.pem"), ClientCA: file(ours, "cert.pem"),
	}, options)
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeCollector{}
	c.serve(t, "", grpc.Creds(server.GRPC()))
	client := func(dir string) *running {
		creds, err := tlsconf.NewClient(tlsconf.ClientFiles{CA: file(ours, "cert.pem"), Cert: file(dir, "cert.pem"), Key: file(dir, "key.pem")}, options)
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, c.address, func(config *Config) { config.Credentials = creds.GRPC() })
		r.Add(batch(1, 100))
		return r
	}
	stranger := client(foreign)
	eventually(t, "the stranger is told why", func() bool { return stranger.log.count("cannot reach the collector yet") > 0 })
	if s := stranger.Stats(); s.Acked.Batches != 0 || s.Pending.Batches != 1 {
		t.Errorf("a stranger's books: %+v", s)
	}
	flush(t, client(ours))
	plain := run(t, c.address, nil)
	plain.Add(batch(1, 100))
	eventually(t, "plain text is told why", func() bool { return plain.log.count("cannot reach the collector yet") > 0 })
}
