package world

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// workload is the child's side: it obeys the commands on in and reports on out until in ends.
type workload struct {
	host string
	in   io.Reader

	mu  sync.Mutex // guards out: reports come from every connection's goroutine
	out *json.Encoder

	jobs      sync.WaitGroup
	jobsCtx   context.Context
	endJobs   context.CancelFunc
	listeners []net.Listener
}

func newWorkload(host string, in io.Reader, out io.Writer) *workload {
	w := &workload{host: host, in: in, out: json.NewEncoder(out)}
	w.jobsCtx, w.endJobs = context.WithCancel(context.Background())
	return w
}

// serve returns when the world closes the pipe or says something it does not understand.
func (w *workload) serve() {
	commands := json.NewDecoder(w.in)
	for {
		var c command
		if err := commands.Decode(&c); err != nil {
			w.endJobs()
			return
		}
		switch {
		case c.Listen != nil:
			w.listen(*c.Listen)
		case c.Job != nil:
			w.jobs.Add(1)
			go w.do(w.jobsCtx, *c.Job)
		case c.Quiet:
			w.quiet()
		}
	}
}

func (w *workload) report(r report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Encode(r) //nolint:errcheck,errchkjson // without its world the process is about to die anyway
}

func (w *workload) quiet() {
	w.endJobs()
	w.jobs.Wait()
	w.jobsCtx, w.endJobs = context.WithCancel(context.Background())
	w.report(report{Done: "quiet"})
}

func (w *workload) listen(l Listen) {
	done := report{Done: doneListen(l.Port)}
	ln, err := net.Listen("tcp", fmt.Sprintf(":%d", l.Port))
	if err != nil {
		done.Error = err.Error()
		w.report(done)
		return
	}
	w.listeners = append(w.listeners, ln)
	w.report(done)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go w.answer(conn, l.Calls)
		}
	}()
}

// do makes the calls of a job and reports its end.
func (w *workload) do(ctx context.Context, j Job) {
	defer w.jobs.Done()
	if j.Every > 0 {
		w.repeat(ctx, j)
	} else {
		w.once(ctx, j)
	}
	w.report(report{Done: j.ID})
}

func (w *workload) once(ctx context.Context, j Job) {
	var wg sync.WaitGroup
	next := make(chan Call)
	for range max(1, j.Parallel) {
		wg.Go(func() {
			for c := range next {
				w.call(ctx, j.ID, c)
			}
		})
	}
	for _, c := range j.Calls {
		if ctx.Err() != nil {
			break
		}
		next <- c
	}
	close(next)
	wg.Wait()
}

// repeat starts one call at every tick, whether the one before is back or not, up to Parallel at once: a silent
// destination must not hold up the rest.
func (w *workload) repeat(ctx context.Context, j Job) {
	tick := time.NewTicker(j.Every)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, max(1, j.Parallel))
	for i := 0; len(j.Calls) > 0; i++ {
		c := j.Calls[i%len(j.Calls)]
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				w.call(ctx, j.ID, c)
				<-slots
			})
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
