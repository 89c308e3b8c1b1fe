// Command soak holds both programs under a steady load for a long time, and says whether they stay as they are.
//
// In a network namespace of its own (root), so that nothing else that the host does is in the books, it starts the real collector with its embedded store and a
// real exporter, opens connections at a steady rate beside some that stay open, and reads memory and descriptors of both programs every few seconds. In the end the load stops, and it wants: the
// memory of each program in the last quarter at most a tenth above that of the second quarter, and not more descriptors; every account of both programs balanced; as many rows in the
// store as the exporter kept; both ends of each connection of the load in the store, once; and nothing lost. Anything else is its exit code. What the kernel could not hand over, because the host
// kept the exporter from reading its ring, is a loss too: it is counted, and told apart from books that are wrong. The engine is a child of the collector with a bound of its own, which
// is all that is asked of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"tributary/deploy/dev/ports"
	"tributary/deploy/world"
)

type options struct {
	minutes  float64
	rate     int
	lasting  int
	programs string
	every    time.Duration
}

func main() {
	world.RunChild()
	var o options
	flag.Float64Var(&o.minutes, "minutes", 60, "how long the load lasts")
	flag.IntVar(&o.rate, "rate", 200, "connections a second")
	flag.IntVar(&o.lasting, "lasting", 200, "connections that stay open and carry a little")
	flag.StringVar(&o.programs, "programs", "bin", "where the two programs and libchdb.so are")
	flag.DurationVar(&o.every, "every", 5*time.Second, "between two readings")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := newPlace()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.world.Close()) }()
	r, err := startRig(ctx, p, o, dir)
	if err != nil {
		return err
	}
	defer r.stop()
	load, err := startLoad(p, o)
	if err != nil {
		return err
	}
	fmt.Printf("%d connections a second and %d that stay open, for %.3g minutes\n", o.rate, o.lasting, o.minutes)
	readings, err := r.watch(ctx, time.Duration(o.minutes*float64(time.Minute)), o.every)
	load.stop()
	if err != nil {
		return err
	}
	fmt.Printf("%d connections were opened, %d failed\n", load.opened.Load(), load.failed.Load())
	return errors.Join(judge(readings), r.balance(ctx, load))
}

// startRig starts a collector and an exporter and waits until both are ready.
func startRig(ctx context.Context, p *place, o options, dir string) (*rig, error) {
	r := &rig{place: p}
	var addresses []string
	var release func()
	if err := p.in(func() (err error) {
		addresses, release, err = ports.Reserve(5)
		return err
	}); err != nil {
		return nil, err
	}
	defer release() // the programs have them then
	listen, api, sql := addresses[0], addresses[1], addresses[2]
	r.sql = sql
	r.collector = &program{place: p, name: "tributary-collector", metrics: addresses[3]}
	r.exporter = &program{place: p, name: "tributary-exporter", metrics: addresses[4]}
	if err := r.collector.start(ctx, o.programs, dir, "serve", "--data", filepath.Join(dir, "data"), "--kafka", "none", "--listen", listen, "--api-listen", api,
		"--metrics-listen", r.collector.metrics, "--embedded-listen", sql, "--embedded-library", filepath.Join(o.programs, "libchdb.so")); err != nil {
		return nil, err
	}
	if err := r.exporter.start(ctx, o.programs, dir, "--scope", "netns", "--workload", host.Workload, "--instance", host.Instance, "--network", p.world.Network(),
		"--collector", listen, "--metrics-listen", r.exporter.metrics, "--spool-dir", filepath.Join(dir, "spool"), "--socket", filepath.Join(dir, "exporter.sock")); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}
