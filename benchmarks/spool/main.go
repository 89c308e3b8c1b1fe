// Command spool measures what keeping sealed batches on disk costs an exporter.
//
// It drives the exporter's own spool and transport, over a real gRPC connection, against a collector that only acknowledges, and
// prints three figures: the CPU time a record costs more with a directory than without; how long after a start with a full spool the
// first batch reaches the collector; and how much memory the spool takes meanwhile. The collector runs in the same process and
// costs the same in both modes, so that it cancels out of the difference.
//
// A figure is worth printing only if it is right: every row must have been acknowledged once and none dropped, otherwise the program
// says what differs and ends with status 1.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
)

type options struct {
	dir     string
	batches int
	rounds  int
	bytes   int64
}

func main() {
	var o options
	flag.StringVar(&o.dir, "dir", ".build", "where to make the spool's directory: on the disk to measure")
	flag.IntVar(&o.batches, "batches", 4000, "batches of 1000 rows in each round")
	flag.IntVar(&o.rounds, "rounds", 7, "rounds, each with and without the disk")
	flag.Int64Var(&o.bytes, "bytes", 256<<20, "how full the spool is at the start")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-spool:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	dir, err := os.MkdirTemp(o.dir, "bench-spool-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	payload, err := samplePayload()
	if err != nil {
		return err
	}
	if err := measureCost(ctx, o, dir, payload); err != nil {
		return fmt.Errorf("cost: %w", err)
	}
	if err := measureStart(ctx, o, dir, payload); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
}
