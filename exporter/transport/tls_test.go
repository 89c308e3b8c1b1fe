package transport

import (
	"log/slog"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"

	"tributary/service/tlsconf"
	"tributary/service/tlsconf/tlstest"
)

func TestMutualTLS(t *testing.T) {
	ours, foreign := t.TempDir(), t.TempDir()
	tlstest.New(t, "ours").Issue(ours, "collector")
	tlstest.New(t, "foreign").Issue(foreign, "exporter")
	options := tlsconf.Options{Use: "test", Log: slog.New(slog.DiscardHandler)}
	file := func(dir, name string) string { return filepath.Join(dir, name) }
	server, err := tlsconf.NewServer(tlsconf.ServerFiles{
		Cert: file(ours, "cert.pem"), Key: file(ours, "key.pem"), ClientCA: file(ours, "ca.pem"),
	}, options)
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeCollector{}
	c.serve(t, "", grpc.Creds(server.GRPC()))
	client := func(dir string) *running {
		creds, err := tlsconf.NewClient(tlsconf.ClientFiles{CA: file(ours, "ca.pem"), Cert: file(dir, "cert.pem"), Key: file(dir, "key.pem")}, options)
		if err != nil {
			t.Fatal(err)
		}
		r := run(t, c.address, func(config *Config) { config.Credentials = creds.GRPC() })
		r.Add(batch(1, 100))
		return r
	}
	stranger := client(foreign)
	eventually(t, "the stranger is told why", func() bool { return stranger.log.count("cannot reach the collector yet") > 0 })
	if s := stranger.spool.Stats(); s.Acked.Batches != 0 || s.Pending.Batches != 1 {
		t.Errorf("a stranger's books: %+v", s)
	}
	flush(t, client(ours))
	plain := run(t, c.address, nil)
	plain.Add(batch(1, 100))
	eventually(t, "plain text is told why", func() bool { return plain.log.count("cannot reach the collector yet") > 0 })
}
