package ways

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/collector/ingest"
	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/collector/settings"
	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
	"tributary/service/tlsconf"
	"tributary/service/tlsconf/tlstest"
)

// store acknowledges what comes through after a while, as sinks do.
type store struct {
	mu    sync.Mutex
	rows  map[uint64]int // flow_id: how often
	after time.Duration
	done  func(*flow.Batch)
	hold  atomic.Bool // what comes is never acknowledged
	also  func(*flow.Batch)
}

func (s *store) Add(b *flow.Batch) {
	s.mu.Lock()
	for i := range b.Rows {
		s.rows[b.U64[flow.FlowID][i]]++
	}
	if s.also != nil {
		s.also(b)
	}
	s.mu.Unlock()
	if !s.hold.Load() {
		time.AfterFunc(s.after, func() { s.done(b) })
	}
}

// once reports how many rows came, and how many of them more than once.
func (s *store) once() (rows, twice int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.rows {
		if n > 1 {
			twice++
		}
	}
	return len(s.rows), twice
}

// door is a collector's front door with a listener for each way.
type door struct {
	*ingest.Server
	store       *store
	settings    *settings.Settings
	table       *ownership.Table
	grpc, https net.Listener
	udp         *net.UDPConn // nil: datagrams are refused
	registry    *prometheus.Registry
	stop        func()
}

// open starts a front door. With a configuration HTTPS speaks TLS.
func open(t *testing.T, config *tls.Config) *door {
	t.Helper()
	return openAt(t, config, listen(t, "127.0.0.1:0"), nil)
}

func openAt(t *testing.T, config *tls.Config, grpc net.Listener, udp *net.UDPConn) *door {
	t.Helper()
	return openWith(t, config, grpc, udp, nil)
}

