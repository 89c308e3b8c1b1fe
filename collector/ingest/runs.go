package ingest

import (
	"cmp"
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
	find  func(id string) (*exporter, error) // the error: it belongs to somebody else
	own   *exporter
	host  string
	grant flow.Grant    // what the owner of the stream's certificate may claim; nil: everything
	wake  chan struct{} // there is news of one of them

	mu     sync.Mutex
	byName map[string]run // own is among them
}

// run is an exporter whose batches come on a stream.
type run struct {
	*exporter
	foreign error // why the stream may not bring its batches; the exporter then only carries the refusals
}

// newRuns makes the calling stream the present one of its exporter.
func newRuns(find func(string) (*exporter, error), own *exporter, host string) *runs {
	r := &runs{find: find, own: own, host: host, wake: make(chan struct{}, 1), byName: map[string]run{own.id: {exporter: own}}}
	own.attach(r.wake)
	return r
}

// of returns the run that a batch is of. foreign says that it is of another host or another certificate's owner: the exporter returned only carries
// the refusal, so that nobody takes another's acknowledgements away. err ends the stream.
func (r *runs) of(m *flowv1.Batch) (e *exporter, foreign, err error) {
	id := m.GetExporterId()
	if id == r.own.id {
		return r.own, nil, nil
	}
	if id == "" || len(id) > flow.MaxNameBytes || flow.Sanitize(id) != id {
		return nil, nil, status.Error(codes.InvalidArgument, "a batch's exporter_id is empty, too long or has control characters")
	}
	var otherHost error
	if m.GetHost() != r.host {
		otherHost = status.Errorf(codes.InvalidArgument, "the batch is of exporter %s on host %s, the stream of host %s", quote(id), quote(m.GetHost()), quote(r.host))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if known, ok := r.byName[id]; ok {
		return known.exporter, cmp.Or(otherHost, known.foreign), nil
	}
	if len(r.byName) >= maxRuns {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "batches of more than %d exporters on one stream", maxRuns)
	}
	foreign = otherHost
	if foreign == nil {
		e, foreign = r.find(id)
	}
	if foreign != nil {
		e = newExporter(id)
	}
	r.byName[id] = run{e, foreign}
	e.attach(r.wake)
	return e, foreign, nil
}

// all returns the runs of this moment.
func (r *runs) all() []*exporter {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*exporter, 0, len(r.byName))
	for _, known := range r.byName {
		all = append(all, known.exporter)
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
