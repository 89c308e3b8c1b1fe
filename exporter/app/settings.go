package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"tributary/exporter/budget"
	"tributary/exporter/clock"
	"tributary/exporter/config"
	"tributary/exporter/filter"
	"tributary/exporter/local"
	"tributary/exporter/ring"
)

// captureSettings are those of the start. A recording is told as it is.
func (a *App) captureSettings() *config.Capture {
	if a.replay {
		return &config.Capture{}
	}
	return &a.config.Capture
}

// Change puts other settings of capture in force at once, for every record and connection from now on. change is given those that are, and nothing changes them
// meanwhile; on its error, or where what it makes of them cannot be, nothing changes. It may be called from any goroutine, and is the one way to do it: for
// the local socket, the collector's settings and the budget.
func (a *App) Change(change func(*config.Capture) error) error {
	a.applying.Lock()
	defer a.applying.Unlock()
	c := a.applied
	if err := change(&c); err != nil {
		return err
	}
	if err := c.Check(); err != nil {
		return err
	}
	a.drain() // what ended before the change is judged by the old rules
	now := clock.Boot()
	eased := underBudget(c, budget.Step(a.eased.Load()))
	if err := a.source.get().SetActiveEvery(eased.ActiveEvery); err != nil {
		return err
	}
	// connections that are open may still have the longer interval of before
	a.pipeline.keep.Store(max(a.pipeline.keep.Load(), sweepAfter(eased.ActiveEvery, walkEvery)))
	if err := a.pipeline.filter.Set(eased.Filter(), now); err != nil {
		return err
	}
	a.applied = c
	a.log.Info("settings of capture", "filter_keep", c.Keep, "filter_drop", c.Drop, "sample_rate", c.SampleRate, "active_every", c.ActiveEvery)
	return nil
}

// drainMost bounds the wait for the ring; a record that is later is judged by the new rules, or goes with the next batch.
const drainMost = 500 * time.Millisecond

func (a *App) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), a.drainMost)
	defer cancel()
	if err := a.source.get().Drain(ctx); err != nil && !errors.Is(err, ring.ErrNotRunning) {
		a.log.Warn("the ring was not emptied before the settings changed", "error", err)
	}
}

// Applied returns the settings in force.
func (a *App) Applied() config.Capture {
	a.applying.Lock()
	defer a.applying.Unlock()
	return a.applied
}

// wireSettings is the document of the local socket. What a request leaves out stays as it is.
type wireSettings struct {
	Keep        *[]filter.Rule `json:"filter_keep,omitempty"`
	Drop        *[]filter.Rule `json:"filter_drop,omitempty"`
	SampleRate  *uint32        `json:"sample_rate,omitempty"`
	SampleSeed  *uint64        `json:"sample_seed,omitempty"`
	ActiveEvery *string        `json:"active_every,omitempty"`

	Records map[string]uint64 `json:"records,omitempty"` // answers only: by verdict
	Budget  string            `json:"budget,omitempty"`  // answers only: what is left out beside, if anything
}

func (w *wireSettings) over(c *config.Capture) error {
	set := func(from *[]filter.Rule, to *[]filter.Rule) {
		if from != nil {
			*to = *from
		}
	}
	set(w.Keep, &c.Keep)
	set(w.Drop, &c.Drop)
	if w.SampleRate != nil {
		c.SampleRate = *w.SampleRate
	}
	if w.SampleSeed != nil {
		c.SampleSeed = *w.SampleSeed
	}
	if w.ActiveEvery != nil {
		every, err := time.ParseDuration(*w.ActiveEvery)
		if err != nil {
			return fmt.Errorf("active_every %q is no duration such as 30s", *w.ActiveEvery)
		}
		c.ActiveEvery = every
	}
	return nil
}

func (a *App) wire() *wireSettings {
	c := a.Applied()
	every := c.ActiveEvery.String()
	w := &wireSettings{&c.Keep, &c.Drop, &c.SampleRate, &c.SampleSeed, &every, map[string]uint64{}, ""}
	if step := budget.Step(a.eased.Load()); step != budget.Everything {
		w.Budget = step.String()
	}
	for v := range filter.Verdicts {
		w.Records[v.String()] = a.pipeline.judged[v].Load()
	}
	return w
}

// serveSocket answers on the local socket. Without one the exporter goes on: another exporter of this host may have it.
func (a *App) serveSocket(ctx context.Context) error {
	if a.config.Socket == "" {
		return nil
	}
	if err := local.Serve(ctx, a.config.Socket, a.handler()); err != nil {
		a.log.Warn("filters cannot be changed from here: give each exporter its own --socket", "error", err)
	}
	return nil
}

func (a *App) handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.wire()) // who asked is gone
	}
	mux.HandleFunc("GET /filter", func(w http.ResponseWriter, _ *http.Request) { answer(w) })
	mux.HandleFunc("PATCH /filter", func(w http.ResponseWriter, r *http.Request) {
		var change wireSettings
		in := json.NewDecoder(r.Body)
		in.DisallowUnknownFields()
		if err := in.Decode(&change); err != nil {
			http.Error(w, "the settings are not understood: "+err.Error(), http.StatusBadRequest)
			return
		}
		if err := a.Change(change.over); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w)
	})
	return mux
}
