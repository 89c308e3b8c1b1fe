package main

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"tributary/collector/ownership"
)

func main() {
	sizes := flag.String("addresses", "1000000,10000000", "how many addresses, one table each")
	flag.Parse()
	if err := run(*sizes); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(sizes string) error {
	for text := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1000 || n > 12_000_000 {
			return errors.New("-addresses: numbers from 1000 to 12000000")
		}
		if err := measure(n); err != nil {
			return err
		}
	}
	return nil
}

// measure fills a table of n addresses and prints everything about it.
func measure(n int) error {
	runtime.GC()
	before := heap()
	started := time.Now()
	w, err := fill(n)
	if err != nil {
		return err
	}
	filled := time.Since(started)
	asks := w.questions()
	table := heap() - before - w.bytes(asks)
	s := w.table.Stats()
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer func() { _ = out.Flush() }()
	line := func(what, value string) { _, _ = fmt.Fprintf(out, "%s\t%s\n", what, value) }
	line(fmt.Sprintf("%d addresses, %d ranges", s.Addresses, s.Ranges), fmt.Sprintf("filled in %.1f s", filled.Seconds()))
	one, all := floor(s.Bytes)
	line(fmt.Sprintf("floor: a read from a random place of %d MB", s.Bytes>>20), fmt.Sprintf("%.0f ns one after the other, %.1f ns all at once", one, all))
	together, alone := w.together(asks), w.alone(asks)
	line("look-up, found 64 at a time (as attribute does)", fmt.Sprintf("%.0f ns (%.0f to %.0f)", together[2], together[0], together[4]))
	line("look-up, alone", fmt.Sprintf("%.0f ns (%.0f to %.0f)", alone[2], alone[0], alone[4]))
	line("memory of the table", fmt.Sprintf("%.1f bytes an address; with all names %.1f", float64(s.Bytes)/float64(n), float64(table)/float64(n)))
	mark, whole := collection()
	line("garbage collection", fmt.Sprintf("%.1f ms of marking on one processor, %.1f ms from beginning to end", mark, whole))
	slower := w.written(asks)
	percent := func(factor float64) string { return fmt.Sprintf("%+.0f %%", 100*(factor-1)) }
	line(fmt.Sprintf("look-ups while %.0f claims/s and %.0f watermarks/s are written", slower.claims, slower.claims/10),
		fmt.Sprintf("%s (%s to %s), in processor time %s", percent(slower.clock), percent(slower.least), percent(slower.most), percent(slower.processor)))
	runtime.KeepAlive(w)
	return nil
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// collection is the least time of seven whole collections, and what marking took of it, in ms.
func collection() (mark, whole float64) {
	marks := []metrics.Sample{
		{Name: "/cpu/classes/gc/mark/assist:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/dedicated:cpu-seconds"}, {Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
	}
	marked := func() (sum float64) {
		metrics.Read(marks)
		for _, m := range marks {
			sum += m.Value.Float64() * 1e3
		}
		return sum
	}
	mark, whole = math.MaxFloat64, math.MaxFloat64
	for range 7 {
		before, started := marked(), time.Now()
		runtime.GC()
		whole = min(whole, time.Since(started).Seconds()*1e3)
		mark = min(mark, marked()-before)
	}
	return mark, whole
}

// five measures five times, in ns an ask, in ascending order.
func five(asks int, f func()) (out [5]float64) {
	for i := range out {
		started := time.Now()
		f()
		took := float64(time.Since(started).Nanoseconds()) / float64(asks)
		at := i
		for ; at > 0 && out[at-1] > took; at-- {
			out[at] = out[at-1]
		}
		out[at] = took
	}
	return out
}

// sink keeps what is read from being optimised away.
type sink struct{ named, sum uint64 }

func (s *sink) take(a *ownership.Answer) {
	if a.Owner != nil {
		s.named++
	}
}
