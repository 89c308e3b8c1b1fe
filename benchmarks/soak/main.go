// Command soak holds both programs under a steady load for a long time, and says whether they stay as they are.
//
// It starts the real collector with its embedded store and a real exporter that watches the whole host (root), opens connections over loopback at a steady
// rate beside some that stay open, and reads memory and descriptors of both programs every few seconds. In the end the load stops, and it wants: the memory of
// each program in the last quarter at most a tenth above that of the second quarter, and not more descriptors; every account of both programs balanced, nothing
// lost; and as many rows in the store as the exporter kept. Anything else is its exit code. The engine is a child of the collector with a bound of its own, which
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
)

type options struct {
	minutes  float64
	rate     int
	lasting  int
	programs string
	every    time.Duration
}

func main() {
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

func run(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "soak-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := startWorld(ctx, o, dir)
	if err != nil {
		return err
	}
	defer w.stop()
	load, err := startLoad(o)
	if err != nil {
		return err
	}
	fmt.Printf("%d connections a second and %d that stay open, for %.3g minutes\n", o.rate, o.lasting, o.minutes)
	readings, err := w.watch(ctx, time.Duration(o.minutes*float64(time.Minute)), o.every)
	load.stop()
	if err != nil {
		return err
	}
	fmt.Printf("%d connections were opened, %d failed\n", load.opened.Load(), load.failed.Load())
	return errors.Join(judge(readings), w.balance(ctx))
}

// startWorld starts a collector and an exporter and waits until both are ready.
func startWorld(ctx context.Context, o options, dir string) (*world, error) {
	w := new(world)
	addresses, err := freeAddresses(5)
	if err != nil {
		return nil, err
	}
	listen, api, sql := addresses[0], addresses[1], addresses[2]
	w.sql = sql
	w.collector = &program{name: "tributary-collector", metrics: addresses[3]}
	w.exporter = &program{name: "tributary-exporter", metrics: addresses[4]}
	if err := w.collector.start(ctx, o.programs, dir, "serve", "--data", filepath.Join(dir, "data"), "--kafka", "none", "--listen", listen, "--api-listen", api,
		"--metrics-listen", w.collector.metrics, "--embedded-listen", sql, "--embedded-library", filepath.Join(o.programs, "libchdb.so")); err != nil {
		return nil, err
	}
	if err := w.exporter.start(ctx, o.programs, dir, "--collector", listen, "--metrics-listen", w.exporter.metrics, "--spool-dir", filepath.Join(dir, "spool"),
		"--socket", filepath.Join(dir, "exporter.sock")); err != nil {
		w.stop()
		return nil, err
	}
	return w, nil
}
