package ways

import (
	"testing"
	"time"

	"tributary/collector/ownership"
	"tributary/exporter/transport"
)

// named waits until a collector knows what the exporter claims.
func (d *door) named(t *testing.T) {
	t.Helper()
	network := d.table.Network("default")
	eventually(t, "the claim arrives", func() bool {
		ranges := d.table.View(time.Now().UnixNano()).Ranges(network, ownership.AddrFrom(address), 0, time.Now().UnixNano())
		return len(ranges) == 1 && ranges[0].Owner.Workload == "shop/web"
	})
}

func TestHTTPS(t *testing.T) {
	for name, way := range map[string]func(*testing.T) (*door, func(*transport.Config)){
		"plain": func(t *testing.T) (*door, func(*transport.Config)) {
			d := open(t, nil)
			return d, overHTTPS("http://"+d.https.Addr().String(), nil, nil)
		},
		"mutual TLS": func(t *testing.T) (*door, func(*transport.Config)) {
			_, server, client := certificates(t)
			d := open(t, server)
			return d, overHTTPS("https://"+d.https.Addr().String(), client, nil)
		},
		"nginx ends TLS": func(t *testing.T) (*door, func(*transport.Config)) {
			dir, _, client := certificates(t)
			d := open(t, nil)
			return d, overHTTPS("https://"+nginx(t, dir, d.https.Addr().String())+"/tributary", client, nil)
		},
		"CONNECT": func(t *testing.T) (*door, func(*transport.Config)) {
			_, server, client := certificates(t)
			d := open(t, server)
			proxy, u := forwardProxy(t)
			t.Cleanup(func() {
				if proxy.connects.Load() == 0 || proxy.plain.Load() != 0 {
					t.Errorf("%d CONNECTs and %d plain requests", proxy.connects.Load(), proxy.plain.Load())
				}
			})
			return d, overHTTPS("https://"+d.https.Addr().String(), client, u)
		},
		"plain forward proxy": func(t *testing.T) (*door, func(*transport.Config)) {
			d := open(t, nil)
			proxy, u := forwardProxy(t)
			t.Cleanup(func() {
				if proxy.connects.Load() != 0 || proxy.plain.Load() == 0 {
					t.Errorf("%d CONNECTs and %d plain requests", proxy.connects.Load(), proxy.plain.Load())
				}
			})
			return d, overHTTPS("http://"+d.https.Addr().String(), nil, u)
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, to := way(t)
			e := export(t, "", to)
			e.add(50)
			e.flush()
			d.named(t)
			eventually(t, "news come without a batch", func() bool { now, _ := e.Connected(); return now })
			e.add(1)
			e.flush()
			if rows, twice := d.store.once(); rows != 51*20 || twice != 0 || e.Stats().Resent.Batches != 0 {
				t.Errorf("%d rows, %d of them twice; %+v", rows, twice, e.Stats())
			}
		})
	}
}

// TestAnswersThatAreCutOff loses answers between collector and exporter: everything is stored, and nothing is taken in twice.
func TestAnswersThatAreCutOff(t *testing.T) {
	d := open(t, nil)
	c := cut(t, d.https.Addr().String())
	e := export(t, "", overHTTPS("http://"+c.Addr().String(), nil, nil))
	c.cutNth.Store(5)
	for c.cuts.Load() < 10 {
		e.add(3)
		time.Sleep(20 * time.Millisecond)
	}
	c.cutNth.Store(0)
	e.flush()
	if rows, twice := d.store.once(); rows != int(e.seq)*20 || twice != 0 {
		t.Errorf("%d rows of %d, %d of them twice", rows, e.seq*20, twice)
	}
}

// TestSwitching closes gRPC, opens it again and changes the order: the way follows, and nothing is lost.
func TestSwitching(t *testing.T) {
	d := open(t, nil)
	grpc := cut(t, d.grpc.Addr().String())
	e := export(t, grpc.Addr().String(), func(c *transport.Config) {
		overHTTPS("http://"+d.https.Addr().String(), nil, nil)(c)
		c.Order = []transport.Way{transport.GRPC, transport.HTTPS}
	})
	on := func(way transport.Way) {
		t.Helper()
		eventually(t, "the way is "+string(way), func() bool { return e.Way() == way })
		e.add(5)
		e.flush()
		if e.Way() != way {
			t.Errorf("on %s, want %s", e.Way(), way)
		}
	}
	on(transport.GRPC)
	grpc.shut.Store(true)
	grpc.cutAll()
	on(transport.HTTPS)
	grpc.shut.Store(false)
	on(transport.GRPC)
	if err := e.Reorder([]transport.Way{transport.HTTPS, transport.GRPC}); err != nil {
		t.Fatal(err)
	}
	on(transport.HTTPS)
	d.named(t)
	if err := e.Reorder([]transport.Way{"pigeon"}); err == nil {
		t.Error("a way that there is not was accepted")
	}
	if rows, twice := d.store.once(); rows != int(e.seq)*20 || twice != 0 {
		t.Errorf("%d rows of %d, %d of them twice", rows, e.seq*20, twice)
	}
}
