package world

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// ledger collects the entries of all processes.
type ledger struct {
	mu      sync.Mutex
	entries []Entry
}

func (l *ledger) add(e Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, e)
}

func (l *ledger) all() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}

// Connection is one connection as both programs saw it; Server is nil where no server program ever had it.
type Connection struct {
	Client Entry
	Server *Entry
	// ClientWorkload and ServerWorkload are who really held the ends; '' for a host without a workload. For a connect
	// that nobody accepted it is who had the address at the time, '' if nobody had it.
	ClientWorkload, ServerWorkload string
}

// Edge names a pair of workloads and a server's port.
type Edge struct {
	Client, Server string
	Port           uint16
}

// Sum is what happened on an edge. Tx and Rx are the client's: the bytes it wrote and read.
type Sum struct {
	Connections, Failures uint64 // Failures are connects that never succeeded; they are connections too
	Tx, Rx                uint64
}

// Truth is what really happened.
type Truth struct{ Connections []Connection }

// Edges sums the truth up per edge.
func (t Truth) Edges() map[Edge]Sum {
	edges := map[Edge]Sum{}
	for _, c := range t.Connections {
		k := Edge{Client: c.ClientWorkload, Server: c.ServerWorkload, Port: c.Client.Remote.Port()}
		s := edges[k]
		s.Connections++
		if !c.Client.Connected {
			s.Failures++
		}
		s.Tx += c.Client.Tx
		s.Rx += c.Client.Rx
		edges[k] = s
	}
	return edges
}

// tuple identifies a connection from its client's side.
type tuple struct{ client, server netip.AddrPort }

// Truth is the ledger so far, both ends matched. A connection whose server has not written its line yet has no Server:
// see Settle.
func (w *World) Truth() Truth {
	entries := w.ledger.all()
	servers := map[tuple][]*Entry{}
	for i := range entries {
		if e := &entries[i]; e.Role == RoleServer {
			k := tuple{e.Remote, e.Local}
			servers[k] = append(servers[k], e)
		}
	}
	var t Truth
	for _, e := range entries {
		if e.Role != RoleClient {
			continue
		}
		c := Connection{Client: e, ClientWorkload: w.workloadOf(e.Host)}
		if e.Connected {
			c.Server = nearest(servers[tuple{e.Local, e.Remote}], e.Start)
		}
		if c.Server != nil {
			c.ServerWorkload = w.workloadOf(c.Server.Host)
		} else {
			c.ServerWorkload = w.workloadOf(w.ownerOf(e.Remote.Addr(), e.Start))
		}
		t.Connections = append(t.Connections, c)
	}
	slices.SortStableFunc(t.Connections, func(a, b Connection) int { return cmp.Compare(a.Client.Start, b.Client.Start) })
	return t
}

// nearest is the entry that started closest to a time: a 4-tuple may be used again.
func nearest(entries []*Entry, at int64) *Entry {
	if len(entries) == 0 {
		return nil
	}
	return slices.MinFunc(entries, func(a, b *Entry) int {
		return cmp.Compare(max(a.Start-at, at-a.Start), max(b.Start-at, at-b.Start))
	})
}

func (w *World) workloadOf(host string) string {
	h, _ := w.host(host)
	return h.Workload
}

func (w *World) ownerOf(a netip.Addr, at int64) string {
	for _, t := range w.Tenures() {
		if t.Addr == a && t.From.UnixNano() <= at && (t.To.IsZero() || t.To.UnixNano() > at) {
			return t.Host
		}
	}
	return ""
}

// Of keeps the connections of the given jobs.
func (t Truth) Of(jobs ...string) Truth {
	return Truth{slices.DeleteFunc(slices.Clone(t.Connections), func(c Connection) bool {
		return !slices.Contains(jobs, c.Client.Job)
	})}
}

// Settle waits until every connection that succeeded has both its lines, and returns the truth. The client must be
// through with its jobs.
func (w *World) Settle(ctx context.Context) (Truth, error) {
	for {
		t, open := w.Truth(), 0
		for _, c := range t.Connections {
			if c.Client.Connected && c.Server == nil {
				open++
			}
		}
		if open == 0 {
			return t, nil
		}
		select {
		case <-ctx.Done():
			return t, fmt.Errorf("%d connections have no line of their server: %w", open, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Step is a job and who does it.
type Step struct {
	By  *Process
	Job Job
}

// RunPlan does all steps at once, waits for them, and returns the truth about their connections (and not about those
// that servers opened on their behalf).
func (w *World) RunPlan(ctx context.Context, plan []Step) (Truth, error) {
	errs := make(chan error, len(plan))
	jobs := make([]string, len(plan))
	for i, s := range plan {
		jobs[i] = s.Job.ID
		go func() { errs <- s.By.Do(ctx, s.Job) }()
	}
	for range plan {
		if err := <-errs; err != nil {
			return Truth{}, err
		}
	}
	t, err := w.Settle(ctx)
	return t.Of(jobs...), err
}
