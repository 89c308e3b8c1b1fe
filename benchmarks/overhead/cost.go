package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// cost is what the exporter itself used while the load ran at some rate.
type cost struct {
	perSecond float64 // connections
	percent   float64 // of one processor
	rssMiB    float64 // the highest of four a second
	lost      uint64
	records   uint64 // that the kernel side submitted
}

func (c cost) String() string {
	return fmt.Sprintf("| %.0f | %.2f %% | %.1f | %d | %d |", c.perSecond, c.percent, c.rssMiB, c.records, c.lost)
}

// cost runs the load beside a new exporter; perSecond 0 is as fast as it can, below 0 none at all.
func (b *bench) cost(perSecond int, d time.Duration) (cost, error) {
	e, err := b.startExporter()
	if err != nil {
		return cost{}, err
	}
	defer e.stop()
	time.Sleep(time.Second)
	before, err := usedBy(e.pid())
	if err != nil {
		return cost{}, err
	}
	began := time.Now()
	highest := watchMemory(e.pid())
	var result loadResult
	if perSecond < 0 {
		time.Sleep(d)
	} else if result, err = b.load(perSecond, d); err != nil {
		return cost{}, err
	}
	time.Sleep(500 * time.Millisecond) // the last fifth of a second of the ring, and its batch
	after, err := usedBy(e.pid())
	if err != nil {
		return cost{}, err
	}
	wall := time.Since(began)
	c := cost{
		perSecond: float64(result.Connections) / d.Seconds(), rssMiB: float64(highest()) / (1 << 20),
		percent: 100 * (after.cpu - before.cpu).Seconds() / wall.Seconds(),
	}
	c.records, c.lost, err = booksOf(e.metrics)
	return c, err
}

// watchMemory samples a process's resident memory until the function it returns is called.
func watchMemory(pid int) (highest func() uint64) {
	stop, result := make(chan struct{}), make(chan uint64)
	go func() {
		top := uint64(0)
		for {
			if u, err := usedBy(pid); err == nil {
				top = max(top, u.rss)
			}
			select {
			case <-stop:
				result <- top
				return
			case <-time.After(250 * time.Millisecond):
			}
		}
	}()
	return func() uint64 {
		close(stop)
		return <-result
	}
}

func ready(address string) bool {
	response, err := http.Get("http://" + address + "/readyz")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// booksOf reads how many records the exporter's kernel side has submitted, and all that was lost anywhere.
func booksOf(address string) (submitted, lost uint64, err error) {
	response, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = response.Body.Close() }()
	found := false
	for scanner := bufio.NewScanner(response.Body); scanner.Scan(); {
		name, text, ok := strings.Cut(scanner.Text(), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		family, _, _ := strings.Cut(name, "{")
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			continue
		}
		switch family {
		case "tributary_exporter_probe_submitted_total":
			submitted, found = uint64(value), true
		case "tributary_exporter_probe_lost_total", "tributary_exporter_ring_invalid_total", "tributary_exporter_batch_refused_total":
			lost += uint64(value)
		default:
			if strings.Contains(family, "_dropped_") {
				lost += uint64(value)
			}
		}
	}
	if !found {
		return 0, 0, errors.New("the exporter's metrics do not tell what it has recorded")
	}
	_, err = io.Copy(io.Discard, response.Body)
	return submitted, lost, err
}

// perEvent measures the run time of the exporter's programs while the load runs. The measuring itself costs each run some 30 ns.
func (b *bench) perEvent(d time.Duration) (lines []string, err error) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stats.Close()) }()
	e, err := b.startExporter()
	if err != nil {
		return nil, err
	}
	defer e.stop()
	if _, err := b.load(0, d); err != nil {
		return nil, err
	}
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return lines, nil
			}
			return nil, err
		}
		prog, err := ebpf.NewProgramFromID(id)
		if err != nil {
			continue // gone
		}
		s, err := prog.Stats()
		if err == nil && s.RunCount > 1000 {
			lines = append(lines, fmt.Sprintf("%s: %d ns a run, %d runs", prog, s.Runtime.Nanoseconds()/int64(s.RunCount), s.RunCount))
		}
		_ = prog.Close()
	}
}
