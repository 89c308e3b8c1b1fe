package app

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tributary/exporter/transport"
	"tributary/service/tlsconf"
	"tributary/service/tlsconf/tlstest"
)

// TestDoctorAsksARunningExporter: also where its metrics are open to the network, and so served with TLS.
func TestDoctorAsksARunningExporter(t *testing.T) {
	dir := t.TempDir()
	tlstest.New(t, "an authority").Issue(dir, "exporter.example")
	for name, host := range map[string]string{"http": "127.0.0.1", "https": "0.0.0.0"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Fatal(err)
			}
			_, port, _ := net.SplitHostPort(l.Addr().String())
			c := testConfig(t, "127.0.0.1:1")
			c.MetricsListen = net.JoinHostPort(host, port)
			c.TLS.Cert, c.TLS.Key, c.TLS.CA = tlstest.Files(dir)
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, `tributary_exporter_transport_in_use{way="https"} 1`)
				fmt.Fprintln(w, `tributary_exporter_transport_switches_total{reason="failed"} 2`)
			}), ErrorLog: slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelDebug)}
			t.Cleanup(func() { _ = server.Close() })
			serve := server.Serve
			if c.MetricsTLS() != (name == "https") {
				t.Fatalf("%s: TLS %t", c.MetricsListen, c.MetricsTLS())
			}
			if c.MetricsTLS() {
				files, err := tlsconf.NewServer(tlsconf.ServerFiles{Cert: c.TLS.Cert, Key: c.TLS.Key}, tlsconf.Options{Use: "metrics", Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				server.TLSConfig = files.Config()
				serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
			}
			go func() { _ = serve(l) }()
			got := inUse(t.Context(), c)
			if got.way != transport.HTTPS || !cmp.Equal(got.changes, []string{"failed 2"}) {
				t.Errorf("%+v", got)
			}
		})
	}
}
