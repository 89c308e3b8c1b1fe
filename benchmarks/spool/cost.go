package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tributary/service/spool"
)

// measureCost runs the same batches through the same path with and without a directory, in turn.
func measureCost(ctx context.Context, o options, dir string, p payload) error {
	c, err := startCollector()
	if err != nil {
		return err
	}
	defer c.server.Stop()
	var without, with []float64
	for round := range o.rounds {
		off, err := costOfRound(ctx, o, c, fmt.Sprint("off-", round), "", p)
		if err != nil {
			return err
		}
		on, err := costOfRound(ctx, o, c, fmt.Sprint("on-", round), filepath.Join(dir, "cost"), p)
		if err != nil {
			return err
		}
		without, with = append(without, off), append(with, on)
	}
	more := make([]float64, len(with))
	for i := range with {
		more[i] = with[i] - without[i]
	}
	fmt.Printf("cost of a record, %d rounds of %d batches of %d rows, %d B each:\n", o.rounds, o.batches, rowsOfBatch, len(p.bytes))
	fmt.Printf("  in memory   median %5.1f ns of CPU, the collector of this benchmark included\n", median(without))
	fmt.Printf("  on disk     median %5.1f ns\n", median(with))
	fmt.Printf("  the disk    median %5.1f ns more (bar: 100 ns), %.1f to %.1f\n", median(more), slices.Min(more), slices.Max(more))
	return os.RemoveAll(filepath.Join(dir, "cost"))
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// ahead bounds what is not acknowledged: a sender that keeps up, as it does in life.
const ahead = unacked + 16

// costOfRound returns the CPU time of this process, kernel included, per record.
func costOfRound(ctx context.Context, o options, c *collector, id, dir string, p payload) (float64, error) {
	e, err := startExporter(id, dir, c.address)
	if err != nil {
		return 0, err
	}
	defer e.stop()
	if dir != "" {
		if err := e.onDisk(ctx); err != nil {
			return 0, err
		}
	}
	before := cpu()
	for seq := uint64(1); seq <= uint64(o.batches); seq++ {
		b := p.sealed(id, seq)
		if seq == uint64(o.batches) {
			b.SealedTimeNs = lastOfRound
		}
		e.transport.Add(b)
		for e.spool.Stats().Pending.Batches > ahead && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
	if err := e.spool.Flush(ctx); err != nil {
		return 0, err
	}
	spent := cpu() - before
	s := e.spool.Stats()
	if want := uint64(o.batches) * rowsOfBatch; s.Acked.Rows != want || s.Appended.Rows != want {
		return 0, fmt.Errorf("%d rows were acknowledged, %d were sealed, want %d: %+v", s.Acked.Rows, s.Appended.Rows, want, s)
	}
	if dir != "" && (s.State != spool.DiskOK || s.DiskErrors+s.SlowWrites > 0) {
		return 0, fmt.Errorf("the disk was not well: %+v", s)
	}
	return float64(spent) / float64(o.batches) / rowsOfBatch, nil
}

// cpu returns the process's CPU time in ns.
func cpu() int64 {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r) // it cannot fail for the own process
	return r.Utime.Nano() + r.Stime.Nano()
}
