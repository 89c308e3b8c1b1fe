package ingest

import (
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// maxRuns bounds the runs whose batches one stream brings.
const maxRuns = 4096

// runs are the exporters whose batches come on one Flows stream: the one that said hello, and earlier runs of it on the same
// host, whose batches come out of its spool. Each gets its acknowledgements under its own exporter_id.
type runs struct {
	known *exporters
	own   *exporter
	host  string
	wake  chan struct{} // there is news of one of them

	mu     sync.Mutex
	byName map[string]*exporter // own is among them
}

// newRuns makes the calling stream the present one of its exporter.
func newRuns(known *exporters, own *exporter, host string) *runs {
	r := &runs{known: known, own: own, host: host, wake: make(chan struct{}, 1), byName: map[string]*exporter{own.id: own}}
	own.attach(r.wake)
	return r
}

// of returns the run that a batch is of. A false says that it is of another host: the exporter returned only carries the
// refusal, so that nobody takes another host's acknowledgements away. An error ends the stream.
func (r *runs) of(m *flowv1.Batch) (e *exporter, ours bool, err error) {
	id := m.GetExporterId()
	if id == r.own.id {
		return r.own, true, nil
	}
	if id == "" || len(id) > flow.MaxNameBytes || flow.Sanitize(id) != id {
		return nil, false, status.Error(codes.InvalidArgument, "a batch's exporter_id is empty, too long or has control characters")
	}
	ours = m.GetHost() == r.host
	r.mu.Lock()
	defer r.mu.Unlock()
	if e, ok := r.byName[id]; ok {
		return e, ours, nil
	}
	if len(r.byName) >= maxRuns {
		return nil, false, status.Errorf(codes.ResourceExhausted, "batches of more than %d exporters on one stream", maxRuns)
	}
	if ours {
		e = r.known.get(id)
	} else {
		e = newExporter(id)
	}
	r.byName[id] = e
	e.attach(r.wake)
	return e, ours, nil
}

// all returns the runs of this moment.
func (r *runs) all() []*exporter {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*exporter, 0, len(r.byName))
	for _, e := range r.byName {
		all = append(all, e)
	}
	return all
}

// leave forgets a run whose batches now come on another stream.
func (r *runs) leave(e *exporter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byName, e.id)
}

func (r *runs) idle() bool {
	for _, e := range r.all() {
		if !e.idle() {
			return false
		}
	}
	return true
}

func (r *runs) detach() {
	for _, e := range r.all() {
		e.detach(r.wake)
	}
}
