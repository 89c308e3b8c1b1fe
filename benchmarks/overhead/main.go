package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// bench is one run of the benchmark.
type bench struct {
	exporter     string
	exporterArgs []string
	processor    int
	pairs        int
	duration     time.Duration
	collector    *collector
	text         bytes.Buffer // what was printed
}

func main() {
	role := flag.String("role", "", "what this process is to be; set by the benchmark itself")
	rate := flag.Int("rate", 0, "connections a second of the load, or how many sockets to hold; set by the benchmark itself")
	b := &bench{}
	flag.StringVar(&b.exporter, "exporter", "bin/tributary-exporter", "the exporter to measure")
	args := flag.String("exporter-args", "", "more arguments for it")
	flag.IntVar(&b.processor, "processor", 0, "the processor of the load")
	flag.IntVar(&b.pairs, "pairs", 12, "pairs of runs, without and with each tracer")
	flag.DurationVar(&b.duration, "duration", 500*time.Millisecond, "of each run")
	page := flag.String("write", "", "a page that gets the figures, between the two lines that mark their place (docs/benchmarks.md)")
	own := flag.Duration("own", 10*time.Second, "how long to measure what the exporter uses itself, three times; 0: not at all")
	sockets := flag.Int("sockets", 100_000, "open sockets of which to read snapshots; 0: not at all")
	flag.Parse()
	b.exporterArgs = strings.Fields(*args)
	var err error
	switch *role {
	case "load":
		err = runLoad(b.processor, *rate, b.duration)
	case "sockets":
		err = holdSockets(*rate)
	default:
		err = b.run(*own, *sockets, *page)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overhead:", err)
		os.Exit(1)
	}
}

func (b *bench) run(own time.Duration, sockets int, page string) error {
	if os.Geteuid() != 0 {
		return errors.New("this benchmark needs root")
	}
	if err := avoid(b.processor); err != nil {
		return err
	}
	c, stop, err := startCollector()
	if err != nil {
		return err
	}
	defer stop()
	b.collector = c
	b.printf("\n%s.\n", machine())
	if b.pairs > 0 {
		if err := b.compareAll(); err != nil {
			return err
		}
	}
	if own > 0 {
		if err := b.own(own); err != nil {
			return err
		}
	}
	if sockets > 0 {
		if err := b.snapshots(sockets); err != nil {
			return err
		}
	}
	if page != "" {
		return b.writeInto(page)
	}
	return nil
}

// own prints what the exporter uses itself.
func (b *bench) own(d time.Duration) error {
	b.printf("\n**The exporter's own cost**, %s each.\n\n| connections/s | exporter's CPU, of a core | RSS MiB | records | lost |\n|--:|--:|--:|--:|--:|\n", d)
	for _, perSecond := range []int{-1, 1000, 0} {
		c, err := b.cost(perSecond, d)
		if err != nil {
			return err
		}
		b.printf("%s\n", c)
	}
	lines, err := b.perEvent(5 * time.Second)
	if err != nil {
		return err
	}
	b.printf("\nKernel programs, measuring included (about 30 ns a run):\n\n")
	for _, line := range lines {
		b.printf("- %s\n", line)
	}
	return nil
}

// load runs the load in a process of its own and returns its result.
func (b *bench) load(perSecond int, d time.Duration) (loadResult, error) {
	self, err := os.Executable()
	if err != nil {
		return loadResult{}, err
	}
	cmd := exec.Command(self, "-role", "load", "-processor", fmt.Sprint(b.processor), "-rate", fmt.Sprint(perSecond), "-duration", d.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return loadResult{}, fmt.Errorf("the load: %w", err)
	}
	var r loadResult
	if err := json.Unmarshal(out, &r); err != nil {
		return loadResult{}, fmt.Errorf("the load's result: %w", err)
	}
	if r.Connections == 0 || r.CPU == 0 {
		return loadResult{}, errors.New("the load made no connection")
	}
	return r, nil
}
