// Command delivery measures how a collector bears exporters that it cannot serve, and how they come back to it.
//
// It starts the real collector. First before a store that takes connections and never answers: exporters push batches until nothing moves
// any more, and meanwhile another one claims addresses; it prints how long a claim takes until the collector's API knows it, and the collector's
// memory. Then before its embedded store: exporters with the real transport and spool stream, the collector is killed and started again; it prints how
// long it takes until every one of them has an acknowledgement again, and checks that every row is stored. Last it sends the same batches to the
// front door alone, in a process of its own, over gRPC and over HTTPS in turns, and prints what a row costs it; and it sends datagrams as fast as it can, and prints
// how many of them another process receives and opens in a second of its processors' time.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

type options struct {
	programs   string
	blocked    int
	stalled    int
	reconnects int
	only       string
}

func main() {
	var o options
	flag.StringVar(&o.programs, "programs", "bin", "where tributary-collector and libchdb.so are")
	flag.IntVar(&o.blocked, "blocked", 60, "stalled exporters while claims are timed")
	flag.IntVar(&o.stalled, "stalled", 500, "stalled exporters while memory is read")
	flag.IntVar(&o.reconnects, "reconnects", 500, "exporters that come back at once")
	flag.StringVar(&o.only, "only", "", "cost, stalled or udp: that measurement alone")
	flag.Parse()
	if mode := os.Getenv(doorEnv); mode != "" {
		other := runDoor
		if mode == udpOpen || mode == udpTake {
			other = func() error { return runReceiver(mode) }
		}
		if err := other(); err != nil {
			fmt.Fprintln(os.Stderr, "bench-delivery: front door:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-delivery:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	dir, err := os.MkdirTemp("", "bench-delivery-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	switch o.only {
	case "cost":
		return measureCost(ctx)
	case "udp":
		return measureUDP(ctx)
	}
	if err := measureStalled(ctx, o, dir); err != nil {
		return fmt.Errorf("stalled: %w", err)
	}
	if o.only == "stalled" {
		return nil
	}
	if err := measureReconnects(ctx, o, dir); err != nil {
		return fmt.Errorf("reconnects: %w", err)
	}
	if err := measureCost(ctx); err != nil {
		return fmt.Errorf("cost: %w", err)
	}
	if err := measureUDP(ctx); err != nil {
		return fmt.Errorf("UDP: %w", err)
	}
	return nil
}
