package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"tributary/deploy/dev/ports"
)

// target is the collector under test.
type target struct {
	*child
	listen, metrics string
}

// targetSpec is what it is started with.
type targetSpec struct {
	program            []string // and its arguments before "serve"
	dir, store, broker string
	topic              string
	files              certificates
	args               []string // the user's
}

func startTarget(s *targetSpec) (*target, error) {
	addresses, release, err := ports.Reserve(2)
	if err != nil {
		return nil, err
	}
	defer release() // the collector has them then
	listen, metrics := addresses[0], addresses[1]
	args := append(s.program[1:len(s.program):len(s.program)], "serve", "--data", s.dir, "--listen", listen, "--metrics-listen", metrics,
		"--api-listen", "", "--tls-cert", s.files.cert, "--tls-key", s.files.key, "--clickhouse", "http://"+s.store+"/tributary",
		"--kafka", s.broker, "--kafka-topic", s.topic, "--log-level", "warn")
	c, err := startChild("collector", s.program[0], append(args, s.args...)...)
	if err != nil {
		return nil, err
	}
	t := &target{c, listen, metrics}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err := get("http://" + metrics + "/readyz")
		if err == nil {
			return t, nil
		}
		if dead := c.alive(); dead != nil {
			return nil, dead
		}
		if time.Now().After(deadline) {
			c.stop(os.Kill, time.Second)
			return nil, fmt.Errorf("the collector is not ready: %w", err)
		}
	}
}

// reading is the collector's state at one moment.
type reading struct {
	at      time.Time
	cpu     time.Duration // user + system, since the process started
	metrics map[string]float64
}

func (t *target) read() (r reading, err error) {
	if r.cpu, err = cpuTime(t.pid()); err != nil {
		return r, err
	}
	r.at = time.Now()
	text, err := get("http://" + t.metrics + "/metrics")
	if err != nil {
		return r, fmt.Errorf("read the collector's metrics: %w", err)
	}
	r.metrics = parseMetrics(text)
	return r, nil
}

// parseMetrics reads Prometheus' text format: the value of each series by its name with labels.
func parseMetrics(text string) map[string]float64 {
	m := map[string]float64{}
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if i := strings.LastIndexByte(line, '}'); i >= 0 {
			series, value, ok = line[:i+1], strings.TrimSpace(line[i+1:]), true
		}
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil && series != "#" {
			m[series] = v
		}
	}
	return m
}

// ticksPerSecond is USER_HZ, 100 on every architecture that Linux runs Go on.
const ticksPerSecond = 100

// cpuTime reads fields 14 and 15 of /proc/PID/stat (proc_pid_stat(5)).
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// peakBytes is the greatest resident set the process ever had.
func peakBytes(pid int) (uint64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	line, _, _ := strings.Cut(rest, "kB")
	kib, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	return kib << 10, err
}