// openWith tells also of every batch.
func openWith(t *testing.T, config *tls.Config, grpc net.Listener, udp *net.UDPConn, also func(*flow.Batch)) *door {
	t.Helper()
	d := &door{
		store: &store{rows: map[uint64]int{}, after: 20 * time.Millisecond, also: also}, table: ownership.New(ownership.Config{}), grpc: grpc,
		https: listen(t, "127.0.0.1:0"), udp: udp, registry: prometheus.NewRegistry(),
	}
	book, err := session.New(1000, d.table, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d.settings, err = settings.Open(t.TempDir(), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	front := ingest.Config{CollectorID: "c1", Settings: d.settings, Datagrams: udp != nil}
	d.Server, err = ingest.New(front, book, d.store, func() {}, d.registry, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.store.done = d.Done
	var serving sync.WaitGroup
	serving.Go(func() { _ = d.Serve(grpc) })
	serving.Go(func() {
		if err := d.ServeHTTP(d.https, config); err != nil {
			t.Error(err)
		}
	})
	if udp != nil {
		serving.Go(func() {
			if err := d.ServeDatagrams(udp); err != nil {
				t.Error(err)
			}
		})
	}
	d.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		d.Stop(ctx)
		serving.Wait()
	})
	t.Cleanup(d.stop)
	return d
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var l net.Listener
	eventually(t, "listen on "+address, func() bool {
		var err error
		l, err = net.Listen("tcp", address)
		return err == nil
	})
	return l
}

// certificates makes a collector's and an exporter's TLS configuration and says where the files are.
func certificates(t *testing.T) (dir string, server *tls.Config, client func() *tls.Config) {
	t.Helper()
	dir = t.TempDir()
	tlstest.New(t, "ca").Issue(dir, "collector")
	file := func(name string) string { return filepath.Join(dir, name) }
	options := tlsconf.Options{Use: "test", Log: slog.New(slog.DiscardHandler)}
	s, err := tlsconf.NewServer(tlsconf.ServerFiles{Cert: file("cert.pem"), Key: file("key.pem"), ClientCA: file("ca.pem")}, options)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tlsconf.NewClient(tlsconf.ClientFiles{CA: file("ca.pem"), Cert: file("cert.pem"), Key: file("key.pem")}, options)
	if err != nil {
		t.Fatal(err)
	}
	return dir, s.Config(), c.Config
}

// exporter is a transport with its spool in memory, and one claim.
type exporter struct {
	*transport.Transport
	t     *testing.T
	spool *spool.Spool
	seq   uint64
}

type claims struct{ from int64 }

func (c claims) Subscribe(ctx context.Context) transport.Subscription {
	none := make(chan *flowv1.Ownership)
	context.AfterFunc(ctx, func() { close(none) })
	claim := &flowv1.Claim{
		Network: "default", Addr: net.ParseIP("10.0.0.1").To16(), Workload: "shop/web", Instance: "web-1", FromNs: c.from,
	}
	return transport.NewSubscription([]*flowv1.Claim{claim}, none, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

func (claims) VerifiedTo(now int64) int64 { return now }

func export(t *testing.T, grpcAddress string, change func(*transport.Config)) *exporter {
	t.Helper()
	return exportWith(t, grpcAddress, func(*spool.Config) {}, change)
}

func exportWith(t *testing.T, grpcAddress string, keep func(*spool.Config), change func(*transport.Config)) *exporter {
	t.Helper()
	c := spool.Default()
	c.Run, c.Host, c.KeepAcked, c.FS = "e-"+t.Name(), "h", time.Minute, spool.Dir(t.TempDir())
	keep(&c)
	kept, err := spool.New(c, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	config := transport.Config{
		Address: grpcAddress, Credentials: insecure.NewCredentials(), Spool: kept, ExporterID: c.Run, Host: c.Host, Claims: claims{time.Now().UnixNano()},
		Counters: func() []*flowv1.Counter { return nil }, ProbeEvery: 300 * time.Millisecond,
	}
	change(&config)
	e := &exporter{t: t, spool: kept}
	if e.Transport, err = transport.New(config, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	keeping, stopKeeping := context.WithCancel(context.Background())
	ended, wrote := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(wrote)
		kept.Run(keeping)
	}()
	eventually(t, "the spool is on disk", func() bool { return kept.Stats().State == spool.DiskOK })
	go func() { ended <- e.Run(ctx) }()
	t.Cleanup(func() {
		defer func() {
			stopKeeping()
			<-wrote
		}()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return e
}

// overHTTPS makes HTTPS the only way.
func overHTTPS(where string, config func() *tls.Config, proxy *url.URL) func(*transport.Config) {
	return func(c *transport.Config) {
		u, err := url.Parse(where)
		if err != nil {
			panic(err)
		}
		c.HTTPS = &transport.HTTPSConfig{URL: u, TLS: config, Proxy: proxyTo(proxy)}
		c.Order = []transport.Way{transport.HTTPS}
	}
}

var address = netip.MustParseAddr("10.0.0.1")

const rows = 20

// add seals n batches.
func (e *exporter) add(n int) {
	e.t.Helper()
	e.addRows(n, rows)
}

func (e *exporter) addRows(n, rows int) {
	e.t.Helper()
	for range n {
		e.seq++
		w := flow.NewBuilder(rows)
		for i := range rows {
			w.AddRow()
			w.Set64(flow.FlowID, e.seq*1000+uint64(i))
			w.Set32(flow.Kind, flow.KindClosed)
			for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
				w.Set64(f, uint64(time.Now().UnixNano()))
			}
		}
		columns, count := w.Seal(nil)
		e.Add(&flowv1.Batch{
			ExporterId: "e-" + e.t.Name(), Host: "h", BatchSeq: e.seq, Rows: uint32(count), ColumnsBytes: uint32(len(columns)), Payload: columns,
		})
	}
}

// flush waits until all is acknowledged.
func (e *exporter) flush() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := e.spool.Flush(ctx); err != nil {
		e.t.Fatalf("not all is acknowledged: %+v", e.spool.Stats())
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
