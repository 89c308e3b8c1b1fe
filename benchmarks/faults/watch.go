package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"tributary/deploy/world"
)

// statuses takes what a replayer prints.
type statuses struct {
	of   *observed
	part []byte
}

// Write implements io.Writer.
func (s *statuses) Write(p []byte) (int, error) {
	s.part = append(s.part, p...)
	for {
		line, rest, whole := bytes.Cut(s.part, []byte{'\n'})
		if !whole {
			return len(p), nil
		}
		s.part = rest
		var st status
		if json.Unmarshal(line, &st) == nil {
			s.of.note(st)
		}
	}
}

func (o *observed) note(s status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = s
}

func (o *observed) status() status {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// watcher reads twice a second what everybody holds, and keeps the most.
type watcher struct {
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	most map[string]int64
}

// The bounds of memory that is not a mapped file, and of a spool's disk.
var bounds = map[string]int64{
	"memory of " + live:       128 << 20, // 64 MiB of budget, 64 of batches that are not acknowledged
	"memory of " + collectorA: 512 << 20,
	"memory of " + collectorB: 512 << 20,
	"memory of " + store:      storeMemory * 5 / 4, // it counts by itself, allocator and threads come on top
	"memory of a replayer":    128 << 20,
	"disk of a spool":         spoolMost,
	"memory of a spool":       64 << 20,
}

func (r *region) watch() *watcher {
	w := &watcher{stop: make(chan struct{}), most: map[string]int64{}}
	w.done.Go(func() {
		tick := time.NewTicker(500 * ms)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				r.look(w)
			case <-w.stop:
				return
			}
		}
	})
	return w
}

func (w *watcher) close() {
	close(w.stop)
	w.done.Wait()
}

func (w *watcher) note(what string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most[what] = max(w.most[what], n)
}

func (r *region) look(w *watcher) {
	for _, name := range []string{live, collectorA, collectorB} {
		w.note("memory of "+name, resident(r.programsOf[name].pid()))
	}
	w.note("memory of "+store, resident(r.programsOf[collectorA].child()))
	for _, o := range r.replayers {
		s := o.status()
		w.note("memory of a replayer", resident(r.programsOf[o.name].pid()))
		w.note("disk of a spool", s.DiskBytes)
		w.note("memory of a spool", s.MemoryBytes)
	}
}

// crossed says which bounds were crossed since it was asked last.
func (w *watcher) crossed() (most map[string]int64, wrong []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	most, w.most = w.most, map[string]int64{}
	for what, n := range most {
		if n > bounds[what] {
			wrong = append(wrong, fmt.Sprintf("%s reached %d bytes, its bound is %d", what, n, bounds[what]))
		}
	}
	return most, wrong
}

// get asks a program something over HTTP.
func (r *region) get(name, path string) (string, error) {
	from := r.outside
	if name == live {
		from = r.inside
	}
	answer, err := from.Get("http://" + r.metrics[name] + path)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return string(body), err
}

// sample is a program's metrics.
func (r *region) sample(name string) (world.Metrics, error) {
	body, err := r.get(name, "/metrics")
	if err != nil {
		return nil, err
	}
	s, err := world.ParseMetrics(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// rows asks the store.
func (r *region) rows(query string) ([][]string, error) {
	answer, err := r.outside.Post("http://"+r.sql+"/?database=tributary", "text/plain", strings.NewReader(query+" FORMAT TabSeparated"))
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.500s", answer.Status, body)
	}
	var out [][]string
	for line := range strings.Lines(string(body)) {
		out = append(out, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return out, err
}
