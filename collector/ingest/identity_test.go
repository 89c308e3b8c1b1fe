package ingest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ingest/datagrams"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/proto/flowv1"
	"tributary/service/tlsconf/tlstest"
)

// certified starts a server that asks for certificates, by gRPC and HTTPS, and returns how to connect by each with one of a name.
func certified(t *testing.T) (r *rig, byGRPC func(name string) flowv1.CollectorClient, byHTTPS func(name string) (*http.Client, string)) {
	t.Helper()
	r = &rig{pipeline: new(pipeline), table: ownership.New(ownership.Config{}), registry: prometheus.NewRegistry()}
	book, err := session.New(1000, r.table, nil)
	if err != nil {
		t.Fatal(err)
	}
	authority := tlstest.New(t, "ca")
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority.PEM())
	load := func(name string) []tls.Certificate {
		dir := t.TempDir()
		authority.Issue(dir, name)
		cert, key, _ := tlstest.Files(dir)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	conf := &tls.Config{Certificates: load("collector"), ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
	if r.server, err = New(Config{CollectorID: "c1", Credentials: credentials.NewTLS(conf), Datagrams: true}, book, r.pipeline, func() {}, r.registry, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	var addresses []string
	served := make(chan error, 2)
	for _, serve := range []func(net.Listener) error{r.server.Serve, func(l net.Listener) error { return r.server.ServeHTTP(l, conf) }} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, l.Addr().String())
		go func() { served <- serve(l) }()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		r.server.Stop(ctx)
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	})
	client := func(name string) *tls.Config {
		return &tls.Config{Certificates: load(name), RootCAs: pool, ServerName: "collector", MinVersion: tls.VersionTLS13}
	}
	byGRPC = func(name string) flowv1.CollectorClient {
		conn, err := grpc.NewClient(addresses[0], grpc.WithTransportCredentials(credentials.NewTLS(client(name))))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return flowv1.NewCollectorClient(conn)
	}
	byHTTPS = func(name string) (*http.Client, string) {
		transport := &http.Transport{TLSClientConfig: client(name)}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}, "https://" + addresses[1]
	}
	return r, byGRPC, byHTTPS
}

// TestExporterIDOfAnotherCertificate: who greets with it, or sends batches under it, is refused, and its owner does not notice. The owner's next
// certificate has the same names and is welcome.
func TestExporterIDOfAnotherCertificate(t *testing.T) {
	r, byGRPC, byHTTPS := certified(t)
	r.client = byGRPC("honest")
	flows, control := r.flows(t, "e1"), r.control(t, "e1")
	if _, err := flows.Recv(); err != nil {
		t.Fatal(err)
	}

	evil := byGRPC("evil")
	f, err := evil.Flows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello("e1")}}) // Recv has the error
	if _, err := f.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("flows: %v", err)
	}
	c, err := evil.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: hello("e1")}}) // Recv has the error
	if m, err := c.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("control: %v %v", m, err)
	}
	client, url := byHTTPS("evil")
	body, _ := proto.Marshal(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello("e1")}})
	request, _ := http.NewRequest(http.MethodPost, url+"/v1/flows", bytes.NewReader(body))
	request.Header = http.Header{"Content-Type": {contentType}, StreamHeader: {streamA}, PartHeader: {"1"}}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("HTTPS: %s", answer.Status)
	}
	batchOfAnother(t, r, evil)
	key := datagrams.Sender{ExporterID: "e1", Host: "h1", Identity: session.IdentityOf([]string{"evil"})} // got before e1 was another's
	book, _, err := r.server.datagrams.Grant(key, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	datagramOf(t, r, book, 0)
	for use, want := range map[string]float64{"flows": 2, "control": 1, "batch": 1, "datagram": 1} {
		if got := testutil.ToFloat64(r.server.metrics.refused.WithLabelValues(use)); got != want {
			t.Errorf("%s counted %v times", use, got)
		}
	}

	key.Identity = session.IdentityOf([]string{"honest"})
	if book, _, err = r.server.datagrams.Grant(key, 1, ""); err != nil {
		t.Fatal(err)
	}
	datagramOf(t, r, book, 3)

	now := time.Now().UnixNano()
	sendOwnership(t, control, &flowv1.Ownership{Full: true, Claims: []*flowv1.Claim{claim(1, "shop/web", uint64(now-1e9))}})
	send(t, flows, batch("e1", 2, 3)) // both of the owner's streams are as they were
	r.server.Done(r.pipeline.wait(t, 2)[1])
	waitAcked(t, flows, 2)

	r.client = byGRPC("honest") // with another certificate
	r.control(t, "e1")
}

// datagramOf takes a datagram of 3 rows for a book, in whose name some of them are stored.
func datagramOf(t *testing.T, r *rig, book *datagrams.Book, stored uint64) {
	t.Helper()
	r.server.takeDatagram(book, 3, body(t, 1, 3))
	if stored > 0 {
		r.server.Done(r.pipeline.wait(t, 1)[0])
	}
	got := book.Mark(&flowv1.DatagramMark{Epoch: 1, Rows: 3})
	if got.GetStoredRows() != stored || got.GetDroppedRows() != 3-stored {
		t.Errorf("%v, want %d stored", got, stored)
	}
}

// batchOfAnother sends a batch of e1, of the same host, on another exporter's stream.
func batchOfAnother(t *testing.T, r *rig, evil flowv1.CollectorClient) {
	t.Helper()
	own := r.client
	r.client = evil
	f := r.flows(t, "e2")
	r.client = own
	forged := batch("e1", 1, 3)
	forged.Host = "h1"
	send(t, f, forged)
	for {
		m, err := f.Recv()
		if err != nil {
			t.Fatalf("batch: %v", err)
		}
		if len(m.GetRejected()) == 0 {
			continue
		}
		if m.GetExporterId() != "e1" || codes.Code(m.GetRejected()[0].GetCode()) != codes.PermissionDenied {
			t.Errorf("batch: %v", m)
		}
		return
	}
}

func waitAcked(t *testing.T, s flowsStream, seq uint64) {
	t.Helper()
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("the owner's stream: %v", err)
		}
		for _, acked := range m.GetAcked() {
			if acked.GetFirst() <= seq && seq <= acked.GetLast() {
				return
			}
		}
	}
}
