package region

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"tributary/collector/attribute"
	"tributary/collector/hold"
	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/service/tlsconf"
	"tributary/service/tlsconf/tlstest"
)

// wire is the way between two regions. It can be cut in two ways.
type wire struct {
	t      *testing.T
	to     string
	listen string

	mu     sync.Mutex
	l      net.Listener
	conns  []net.Conn
	silent bool
}

func newWire(t *testing.T, to string) *wire {
	w := &wire{t: t, to: to, listen: "127.0.0.1:0"}
	w.whole()
	t.Cleanup(w.refuse)
	return w
}

// whole lets everything through, on new connections.
func (w *wire) whole() {
	w.refuse()
	l, err := net.Listen("tcp", w.listen)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.l, w.silent, w.listen = l, false, l.Addr().String()
	w.mu.Unlock()
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", w.to)
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, in, out)
			w.mu.Unlock()
			go w.copy(out, in)
			go w.copy(in, out)
		}
	}()
}

func (w *wire) copy(to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		silent := w.silent
		w.mu.Unlock()
		if n > 0 && !silent {
			_, _ = to.Write(buf[:n])
		}
		if err != nil {
			if !silent { // else the end is swallowed too
				to.Close()
			}
			return
		}
	}
}

// drop lets nothing through and says nothing.
func (w *wire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = true
}

// refuse closes everything.
func (w *wire) refuse() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent = false
	if w.l != nil {
		w.l.Close()
	}
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// regions are two: "here" asks "there", which has 10.64.0.0/10, over mutual TLS.
type regions struct {
	*testing.T
	here, there *ownership.Table
	wire        *wire
	resolver    *Resolver
	hold        *hold.Hold
	reg         *prometheus.Registry
	file        string
	seq         uint64

	mu  sync.Mutex
	got map[uint64]string // by flow: what its row said last
}

func newRegions(t *testing.T, allowed bool) *regions {
	t.Helper()
	dir := t.TempDir()
	tlstest.New(t, "corp").Issue(dir, "collector")
	cert, key, ca := tlstest.Files(dir)
	options := tlsconf.Options{Use: "test", Log: slog.New(slog.DiscardHandler)}
	serverTLS, err := tlsconf.NewServer(tlsconf.ServerFiles{Cert: cert, Key: key, ClientCA: ca}, options)
	if err != nil {
		t.Fatal(err)
	}
	clientTLS, err := tlsconf.NewClient(tlsconf.ClientFiles{Cert: cert, Key: key, CA: ca}, options)
	if err != nil {
		t.Fatal(err)
	}
	r := &regions{
		T: t, here: ownership.New(ownership.Config{}), there: ownership.New(ownership.Config{}), reg: prometheus.NewRegistry(),
		file: filepath.Join(dir, "regions.yaml"), got: map[uint64]string{},
	}
	server, err := NewServer("there", r.there, func(context.Context) bool { return allowed }, time.Now, r.reg)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.Creds(serverTLS.GRPC()))
	server.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	r.wire = newWire(t, l.Addr().String())
	r.table("10.64.0.0/10")
	r.resolver, err = New(Config{Region: "here", File: r.file, Credentials: clientTLS.GRPC(), Wake: func() { r.hold.Wake() }}, r.reg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.resolver.Stop)
	attributor, err := attribute.New(attribute.Config{Regions: r.resolver}, r.here, r.reg)
	if err != nil {
		t.Fatal(err)
	}
	// The hold waits longer than it does by itself: on a machine that stands still for a while a row would be pending first.
	if r.hold, err = hold.New(hold.Config{MaxWait: 30 * time.Second}, r.here, attributor, r.emit, r.reg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.hold.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	r.marks(r.here, r.there)
	return r
}

// table writes the file of regions.
func (r *regions) table(prefix string) {
	r.Helper()
	text := fmt.Sprintf("regions:\n  - region: there\n    prefixes: [%s]\n    collectors: [%s]\n  - region: here\n    prefixes: [10.64.128.0/17]\n", prefix, r.wire.listen)
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.Fatal(err)
	}
}

// marks sends a watermark of each table's exporter every 100 ms.
func (r *regions) marks(tables ...*ownership.Table) {
	ctx, cancel := context.WithCancel(r.Context())
	var running sync.WaitGroup
	r.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, t := range tables {
				now := time.Now().UnixNano()
				_ = t.Watermark(&ownership.Watermark{Exporter: "x", Host: "x", VerifiedTo: now, ReceivedAt: now})
			}
			r.hold.Wake()
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

func (r *regions) claim(t *ownership.Table, addr, workload string, ago time.Duration) {
	r.Helper()
	now := time.Now()
	c := &ownership.Claim{
		Exporter: "x", Host: "x", Network: "default", Addr: ownership.AddrFrom(netip.MustParseAddr(addr)), From: now.Add(-ago).UnixNano(),
		Owner: ownership.Owner{Workload: workload, Instance: workload + "-1"},
	}
	if err := t.Claim(c, now.UnixNano()); err != nil {
		r.Fatal(err)
	}
}

func (r *regions) emit(b *flow.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for row := range b.Rows {
		text := b.Text(flow.RemoteWorkload, row) + "@" + b.Text(flow.RemoteRegion, row)
		if text == "@" {
			text = flow.WhyNames.Name(b.Get32(flow.RemoteWhy, row))
		}
		id := b.Get64(flow.FlowID, row)
		r.got[id] = text
	}
}

// flow is a connection that began some time ago; it returns its number.
func (r *regions) flow(remote string, ago time.Duration) uint64 {
	r.Helper()
	return r.flowAt(remote, time.Now().Add(-ago))
}

func (r *regions) flowAt(remote string, began time.Time) uint64 {
	r.Helper()
	r.seq++
	w := flow.NewBuilder(1)
	w.AddRow()
	w.Set64(flow.FlowID, r.seq)
	w.Set32(flow.Kind, flow.KindClosed)
	w.SetText(flow.Network, "default")
	w.SetAddr(flow.LocalAddr, netip.MustParseAddr("10.0.0.9").As16())
	w.SetAddr(flow.RemoteAddr, netip.MustParseAddr(remote).As16())
	w.Set32(flow.RemotePort, 443)
	w.Set32(flow.StartObserved, 1)
	at := uint64(began.UnixNano())
	w.Set64(flow.StartTimeNs, at)
	w.Set64(flow.IntervalStartNs, at)
	w.Set64(flow.EndTimeNs, at)
	columns, rows := w.Seal(nil)
	b := &flow.Batch{}
	if err := b.DecodeColumns(columns, rows); err != nil {
		r.Fatal(err)
	}
	b.ExporterID, b.Seq = "client", r.seq
	r.hold.Add(b)
	return r.seq
}

// expect waits until the row says what is wanted, and fails at once if it was ever named otherwise.
func (r *regions) expect(id uint64, want string) {
	r.Helper()
	var got string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		r.mu.Lock()
		got = r.got[id]
		r.mu.Unlock()
		if got == want {
			return
		}
		if strings.Contains(got, "@") {
			break
		}
	}
	r.Errorf("flow %d: %s, want %s", id, got, want)
}

func (r *regions) counter(name string) (sum float64) {
	r.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
