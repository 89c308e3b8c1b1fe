package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// exporter is one exporter of the fleet as a collector sees it: a connection with a Control stream and, if it sends, a Flows stream.
type exporter struct {
	id        string
	host      int
	client    flowv1.CollectorClient
	templates []*template
	packer    *packer
	maxRows   int // sent and not acknowledged

	mu       sync.Mutex
	changed  *sync.Cond
	sizes    []int         // payload bytes of each batch from batch_seq 1 on
	sentAt   []time.Time   // of the same
	waited   time.Duration // from there to the acknowledgement, over all that are acknowledged
	acked    uint64        // rows
	sent     uint64        // rows
	received uint64        // the highest batch_seq that the collector has
	flight   int64         // bytes beyond it
	credit   int64
	rejected int
	err      error
}

func newExporter(conn *grpc.ClientConn, host int) *exporter {
	e := &exporter{id: fmt.Sprintf("bench-%02d-%d", host, time.Now().UnixNano()), host: host, client: flowv1.NewCollectorClient(conn)}
	e.changed = sync.NewCond(&e.mu)
	return e
}

func (e *exporter) hello() *flowv1.Hello {
	return &flowv1.Hello{
		ExporterId: e.id, Host: fmt.Sprintf("node-%02d", e.host), BootId: "00000000-0000-4000-8000-000000000000", Version: "bench",
		ClockNs: time.Now().UnixNano(),
	}
}

// prepare makes the templates of an exporter that sends.
func (e *exporter) prepare(world []owner, batchRows, totalRows int, zstd bool) (err error) {
	if e.packer, err = newPacker(zstd); err != nil {
		return err
	}
	t, b := newTraffic(world, uint64(e.host+1)), flow.NewBuilder(batchRows)
	for rows := 0; rows < totalRows; rows += batchRows {
		p, err := newTemplate(t, b, e.host, batchRows)
		if err != nil {
			return err
		}
		e.templates = append(e.templates, p)
	}
	return nil
}

// fail ends the exporter: a benchmark has no reconnects.
func (e *exporter) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
	e.changed.Broadcast()
}

// claim opens the Control stream, claims this host's addresses and keeps sending watermarks, this exporter's phase of the second after
// the others': each as late as in life.
func (e *exporter) claim(ctx context.Context, world []owner, claimed *sync.WaitGroup) {
	stream, err := e.client.Control(ctx)
	if err == nil {
		err = e.sendClaims(stream, world)
	}
	claimed.Done()
	if err != nil {
		e.fail(fmt.Errorf("control stream of %s: %w", e.id, err))
		return
	}
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil && m.GetRefusal() == nil {
				continue
			}
			if ctx.Err() == nil {
				e.fail(fmt.Errorf("control stream of %s: %w %s", e.id, err, m.GetRefusal().GetReason()))
			}
			return
		}
	}()
	e.watermarks(ctx, stream)
}

func (e *exporter) watermarks(ctx context.Context, stream flowv1.Collector_ControlClient) {
	second := time.Duration(time.Now().UnixNano() % 1e9)
	phase := time.Second * time.Duration(e.host) / hosts
	next := time.NewTimer((phase - second + time.Second) % time.Second)
	defer next.Stop()
	tick := (<-chan time.Time)(nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			ticker := time.NewTicker(time.Second)
			defer ticker.Stop()
			tick = ticker.C
		case <-tick:
		}
		now := time.Now().UnixNano()
		w := &flowv1.Watermark{VerifiedToNs: now, ClockNs: now}
		if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Watermark{Watermark: w}}); err != nil && ctx.Err() == nil {
			e.fail(fmt.Errorf("watermark of %s: %w", e.id, err))
			return
		}
	}
}

