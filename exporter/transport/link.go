package transport

import (
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"
)

// streamName is one of the two streams, for logs and labels.
type streamName string

const (
	streamFlows   streamName = "flows"
	streamControl streamName = "control"
)

// link knows whether the collector is there and says so once for each change.
type link struct {
	log *slog.Logger

	mu        sync.Mutex
	open      map[streamName]bool
	spoken    map[streamName]uint64 // messages of the collector
	ever      bool                  // welcomed once
	told      bool                  // that it is connected
	again     bool                  // told once
	reason    string                // the last one told
	since     time.Time
	collector string
}

func newLink(logger *slog.Logger) *link {
	return &link{log: logger, open: make(map[streamName]bool), spoken: make(map[streamName]uint64), since: time.Now()}
}

// heard counts what the collector says; answers returns the count.
func (l *link) heard(name streamName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spoken[name]++
}

func (l *link) answers(name streamName) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spoken[name]
}

// up notes that a stream stands: Control when the collector has welcomed us, Flows when it is open.
func (l *link) up(name streamName, collectorID string, where slog.Attr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[name] = true
	if name == streamControl {
		l.ever, l.collector = true, collectorID
	}
	if l.told || !l.open[streamControl] || !l.open[streamFlows] {
		return
	}
	message := "connected to the collector"
	if l.again {
		message = "connected to the collector again"
	}
	l.log.Info(message, where, "collector", l.collector, "after", time.Since(l.since).Round(time.Millisecond))
	l.again, l.told, l.reason = true, true, ""
}

func (l *link) down(name streamName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[name] = false
}

// lost says why a stream ended, unless that has been said.
func (l *link) lost(name streamName, err error, where slog.Attr, pendingBatches uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reason := reasonOf(err)
	if l.told {
		l.since = time.Now()
	}
	if !l.told && reason == l.reason {
		return
	}
	message := "lost the collector: batches are kept and sent again"
	if !l.ever {
		message = "cannot reach the collector yet: batches are kept, check --collector and that tributary-collector runs"
	}
	l.told, l.reason = false, reason
	l.log.Warn(message, where, "stream", string(name), "reason", reason, "pending_batches", pendingBatches)
}

func (l *link) state() (now, ever bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[streamControl], l.ever
}

func (l *link) streamUp(name streamName) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[name]
}

// reasonOf is the part of a gRPC error that helps a user: what dialling or the collector said.
func reasonOf(err error) string {
	text := status.Convert(err).Message()
	if _, dialling, ok := strings.Cut(text, "Error while dialing: "); ok {
		text = strings.TrimSuffix(dialling, `"`)
	}
	return short(text)
}
