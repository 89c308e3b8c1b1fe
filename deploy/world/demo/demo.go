package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"tributary/deploy/world"
)

// moveAfter is when the cart's address moves, counted from the start of the traffic: late enough for the old owner's
// flows to be seen, early enough for the first map to show both owners.
const moveAfter = 4 * time.Second

// demo is one run: what it started, in order.
type demo struct {
	options
	out io.Writer

	dir    string // of logs and data
	remove string // dir, if it is ours to remove
	ports  ports
	shop   *world.Shop // nil with --host
	family family
	store  store

	incident *incident // nil with --host
}

// run returns nil when the user had enough, or with --once when the map is complete.
func (d *demo) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("eBPF and network namespaces need root: run it with sudo")
	}
	began := time.Now()
	if err := d.start(ctx); err != nil {
		return d.explain(ctx, err)
	}
	d.say("everything runs after %.1f s; collecting the first flows", time.Since(began).Seconds())
	return d.explain(ctx, d.show(ctx, began))
}

// explain turns the error of a cancelled wait into nothing, and the death of a child into the reason of everything else.
func (d *demo) explain(ctx context.Context, err error) error {
	if dead := d.family.dead(); dead != nil {
		return dead
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start brings up world, collector, exporter and traffic, in this order: nothing happens that nobody sees.
func (d *demo) start(ctx context.Context) error {
	if err := d.prepare(); err != nil {
		return err
	}
	if !d.host {
		d.shop = world.NewShop(os.Stderr)
		if err := d.shop.Start(ctx); err != nil {
			return fmt.Errorf("build the world: %w", err)
		}
		var err error
		if d.incident, err = newIncident(ctx); err != nil {
			return err
		}
		d.say("a shop of 8 workloads and an outside stands in network namespaces (run %d)", d.shop.Run())
	}
	if err := d.startCollector(ctx); err != nil {
		return err
	}
	if err := d.startExporter(ctx); err != nil {
		return err
	}
	if d.shop == nil {
		return nil
	}
	if err := d.shop.Traffic(); err != nil {
		return err
	}
	return nil
}

func (d *demo) prepare() error {
	for _, name := range []string{"tributary-collector", "tributary-exporter"} {
		if _, err := os.Stat(filepath.Join(d.bin, name)); err != nil {
			return fmt.Errorf("%s is not in %s: run make build", name, d.bin)
		}
	}
	var err error
	if d.ports, err = choosePorts(); err != nil {
		return err
	}
	for _, moved := range d.ports.moved {
		d.say("%s", moved)
	}
	if d.data != "" {
		d.dir = d.data
		return os.MkdirAll(d.dir, 0o700)
	}
	d.dir, err = os.MkdirTemp("", "tributary-demo-")
	d.remove = d.dir
	return err
}

func (d *demo) startCollector(ctx context.Context) error {
	args := []string{
		"serve", "--data", filepath.Join(d.dir, "data"), "--clickhouse", "embedded", "--kafka", "none",
		"--listen", d.ports.ingest, "--metrics-listen", d.ports.collectorMetrics, "--embedded-listen", d.ports.sql, "--api-listen", d.ports.api,
	}
	if d.incident != nil {
		args = append(append(args, quickJudge...), "--alert-webhook", d.incident.url())
	}
	c, err := d.family.start(filepath.Join(d.bin, "tributary-collector"), d.dir, args...)
	if err != nil {
		return err
	}
	d.store = store{url: "http://" + d.ports.sql}
	return c.ready(ctx, "http://"+d.ports.collectorMetrics+"/readyz")
}

func (d *demo) startExporter(ctx context.Context) error {
	args := []string{
		"run", "--scope", "host", "--collector", d.ports.ingest, "--metrics-listen", d.ports.exporterMetrics,
		"--spool-dir", filepath.Join(d.dir, "spool"),
	}
	if d.shop != nil {
		identity, err := d.shop.WriteIdentity()
		if err != nil {
			return err
		}
		args = append(args, "--identity", identity)
	}
	c, err := d.family.start(filepath.Join(d.bin, "tributary-exporter"), d.dir, args...)
	if err != nil {
		return err
	}
	return c.ready(ctx, "http://"+d.ports.exporterMetrics+"/readyz")
}

// close ends what run started, youngest first, so that the exporter can still hand its last records over.
func (d *demo) close() error {
	d.family.stop()
	var errs []error
	if d.shop != nil {
		errs = append(errs, d.shop.Close())
	}
	if d.remove != "" {
		errs = append(errs, os.RemoveAll(d.remove))
	}
	return errors.Join(errs...)
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "· "+format+"\n", args...) }
