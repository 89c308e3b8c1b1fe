package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"tributary/service/spool"
)

// measureStart fills a spool, ends its run, and starts the next one on it with nothing in the page cache.
func measureStart(ctx context.Context, o options, dir string, p payload) error {
	dir = filepath.Join(dir, "start")
	left, err := fill(ctx, o, dir, p)
	if err != nil {
		return err
	}
	if err := forgetPages(dir); err != nil {
		return err
	}
	c, err := startCollector()
	if err != nil {
		return err
	}
	defer c.server.Stop()
	idle := liveHeap()
	began := time.Now()
	e, err := startExporter("second", dir, c.address)
	if err != nil {
		return err
	}
	defer e.stop()
	select {
	case at := <-c.first:
		fmt.Printf("start with %d MiB in %d batches spooled:\n  first batch at the collector after %.0f ms (bar: 2000 ms)\n",
			o.bytes>>20, left.Batches, float64(at.Sub(began).Microseconds())/1e3)
	case <-ctx.Done():
		return ctx.Err()
	}
	most := uint64(0)
	// The collector keeps the last batches to itself until it sees the mark, so that many remain.
	for s := e.spool.Stats(); (s.Scanning || s.Pending.Batches > unacked) && ctx.Err() == nil; s = e.spool.Stats() {
		most = max(most, stalledHeap(c))
		time.Sleep(50 * time.Millisecond)
	}
	s := e.spool.Stats()
	if s.Recovered != left || s.Acked.Batches+s.Pending.Batches != left.Batches {
		return fmt.Errorf("of %+v that were left: %+v", left, s)
	}
	fmt.Printf("  live memory meanwhile at most %.1f MiB more than before, connection included (bar: 8 MiB)\n", float64(most-min(idle, most))/(1<<20))
	return nil
}

// fill leaves so much on disk as a run that is killed while no collector is there.
func fill(ctx context.Context, o options, dir string, p payload) (spool.Count, error) {
	e, err := startExporter("first", dir, "")
	if err != nil {
		return spool.Count{}, err
	}
	if err := e.onDisk(ctx); err != nil {
		return spool.Count{}, err
	}
	for seq := uint64(1); e.spool.Stats().DiskBytes < o.bytes-(1<<20); seq++ {
		e.transport.Add(p.sealed("first", seq))
	}
	e.stop()
	left := e.spool.Stats().Pending
	if left != e.spool.Stats().Appended {
		return left, fmt.Errorf("the spool did not keep everything: %+v", e.spool.Stats())
	}
	return left, nil
}

// forgetPages takes the files out of the page cache.
func forgetPages(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		if err != nil {
			return fmt.Errorf("forget %s: %w", name, err)
		}
	}
	return nil
}

// stalledHeap returns what is reachable while nothing moves: else it would count what was allocated during the measurement.
func stalledHeap(c *collector) uint64 {
	c.gate.Lock()
	defer c.gate.Unlock()
	time.Sleep(20 * time.Millisecond)
	return liveHeap()
}

// liveHeap returns what is reachable.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
