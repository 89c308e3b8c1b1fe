package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"tributary/collector/config"
	"tributary/collector/ownership/session"
	"tributary/deploy/dev/ports"
	"tributary/proto/flowv1"
	"tributary/service/tlsconf/tlstest"
)

// base is a collector whose ClickHouse does not answer.
func base(t *testing.T) *config.Config {
	cfg := config.Default()
	cfg.Data = t.TempDir()
	cfg.ClickHouse = "http://" + ports.Address(t)
	cfg.Listen, cfg.APIListen, cfg.MetricsListen = ports.Address(t), ports.Address(t), ports.Address(t)
	cfg.StopTimeout = time.Second
	return &cfg
}

// serve runs the collector until the test ends.
func serve(t *testing.T, cfg *config.Config) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		r, err := http.Get(url)
		if err != nil {
			last = err
			continue
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(body)
	}
	t.Fatal(last)
	return 0, ""
}

// TestUnreachableStoreAndBusAreStates: the collector starts, says what is missing, and takes claims.
func TestUnreachableStoreAndBusAreStates(t *testing.T) {
	cfg := base(t)
	cfg.Kafka = ports.Address(t)
	serve(t, cfg)
	if code, _ := get(t, "http://"+cfg.MetricsListen+"/healthz"); code != 200 {
		t.Errorf("healthz answers %d", code)
	}
	var body string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var code int
		code, body = get(t, "http://"+cfg.MetricsListen+"/readyz")
		if code == 503 && strings.Contains(body, "refused") && strings.Contains(body, "kafka: ") {
			return
		}
	}
	t.Errorf("readyz says %q", body)
}

func TestPortInUse(t *testing.T) {
	cfg := base(t)
	l, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = Serve(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "--listen") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
}

func TestDataDirectoryThatCannotBe(t *testing.T) {
	cfg := base(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.ClickHouse, cfg.Data = "embedded", filepath.Join(file, "data")
	err := Serve(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "--data") {
		t.Fatalf("got %v", err)
	}
}

// TestMutualTLS: with a client CA only its exporters get in, and nobody without TLS.
func TestMutualTLS(t *testing.T) {
	ours, foreign := t.TempDir(), t.TempDir()
	authority := tlstest.New(t, "ours")
	authority.Issue(ours, "collector")
	tlstest.New(t, "foreign").Issue(foreign, "exporter")
	cfg := base(t)
	cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA = tlstest.Files(ours)
	serve(t, cfg)
	get(t, "http://"+cfg.MetricsListen+"/healthz")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	for name, c := range map[string]struct {
		dir     string
		welcome bool
	}{"our exporter": {ours, true}, "another authority's": {foreign, false}, "no certificate": {"", false}} {
		conf := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		if c.dir != "" {
			cert, key, _ := tlstest.Files(c.dir)
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		if got := welcomed(t, cfg.Listen, conf); got != c.welcome {
			t.Errorf("%s: welcome is %v", name, got)
		}
	}
}

// TestClaimsAllowed: an exporter claims what its certificate is granted and nothing else, and learns of it.
func TestClaimsAllowed(t *testing.T) {
	ours := t.TempDir()
	authority := tlstest.New(t, "ours")
	authority.Issue(ours, "web-host")
	cfg := base(t)
	cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA = tlstest.Files(ours)
	cfg.ClaimsAllowed = session.Grants{{Identity: "web-*", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Workloads: []string{"shop/*"}}}
	serve(t, cfg)
	get(t, "http://"+cfg.MetricsListen+"/healthz")
	cert, key, _ := tlstest.Files(ours)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.PEM())
	conn, err := grpc.NewClient(cfg.Listen, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := flowv1.NewCollectorClient(conn).Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	claim := func(addr, workload string) *flowv1.Claim {
		a := netip.MustParseAddr(addr).As16()
		return &flowv1.Claim{Network: "default", Addr: a[:], Workload: workload, FromNs: time.Now().Add(-time.Minute).UnixNano()}
	}
	for _, m := range []*flowv1.ControlRequest{
		{Message: &flowv1.ControlRequest_Hello{Hello: &flowv1.Hello{ExporterId: "e1", Host: "h1"}}},
		{Message: &flowv1.ControlRequest_Ownership{Ownership: &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{
			claim("10.0.0.1", "shop/web"), claim("10.0.0.2", "bank/vault"), claim("192.168.0.3", "shop/web"),
		}}}},
	} {
		if err := s.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	refused := map[string]string{}
	for len(refused) < 2 {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if r := m.GetRefusal(); r != nil {
			refused[netip.AddrFrom16([16]byte(r.GetAddr())).Unmap().String()] = r.GetReason()
		}
	}
	if refused["10.0.0.2"] != session.NotAllowed || refused["192.168.0.3"] != session.NotAllowed {
		t.Errorf("refused %v", refused)
	}
	if _, metrics := get(t, "http://"+cfg.MetricsListen+"/metrics"); !strings.Contains(metrics, `ingest_claims_total{result="not_allowed"} 2`) {
		t.Error("not counted")
	}
}

func welcomed(t *testing.T, address string, conf *tls.Config) bool {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := flowv1.NewCollectorClient(conn).Control(ctx, grpc.WaitForReady(false))
	if err != nil {
		return false
	}
	hello := &flowv1.Hello{ExporterId: "e1", Host: "h1"}
	if err := s.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: hello}}); err != nil {
		return false
	}
	m, err := s.Recv()
	return err == nil && m.GetWelcome() != nil
}