func (e *exporter) sendClaims(stream flowv1.Collector_ControlClient, world []owner) error {
	if err := stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: e.hello()}}); err != nil {
		return err
	}
	from := time.Now().Add(-time.Hour).UnixNano()
	all := &flowv1.Ownership{Full: true}
	for i := range world {
		if o := &world[i]; hostOf(i) == e.host {
			all.Claims = append(all.Claims, &flowv1.Claim{
				Network: network, Addr: o.addr[:], Workload: o.workload, Instance: o.instance, Zone: o.zone, Region: "eu-1", Release: o.release,
				Evidence: flowv1.Evidence_EVIDENCE_NETNS, FromNs: from,
			})
		}
	}
	return stream.Send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: all}})
}

// send streams batches until stop is closed, then waits for the last acknowledgement.
func (e *exporter) send(ctx context.Context, stop <-chan struct{}, pace func(context.Context, int) error) {
	stream, err := e.client.Flows(ctx)
	if err == nil {
		err = stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: e.hello()}})
	}
	if err != nil {
		e.fail(fmt.Errorf("flows stream of %s: %w", e.id, err))
		return
	}
	go e.answers(ctx, stream)
	next := uint32(firstFlowID)
	for n := 0; e.mayContinue(stop); n++ {
		t := e.templates[n%len(e.templates)]
		if pace(ctx, t.rows) != nil {
			break
		}
		if next > lastFlowID-uint32(t.rows) {
			next = firstFlowID // rows of the same flow again, which only a store would mind
		}
		b := e.packer.batch(t, next, time.Now().UnixNano())
		next += uint32(t.rows)
		if !e.admit(b, stop) {
			break
		}
		b.ExporterId, b.Host, b.BootId = e.id, e.hello().GetHost(), "00000000-0000-4000-8000-000000000000"
		if err := stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: b}}); err != nil {
			e.fail(fmt.Errorf("send of %s: %w", e.id, err))
			break
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.err == nil && ctx.Err() == nil && e.acked < e.sent {
		e.changed.Wait()
	}
}

func (e *exporter) mayContinue(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return false
	default:
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.err == nil
	}
}

// admit waits until credit and the bound of unacknowledged rows allow the batch, and numbers it.
func (e *exporter) admit(b *flowv1.Batch, stop <-chan struct{}) bool {
	size, rows := len(b.GetPayload()), int(b.GetRows())
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.err == nil && (e.flight > 0 && e.flight+int64(size) > e.credit || e.sent > e.acked && int(e.sent-e.acked)+rows > e.maxRows) {
		e.changed.Wait()
		select {
		case <-stop:
			return false
		default:
		}
	}
	if e.err != nil {
		return false
	}
	e.sizes, e.sentAt = append(e.sizes, size), append(e.sentAt, time.Now())
	e.flight += int64(size)
	e.sent += uint64(rows)
	b.BatchSeq = uint64(len(e.sizes))
	return true
}

func (e *exporter) answers(ctx context.Context, stream flowv1.Collector_FlowsClient) {
	rows := uint64(e.templates[0].rows)
	for {
		m, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil {
				e.fail(fmt.Errorf("answers to %s: %w", e.id, err))
			}
			return
		}
		e.mu.Lock()
		e.credit = int64(m.GetCreditBytes())
		for ; e.received < min(m.GetReceivedSeq(), uint64(len(e.sizes))); e.received++ {
			e.flight -= int64(e.sizes[e.received])
		}
		for _, r := range m.GetAcked() {
			e.acked += (r.GetLast() - r.GetFirst() + 1) * rows
			for _, at := range e.sentAt[r.GetFirst()-1 : r.GetLast()] {
				e.waited += time.Since(at)
			}
		}
		if r := m.GetRejected(); len(r) > 0 && e.err == nil {
			e.rejected += len(r)
			e.err = fmt.Errorf("batch %d of %s was rejected: %s", r[0].GetBatchSeq(), e.id, r[0].GetReason())
		}
		e.changed.Broadcast()
		e.mu.Unlock()
	}
}
