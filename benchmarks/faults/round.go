package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// round is one round of faults, and what is to be said about it.
type round struct {
	*region
	number int
	began  time.Time
	faults []Fault

	mu     sync.Mutex
	counts Counts
	wrong  []string
	notes  map[string]float64
}

// Counts are how often what was done to whom.
type Counts struct {
	ExporterKills  int `json:"exporter_kills"` // of both kinds
	LiveKills      int `json:"live_kills"`     // of these, of the exporter that captures
	CollectorKills int `json:"collector_kills"`
	StoreKills     int `json:"store_kills"` // of the store alone
	CutsBefore     int `json:"cuts_before_answer"`
	FullDisks      int `json:"full_disks"`
	PowerCuts      int `json:"power_cuts"`
	Stops          int `json:"stops"`
	LinkFaults     int `json:"link_faults"` // the others
}

func (r *round) failf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) < 20 {
		r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
	}
}

func (r *round) count(change func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.counts)
}

// disturb does all faults, each at its time, and returns when the last one is over.
func (r *round) disturb(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, f := range r.faults {
		select {
		case <-time.After(time.Until(r.began.Add(f.At))):
		case <-ctx.Done():
			return
		}
		all.Go(func() {
			if err := r.do(f); err != nil {
				r.failf("%s of %s: %v", f.Kind, f.Target, err)
			}
		})
	}
}

func (r *round) do(f Fault) error {
	switch f.Kind {
	case Kill:
		r.kill(f.Target)
	case Stop:
		r.stop(f)
	case Full:
		return r.full(f)
	case Power:
		return r.power(f.Target)
	default:
		k := r.links[f.Target]
		k.fail(f.Kind, f.For)
		if f.Kind != Swallow {
			r.count(func(c *Counts) { c.LinkFaults++ })
		}
	}
	return nil
}

// kill counts only what was alive. Kills of programs are counted by those who watch over them.
func (r *round) kill(target string) {
	if target != store {
		r.programsOf[target].kill()
		return
	}
	if pid := r.programsOf[collectorA].child(); pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil {
		r.count(func(c *Counts) { c.StoreKills++ })
	}
}

func (r *round) stop(f Fault) {
	pid := 0
	if f.Target == store {
		pid = r.programsOf[collectorA].child()
	} else {
		pid = r.programsOf[f.Target].pid()
	}
	if pid == 0 {
		return
	}
	halt(pid)
	r.count(func(c *Counts) { c.Stops++ })
	time.Sleep(f.For)
	_ = unix.Kill(pid, unix.SIGCONT) // it may have been killed meanwhile
}

func (r *round) full(f Fault) error {
	d := r.disks[f.Target]
	if err := d.fill(); err != nil {
		return err
	}
	r.count(func(c *Counts) { c.FullDisks++ })
	time.Sleep(f.For)
	return d.free()
}

// power takes the power from the host of a program and gives it back: what its disk had not been told to keep is gone.
func (r *round) power(target string) error {
	p, d := r.programsOf[target], r.disks[target]
	pid, child := p.pid(), p.child()
	if pid == 0 {
		return nil
	}
	for _, id := range []int{child, pid} { // the child first: its parent would start another one
		if id != 0 {
			halt(id)
		}
	}
	at := time.Now()
	copied, err := d.snapshot()
	p.hold()
	defer p.release()
	if err != nil {
		return err
	}
	if err := d.resume(copied); err != nil {
		return err
	}
	r.count(func(c *Counts) { c.PowerCuts++ })
	r.region.mu.Lock()
	defer r.region.mu.Unlock()
	r.cuts[target] = append(r.cuts[target], at)
	return nil
}

// recover waits until everybody has new acknowledgements, and returns how long the last one took.
func (r *round) recover(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	before := map[string]float64{}
	late := ""
	for time.Since(began) < r.movingMost && ctx.Err() == nil {
		late = ""
		for _, name := range r.exporters() {
			if was, ok := before[name]; ok && was < 0 {
				continue
			}
			run, acked := r.acked(name)
			key := name + run
			was, seen := before[key]
			switch {
			case !seen:
				before[key], late = acked, name
			case acked > was:
				before[name] = -1
			default:
				late = name
			}
		}
		if late == "" {
			return time.Since(began), nil
		}
		time.Sleep(50 * ms)
	}
	return time.Since(began), fmt.Errorf("%s has no new acknowledgement %s after the last fault", late, time.Since(began).Round(time.Second))
}

// acked is how many rows of an exporter's present run were acknowledged.
func (r *round) acked(name string) (run string, rows float64) {
	if name == live {
		s, _ := r.sample(live) // it may be between two lives: then it has none
		return fmt.Sprint(r.programsOf[live].pid()), s["tributary_exporter_spool_acked_rows_total"]
	}
	for _, o := range r.replayers {
		if o.name == name {
			s := o.status()
			return s.Run, float64(s.Acked)
		}
	}
	return "", 0
}

// settle makes everybody quiet and waits until nothing is under way.
func (r *round) settle(ctx context.Context) error {
	for _, o := range r.replayers {
		if err := os.WriteFile(o.quiet, nil, 0o600); err != nil {
			return err
		}
	}
	return r.until(ctx, "the end of what is under way", func() error {
		for _, o := range r.replayers {
			if s := o.status(); !s.Quiet || s.Pending != 0 || !s.OnDisk {
				return fmt.Errorf("%s has %d rows pending", o.name, s.Pending)
			}
		}
		s, err := r.sample(live)
		if err != nil {
			return err
		}
		if n := s["tributary_exporter_spool_pending_rows"] + s["tributary_exporter_batch_open_rows"]; n != 0 {
			return fmt.Errorf("%s has %v rows pending", live, n)
		}
		return nil
	})
}

// speak ends the silence.
func (r *round) speak() error {
	var errs []error
	for _, o := range r.replayers {
		if err := os.Remove(o.quiet); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
