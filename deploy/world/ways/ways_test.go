package ways

import (
	"context"
	"testing"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/settings"
	"tributary/exporter/transport"
	"tributary/proto/flowv1"
)

// named waits until a collector knows what the exporter claims.
func (d *door) named(t *testing.T) {
	t.Helper()
	eventually(t, "the claim arrives", func() bool {
		network := d.table.Network("default") // not known before the claim
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
				if proxy.connects.Load() != 0 || proxy.plain.Load() == 0 || proxy.kept.Load() != 0 {
					t.Errorf("%d CONNECTs and %d plain requests, %d of them on connections that a proxy may close", proxy.connects.Load(), proxy.plain.Load(), proxy.kept.Load())
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

// TestSettingsReachExporters on both ways: what is applied, and what a later file asks for, with the answer.
func TestSettingsReachExporters(t *testing.T) {
	for _, way := range []transport.Way{transport.GRPC, transport.HTTPS} {
		t.Run(string(way), func(t *testing.T) {
			d := open(t, nil)
			apply := func(text string) {
				t.Helper()
				if _, err := d.settings.Apply("f", []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			state := func(want string) {
				t.Helper()
				eventually(t, want, func() bool {
					exporters := d.settings.Status().Exporters
					return len(exporters) == 1 && exporters[0].State == want && exporters[0].Host == "h"
				})
			}
			apply("rules: [{batch_age: 1s}]")
			export(t, d.grpc.Addr().String(), func(c *transport.Config) {
				overHTTPS("http://"+d.https.Addr().String(), nil, nil)(c)
				c.Order = []transport.Way{way}
				c.Settings = func(m *flowv1.Settings) *flowv1.Applied {
					a := &flowv1.Applied{Generation: m.GetGeneration()}
					for _, s := range m.GetSettings() {
						one := &flowv1.AppliedSetting{Key: s.GetKey(), Value: s.GetValue()}
						if s.GetValue() == "2s" {
							one.Value, one.Refused = "1s", "not today"
						}
						a.Settings = append(a.Settings, one)
					}
					return a
				}
			})
			state(settings.StateApplied)
			apply("rules: [{batch_age: 2s}]")
			state(settings.StateRefused)
			apply("rules: []")
			state(settings.StateApplied)
		})
	}
}

// TestTheStoreForgets: after the store has begun another life, what it acknowledged in the last minute comes again, once, and so does what was
// on its way. What is older does not.
func TestTheStoreForgets(t *testing.T) {
	for _, way := range []transport.Way{transport.GRPC, transport.HTTPS} {
		t.Run(string(way), func(t *testing.T) {
			d := open(t, nil)
			d.NewEpoch("first")
			e := export(t, d.grpc.Addr().String(), func(c *transport.Config) {
				overHTTPS("http://"+d.https.Addr().String(), nil, nil)(c)
				c.Order = []transport.Way{way}
			})
			d.named(t)
			e.add(30)
			e.flush()
			d.store.hold.Store(true)
			e.add(5)
			eventually(t, "five are on their way", func() bool { rows, _ := d.store.once(); return rows == 35*20 })
			d.NewEpoch("second")
			d.store.hold.Store(false)
			eventually(t, "all comes again", func() bool { _, twice := d.store.once(); return twice == 35*20 })
			e.flush()
			// Over HTTPS the word comes with the next watermark: what was on its way may be acknowledged before it, and come once more.
			if s := e.spool.Stats(); s.Recalled.Rows < 30*20 || s.Recalled.Rows > 35*20 || s.Acked.Rows != 35*20+s.Recalled.Rows {
				t.Errorf("%d rows recalled, %d acknowledged", s.Recalled.Rows, s.Acked.Rows)
			}
			e.add(1)
			e.flush()
			if rows, twice := d.store.once(); rows != 36*20 || twice != 35*20 {
				t.Errorf("%d rows, %d of them twice", rows, twice)
			}
		})
	}
}

// TestDrainMovesAnExporter: a node that stops, or wants its exporters spread, hands one over to another node without loss or repetition.
func TestDrainMovesAnExporter(t *testing.T) {
	first, second := open(t, nil), open(t, nil)
	balancer := cut(t, first.grpc.Addr().String())
	e := export(t, balancer.Addr().String(), func(*transport.Config) {})
	e.add(20)
	e.flush()
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				e.add(1)
			}
		}
	}()
	balancer.to(second.grpc.Addr().String()) // for new connections, as a balancer that knows that the first is not ready any more
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	first.Quiesce(ctx)
	eventually(t, "the other node has the exporter", func() bool { rows, _ := second.store.once(); return rows > 0 })
	first.stop()
	close(stop)
	<-ended
	e.flush()
	one, _ := first.store.once()
	two, _ := second.store.once()
	if all := int(e.seq) * 20; one+two != all || e.Stats().Resent.Batches != 0 {
		t.Errorf("%d and %d rows of %d; %+v", one, two, all, e.Stats())
	}
}
