package ways

import (
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/transport"
)

// wire stands between an exporter and the collector's UDP socket, and does to datagrams what networks do.
type wire struct {
	*net.UDPConn
	to    *net.UDPConn
	dark  atomic.Bool  // nothing gets through
	dropN atomic.Int64 // every nth is lost
	wild  atomic.Bool  // datagrams come twice, out of order, and with forged ones among them

	longest, lost atomic.Int64
}

func newWire(t *testing.T, collector net.Addr) *wire {
	t.Helper()
	w := &wire{UDPConn: socket(t)}
	var err error
	if w.to, err = net.DialUDP("udp", nil, collector.(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	var carrying sync.WaitGroup
	carrying.Go(w.carry)
	t.Cleanup(func() {
		w.Close()
		carrying.Wait()
		w.to.Close()
	})
	return w
}

func socket(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *wire) carry() {
	var held [][]byte
	b := make([]byte, 1<<16)
	for n := int64(1); ; n++ {
		size, err := w.Read(b)
		if err != nil {
			return
		}
		w.longest.Store(max(w.longest.Load(), int64(size)))
		if drop := w.dropN.Load(); w.dark.Load() || drop > 0 && n%drop == 0 {
			w.lost.Add(1)
			continue
		}
		held = append(held, slices.Clone(b[:size]))
		if !w.wild.Load() || len(held) == 5 {
			w.deliver(held)
			held = nil
		}
	}
}

func (w *wire) deliver(held [][]byte) {
	if w.wild.Load() {
		forged := slices.Clone(held[0])
		forged[len(forged)-1]++
		held = append(held, forged, held[0][:len(held[0])-3], held[1], make([]byte, 50))
		rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	}
	for _, b := range held {
		if _, err := w.to.Write(b); err != nil && !errors.Is(err, net.ErrClosed) {
			continue // the collector is away
		}
	}
}

// openUDP starts a front door that takes datagrams.
func openUDP(t *testing.T) *door {
	t.Helper()
	return openAt(t, nil, listen(t, "127.0.0.1:0"), socket(t))
}

// byUDP chooses UDP, with gRPC beside it.
func byUDP(udp net.Addr) func(*transport.Config) {
	return func(c *transport.Config) {
		c.Datagrams = &transport.DatagramConfig{Address: udp.String()}
		c.Order = []transport.Way{transport.UDP, transport.GRPC}
	}
}

// on waits until batches go one way.
func (e *exporter) on(way transport.Way) {
	e.t.Helper()
	eventually(e.t, "the way is "+string(way), func() bool { return e.Way() == way })
}

// told waits until the collector has told of all but unknown rows.
func (e *exporter) told(unknown uint64) transport.DatagramStats {
	e.t.Helper()
	eventually(e.t, "the collector tells what came", func() bool { s := e.Datagrams(); return s.Unconfirmed() <= unknown })
	return e.Datagrams()
}

// count reads a counter of the collector with a label's value.
func (d *door) count(t *testing.T, name, value string) float64 {
	t.Helper()
	families, err := prometheus.Gatherers{d.registry}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (value == "" || m.GetLabel()[0].GetValue() == value) {
				return m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, value)
	return 0
}

// TestUDP over a wire that loses, doubles, reorders and forges: every row is stored once or never came, to the row, and nobody has to be asked twice.
func TestUDP(t *testing.T) {
	d := openUDP(t)
	w := newWire(t, d.udp.LocalAddr())
	e := export(t, d.grpc.Addr().String(), byUDP(w.LocalAddr()))
	e.on(transport.UDP)
	w.dropN.Store(11)
	w.wild.Store(true)
	for range 100 {
		e.add(5)
		time.Sleep(2 * time.Millisecond)
	}
	w.wild.Store(false)
	e.add(1) // and what the wire still holds
	s := e.told(0)
	stored, twice := d.store.once()
	if s.SentRows != 501*rows || s.DroppedRows != 0 || uint64(stored) != s.StoredRows || twice != 0 || s.NeverCame != uint64(w.lost.Load()) || s.NeverCameRows != 20*s.NeverCame {
		t.Errorf("%+v; %d rows are stored, %d of them twice; the wire lost %d", s, stored, twice, w.lost.Load())
	}
	if w.longest.Load() > 1200 || e.spool.Stats().Appended.Rows != 0 {
		t.Errorf("a datagram of %d bytes; %+v", w.longest.Load(), e.spool.Stats())
	}
	const name = "tributary_collector_ingest_datagrams_total"
	for result, least := range map[string]float64{"accepted": 400, "forged": 150, "replayed": 75, "bad_version": 75} {
		if got := d.count(t, name, result); got < least {
			t.Errorf("%v %s, want %v", got, result, least)
		}
	}
	if got := d.count(t, "tributary_collector_ingest_datagram_rows_never_came_total", ""); got != float64(s.NeverCameRows) {
		t.Errorf("%v rows never came, the exporter was told %d", got, s.NeverCameRows)
	}
	e.add(1)
	e.Settle(t.Context())
	if s := e.Datagrams(); s.SentRows != 502*rows || s.Unconfirmed() != 0 {
		t.Errorf("%+v", s)
	}
}

// TestUDPBesideHTTPS: keys and reports go over POSTs as well, with certificates.
func TestUDPBesideHTTPS(t *testing.T) {
	_, server, client := certificates(t)
	d := openAt(t, server, listen(t, "127.0.0.1:0"), socket(t))
	e := export(t, "", func(c *transport.Config) {
		byUDP(d.udp.LocalAddr())(c)
		overHTTPS("https://"+d.https.Addr().String(), client, nil)(c)
		c.Order = []transport.Way{transport.UDP, transport.HTTPS}
	})
	e.on(transport.UDP)
	e.add(20)
	if s := e.told(0); s.StoredRows != 20*rows {
		t.Errorf("%+v", s)
	}
	d.named(t)
}

// TestUDPIsLeft: where datagrams do not arrive, or no longer, batches go over the stream, and nothing of that is lost. Batches that do not fit into a
// datagram go over the stream too.
func TestUDPIsLeft(t *testing.T) {
	d := openUDP(t)
	w := newWire(t, d.udp.LocalAddr())
	w.dark.Store(true)
	e := export(t, d.grpc.Addr().String(), byUDP(w.LocalAddr()))
	d.named(t)
	e.add(10)
	e.flush()
	if s := e.Datagrams(); s.SentRows != 0 || e.Way() != transport.GRPC {
		t.Errorf("%s: %+v", e.Way(), s)
	}
	w.dark.Store(false)
	e.on(transport.UDP)
	e.add(10)
	if s := e.told(0); s.StoredRows != 10*rows {
		t.Errorf("%+v", s)
	}
	e.addRows(1, 500)
	e.flush()
	if s := e.Datagrams(); s.TooLarge != 1 {
		t.Errorf("%+v", s)
	}
	w.dark.Store(true)
	for e.Way() == transport.UDP {
		e.add(1)
		time.Sleep(10 * time.Millisecond)
	}
	s := e.told(0)
	e.add(10)
	e.flush()
	stored, twice := d.store.once()
	if all := int(e.seq-1)*rows + 500; stored != all-int(s.NeverCameRows) || twice != 0 {
		t.Errorf("%d rows stored of %d, %d of them twice; %+v", stored, all, twice, s)
	}
}

// TestUDPIsRefused: a collector without a UDP listener says so, and all goes over gRPC; so it does when another order is set.
func TestUDPIsRefused(t *testing.T) {
	d := open(t, nil)
	e := export(t, d.grpc.Addr().String(), byUDP(socket(t).LocalAddr()))
	e.add(10)
	e.flush()
	if e.Way() != transport.GRPC {
		t.Errorf("on %s", e.Way())
	}
	for _, order := range [][]transport.Way{{transport.GRPC, transport.UDP}, {transport.UDP, transport.UDP}, {}} {
		if err := e.Reorder(order); err == nil {
			t.Errorf("%v was accepted", order)
		}
	}
}

// TestUDPAndARestart: while no collector can say what arrives, nothing goes by datagram; what was under way when it was killed stays unconfirmed, the
// rest is exact. Settings choose the way while the exporter runs.
func TestUDPAndARestart(t *testing.T) {
	first := openUDP(t)
	w := newWire(t, first.udp.LocalAddr())
	e := export(t, first.grpc.Addr().String(), byUDP(w.LocalAddr()))
	e.on(transport.UDP)
	e.add(10)
	e.told(0)
	w.dark.Store(true) // as if the kill came before they were read
	e.add(3)
	first.stop()
	e.on(transport.GRPC)
	e.add(10)
	w.dark.Store(false)
	conn, err := net.ListenUDP("udp", first.udp.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	second := openAt(t, nil, listen(t, first.grpc.Addr().String()), conn)
	e.flush()
	e.on(transport.UDP)
	e.add(10)
	s := e.told(3 * rows)
	if s.SentRows != 23*rows || s.StoredRows != 20*rows || s.Unconfirmed() != 3*rows {
		t.Errorf("%+v", s)
	}
	if err := e.Reorder([]transport.Way{transport.GRPC}); err != nil {
		t.Fatal(err)
	}
	e.on(transport.GRPC)
	e.add(10)
	e.flush()
	if rows, twice := second.store.once(); rows != 30*20 || twice != 0 {
		t.Errorf("%d rows, %d of them twice", rows, twice)
	}
}
