package clickhouse

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// health turns the outcomes of inserts into a state and a few lines of log: the first failure, one a minute at most, the recovery.
// Each worker has its own part in it, so that one whose inserts succeed does not hide another that is stuck.
type health struct {
	log     *slog.Logger
	failing prometheus.Gauge

	mu     sync.Mutex
	errs   map[*worker]error
	since  time.Time
	logged time.Time
	failed int
}

const logEvery = time.Minute

func newHealth(log *slog.Logger, failing prometheus.Gauge) *health {
	return &health{log: log, failing: failing, errs: map[*worker]error{}}
}

func (h *health) bad(w *worker, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if len(h.errs) == 0 {
		h.since, h.failed = now, 0
		h.failing.Set(1)
	}
	h.errs[w] = err
	h.failed++
	if now.Sub(h.logged) >= logEvery {
		h.logged = now
		h.log.Warn("inserts fail; flows are kept and sent again", "error", err, "failed", h.failed, "since", h.since.UTC())
	}
}

func (h *health) good(w *worker) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.errs[w] == nil {
		return
	}
	delete(h.errs, w)
	if len(h.errs) > 0 {
		return
	}
	h.log.Info("inserts succeed again", "failed", h.failed, "after", time.Since(h.since).Round(time.Millisecond))
	h.failing.Set(0)
}

func (h *health) get() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, err := range h.errs {
		return err
	}
	return nil
}
