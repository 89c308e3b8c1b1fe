package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"tributary/service/tlsconf/tlstest"
)

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// logBuffer collects log lines from the goroutines of a test.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) count(part string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.text.String(), part)
}

func options(use string) (Options, *logBuffer) {
	log := &logBuffer{}
	return Options{Use: use, Log: slog.New(slog.NewTextHandler(log, nil)), Every: time.Nanosecond}, log
}

// serve accepts connections until the test ends and answers each with the client's name.
func serve(t *testing.T, config *tls.Config) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			answer(conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

func answer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	tlsConn, ok := conn.(*tls.Conn)
	if !ok || tlsConn.Handshake() != nil {
		return
	}
	name := "anonymous"
	if peers := tlsConn.ConnectionState().PeerCertificates; len(peers) > 0 {
		name = peers[0].Subject.CommonName
	}
	_, _ = io.WriteString(conn, name)
}

// ask returns what the server called us and what it calls itself.
func ask(address string, config *tls.Config) (us, server string, err error) {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, config)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = conn.Close() }()
	text, err := io.ReadAll(conn)
	return string(text), conn.ConnectionState().PeerCertificates[0].Subject.CommonName, err
}

func TestServerCertificateIsRotatedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	ca := tlstest.New(t, "ca")
	ca.Issue(dir, "first")
	cert, key, caFile := tlstest.Files(dir)
	opts, log := options("ingest")
	registry := prometheus.NewPedanticRegistry()
	opts.Metrics = NewMetrics(registry, "tributary_collector")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	clientOpts, _ := options("collector")
	client, err := NewClient(ClientFiles{CA: caFile}, clientOpts)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, server.Config())
	expect := func(want string) {
		t.Helper()
		us, name, err := ask(address, client.Config())
		if err != nil || us != "anonymous" || name != want {
			t.Fatalf("server %q calls us %q, error %v; want server %q", name, us, err, want)
		}
	}
	expect("first")
	ca.Issue(dir, "second")
	expect("second")
	for _, broken := range []string{"no certificate at all", ""} {
		write(t, cert, []byte(broken))
		expect("second")
		expect("second")
	}
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	expect("second")
	if got := log.count("stay in force"); got != 2 {
		t.Errorf("%d log lines for two reasons:\n%s", got, log.text.String())
	}
	ca.Issue(dir, "third")
	expect("third")
	want := `
# HELP tributary_collector_tls_reloads_total Changed TLS files that were taken over (loaded) or could not be (failed, counted at each attempt).
# TYPE tributary_collector_tls_reloads_total counter
tributary_collector_tls_reloads_total{result="failed",use="ingest"} 5
tributary_collector_tls_reloads_total{result="loaded",use="ingest"} 2
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "tributary_collector_tls_reloads_total"); err != nil {
		t.Error(err)
	}
}

func TestMutualTLSAsksForAKnownClient(t *testing.T) {
	serverDir, clientDir, strangerDir := t.TempDir(), t.TempDir(), t.TempDir()
	ca, other := tlstest.New(t, "ca"), tlstest.New(t, "other")
	ca.Issue(serverDir, "server")
	ca.Issue(clientDir, "exporter-1")
	other.Issue(strangerDir, "stranger")
	cert, key, caFile := tlstest.Files(serverDir)
	opts, _ := options("ingest")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key, ClientCA: caFile}, opts)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, server.Config())
	try := func(dir string) (string, error) {
		f := ClientFiles{CA: caFile}
		if dir != "" {
			f.Cert, f.Key, _ = tlstest.Files(dir)
		}
		client, err := NewClient(f, opts)
		if err != nil {
			t.Fatal(err)
		}
		us, _, err := ask(address, client.Config())
		return us, err
	}
	if us, err := try(clientDir); us != "exporter-1" || err != nil {
		t.Errorf("known client: called %q, error %v", us, err)
	}
	for name, dir := range map[string]string{"no certificate": "", "another authority": strangerDir} {
		if us, err := try(dir); err == nil {
			t.Errorf("%s: let in as %q", name, us)
		}
	}
	// The server's authority changes to the stranger's: the roles swap without a restart.
	_, _, otherCA := tlstest.Files(strangerDir)
	content, err := os.ReadFile(otherCA)
	if err != nil {
		t.Fatal(err)
	}
	clientCA := filepath.Join(serverDir, "client-ca.pem")
	write(t, clientCA, content)
	server, err = NewServer(ServerFiles{Cert: cert, Key: key, ClientCA: clientCA}, opts)
	if err != nil {
		t.Fatal(err)
	}
	address = serve(t, server.Config())
	if us, err := try(strangerDir); us != "stranger" || err != nil {
		t.Errorf("before the rotation: called %q, error %v", us, err)
	}
	content, err = os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, clientCA, content)
	if us, err := try(strangerDir); err == nil {
		t.Errorf("after the rotation: let in as %q", us)
	}
}

func TestClientChecksNameAndAuthorityAlsoAfterRotation(t *testing.T) {
	dir := t.TempDir()
	ca := tlstest.New(t, "ca")
	ca.Issue(dir, "collector.example")
	cert, key, caFile := tlstest.Files(dir)
	opts, _ := options("collector")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	address := serve(t, server.Config())
	wrongName, err := NewClient(ClientFiles{CA: caFile, ServerName: "other.example"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = ask(address, wrongName.Config())
	if hostname := (x509.HostnameError{}); !errors.As(err, &hostname) {
		t.Errorf("wrong name: %v", err)
	}
	client, err := NewClient(ClientFiles{CA: caFile, ServerName: "collector.example"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = ask(address, client.Config()); err != nil {
		t.Error(err)
	}
	replacement := t.TempDir()
	tlstest.New(t, "replacement").Issue(replacement, "x")
	content, err := os.ReadFile(filepath.Join(replacement, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, caFile, content)
	if _, _, err = ask(address, client.Config()); err == nil {
		t.Error("a server of the old authority was accepted after the rotation")
	}
}

func TestGRPCUsesTheFilesOfEachConnection(t *testing.T) {
	dir := t.TempDir()
	tlstest.New(t, "ca").Issue(dir, "collector.example")
	cert, key, caFile := tlstest.Files(dir)
	opts, _ := options("ingest")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key, ClientCA: caFile}, opts)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	grpcServer := grpc.NewServer(grpc.Creds(server.GRPC()))
	served := make(chan error, 1)
	go func() { served <- grpcServer.Serve(listener) }()
	t.Cleanup(func() {
		grpcServer.Stop()
		<-served
	})
	client, err := NewClient(ClientFiles{CA: caFile, Cert: cert, Key: key, ServerName: "collector.example"}, opts)
	if err != nil {
		t.Fatal(err)
	}
	reaches := func(want connectivity.State) {
		t.Helper()
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(client.GRPC()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		conn.Connect()
		for state := conn.GetState(); state != want; state = conn.GetState() {
			if !conn.WaitForStateChange(ctx, state) {
				t.Fatalf("the connection is %v, want %v", state, want)
			}
		}
	}
	reaches(connectivity.Ready)
	tlstest.New(t, "replacement").Issue(dir, "collector.example") // both sides see new files at their next handshake
	reaches(connectivity.Ready)
	write(t, caFile, tlstest.New(t, "third").PEM()) // neither side knows the other's signer any more
	reaches(connectivity.TransientFailure)
}

func TestErrorsNameTheFile(t *testing.T) {
	dir, otherDir := t.TempDir(), t.TempDir()
	ca := tlstest.New(t, "ca")
	ca.Issue(dir, "a")
	ca.Issue(otherDir, "b")
	cert, key, caFile := tlstest.Files(dir)
	_, otherKey, _ := tlstest.Files(otherDir)
	large := filepath.Join(dir, "large.pem")
	write(t, large, make([]byte, maxFileBytes+1))
	fifo := filepath.Join(dir, "fifo.pem")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	opts, _ := options("x")
	serverError := func(f ServerFiles) error { _, err := NewServer(f, opts); return err }
	clientError := func(f ClientFiles) error { _, err := NewClient(f, opts); return err }
	cases := map[string]struct {
		err  error
		want string
	}{
		"no key":           {serverError(ServerFiles{Cert: cert}), "give both --tls-cert and --tls-key"},
		"client no key":    {clientError(ClientFiles{Cert: cert}), "give both --tls-cert and --tls-key, or none"},
		"wrong key":        {serverError(ServerFiles{Cert: cert, Key: otherKey}), "key file " + otherKey + " does not fit certificate file " + cert},
		"swapped":          {serverError(ServerFiles{Cert: key, Key: cert}), "certificate file " + key + " holds no PEM certificate"},
		"missing":          {serverError(ServerFiles{Cert: cert + "x", Key: key}), "cert.pemx: no such file or directory"},
		"CA is a key":      {serverError(ServerFiles{Cert: cert, Key: key, ClientCA: key}), "certificate file " + key + " holds no PEM certificate"},
		"client CA a key":  {clientError(ClientFiles{CA: key}), "certificate file " + key + " holds no PEM certificate"},
		"client wrong key": {clientError(ClientFiles{CA: caFile, Cert: cert, Key: otherKey}), "does not fit"},
		"large":            {clientError(ClientFiles{CA: large}), "is larger than 1048576 bytes"},
		"a FIFO":           {clientError(ClientFiles{CA: fifo}), "not a regular file"}, // which to open would wait
	}
	for name, c := range cases {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, c.err, c.want)
		}
	}
}

func TestOldProtocolVersionsAreRefused(t *testing.T) {
	dir := t.TempDir()
	tlstest.New(t, "ca").Issue(dir, "a")
	cert, key, caFile := tlstest.Files(dir)
	opts, _ := options("x")
	server, err := NewServer(ServerFiles{Cert: cert, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewClient(ClientFiles{CA: caFile}, opts)
	if err != nil {
		t.Fatal(err)
	}
	old := client.Config()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, _, err := ask(serve(t, server.Config()), old); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestCheckListener(t *testing.T) {
	cases := []struct {
		address         string
		tlsOn, insecure bool
		want            string // "" for accepted
	}{
		{"127.0.0.1:4747", false, false, ""},
		{"127.9.9.9:0", false, false, ""},
		{"[::1]:4747", false, false, ""},
		{"[::ffff:127.0.0.1]:4747", false, false, ""},
		{"localhost:4747", false, false, ""},
		{"0.0.0.0:4747", true, false, ""},
		{"0.0.0.0:4747", false, true, ""},
		{":4747", false, false, "--listen :4747 is open to the network and has no TLS: give --tls-cert and --tls-key, listen on 127.0.0.1, or accept the risk with --insecure"},
		{"0.0.0.0:4747", false, false, "is open to the network"},
		{"[::]:4747", false, false, "is open to the network"},
		{"10.0.0.1:4747", false, false, "is open to the network"},
		{"localhost.example:4747", false, false, "is open to the network"},
		{"4747", true, true, `--listen "4747" is not an address`},
	}
	for _, c := range cases {
		err := CheckListener("--listen", c.address, c.tlsOn, c.insecure)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s tls=%v insecure=%v: %v, want %q", c.address, c.tlsOn, c.insecure, err, c.want)
		}
	}
}
