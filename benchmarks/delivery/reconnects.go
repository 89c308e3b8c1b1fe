package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

const (
	rowsABatch  = 20
	sealEvery   = time.Second
	streamFirst = 5 * time.Second
)

func hello(id string) *flowv1.Hello {
	return &flowv1.Hello{ExporterId: id, Host: id, BootId: "b", Version: "bench", ClockNs: time.Now().UnixNano()}
}

// sealed makes a batch of external addresses, so that no row waits for a claim.
func sealed(id string, seq uint64, rows int) *flowv1.Batch {
	w := flow.NewBuilder(rows)
	now := uint64(time.Now().UnixNano())
	for i := range rows {
		w.AddRow()
		w.Set64(flow.FlowID, seq*10_000+uint64(i))
		w.Set32(flow.Kind, flow.KindClosed)
		for _, f := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
			w.Set64(f, now)
		}
		for _, f := range []flow.U64{flow.TxBytes, flow.RxBytes, flow.SockCookie} {
			w.Set64(f, rand.Uint64())
		}
	}
	columns, n := w.Seal(nil)
	return &flowv1.Batch{
		ExporterId: id, Host: id, BatchSeq: seq, Rows: uint32(n), ColumnsBytes: uint32(len(columns)), Payload: columns, SealedTimeNs: int64(now),
	}
}

// nobody claims anything.
type nobody struct{}

// Subscribe implements transport.Claims.
func (nobody) Subscribe(ctx context.Context) transport.Subscription {
	none := make(chan *flowv1.Ownership)
	context.AfterFunc(ctx, func() { close(none) })
	return transport.NewSubscription(nil, none, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

// VerifiedTo implements transport.Claims.
func (nobody) VerifiedTo(now int64) int64 { return now }

// exporter is the real transport and spool, in memory.
type exporter struct {
	spool     *spool.Spool
	transport *transport.Transport
	seq       uint64
}

func newExporter(id, address string) (*exporter, error) {
	c := spool.Default()
	c.Run, c.Host = id, id
	log := slog.New(slog.DiscardHandler)
	kept, err := spool.New(c, prometheus.NewRegistry(), log)
	if err != nil {
		return nil, err
	}
	t, err := transport.New(transport.Config{
		Address: address, Credentials: insecure.NewCredentials(), Spool: kept, ExporterID: id, Host: id, Claims: nobody{},
		Counters: func() []*flowv1.Counter { return nil },
	}, prometheus.NewRegistry(), log)
	return &exporter{spool: kept, transport: t}, err
}

// run seals a batch a second, at a phase of its own, until sealing ends.
func (e *exporter) run(sealing context.Context, id string) {
	time.Sleep(rand.N(sealEvery))
	for tick := time.Tick(sealEvery); sealing.Err() == nil; {
		e.seq++
		e.transport.Add(sealed(id, e.seq, rowsABatch))
		select {
		case <-tick:
		case <-sealing.Done():
		}
	}
}

func measureReconnects(ctx context.Context, o options, dir string) error {
	c, err := newCollector(o, dir)
	if err != nil {
		return err
	}
	if err := c.start(ctx, "/readyz"); err != nil {
		return err
	}
	defer func() { c.stop(syscall.SIGTERM) }()
	ctx, cancel := context.WithCancel(ctx)
	sealing, enough := context.WithCancel(ctx)
	var running, sealers sync.WaitGroup
	defer running.Wait()
	defer cancel()
	fleet := make([]*exporter, o.reconnects)
	for i := range fleet {
		id := fmt.Sprintf("exporter-%d", i)
		if fleet[i], err = newExporter(id, c.listen); err != nil {
			enough()
			return err
		}
		running.Go(func() { _ = fleet[i].transport.Run(ctx) }) // until the end
		sealers.Go(func() { fleet[i].run(sealing, id) })
	}
	err = c.comeBack(ctx, fleet)
	enough()
	sealers.Wait()
	if err != nil {
		return err
	}
	return c.check(ctx, fleet)
}

// comeBack kills the collector and prints how long it takes until everybody has a new acknowledgement.
func (c *collector) comeBack(ctx context.Context, fleet []*exporter) error {
	time.Sleep(streamFirst)
	if _, err := c.allAcked(ctx, make([]uint64, len(fleet)), fleet); err != nil {
		return err
	}
	c.stop(syscall.SIGKILL)
	time.Sleep(streamFirst) // everybody is in its longest wait
	before := make([]uint64, len(fleet))
	for i, e := range fleet {
		before[i] = e.spool.Stats().Acked.Rows
	}
	began := time.Now()
	if err := c.start(ctx, "/readyz"); err != nil {
		return err
	}
	ready := time.Since(began)
	times, err := c.allAcked(ctx, before, fleet)
	if err != nil {
		return err
	}
	slices.SortFunc(times, time.Time.Compare)
	at := func(i int) float64 { return times[i].Sub(began).Seconds() }
	fmt.Printf("%d exporters after a kill and a start of the collector: ready after %.1f s; acknowledged again: the first after %.1f s, half after %.1f s, all after %.1f s\n",
		len(fleet), ready.Seconds(), at(0), at(len(times)/2), at(len(times)-1))
	return nil
}

// allAcked waits until everybody has more rows acknowledged than before, and returns when each had.
func (c *collector) allAcked(ctx context.Context, before []uint64, fleet []*exporter) ([]time.Time, error) {
	var times []time.Time
	done := make([]bool, len(fleet))
	for len(times) < len(fleet) {
		for i, e := range fleet {
			if !done[i] && e.spool.Stats().Acked.Rows > before[i] {
				done[i] = true
				times = append(times, time.Now())
			}
		}
		time.Sleep(10 * time.Millisecond)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%d of %d exporters have an acknowledgement: %s: %w", len(times), len(fleet), c.said(), ctx.Err())
		}
	}
	return times, nil
}

// check wants every row acknowledged and stored once.
func (c *collector) check(ctx context.Context, fleet []*exporter) error {
	rows := uint64(0)
	for i, e := range fleet {
		if err := e.spool.Flush(ctx); err != nil {
			return fmt.Errorf("exporter %d: %+v: %w", i, e.spool.Stats(), err)
		}
		rows += e.seq * rowsABatch
	}
	query := url.Values{"query": {"SELECT count() FROM tributary.flows"}}
	answer, err := http.Get("http://" + c.sql + "/?" + query.Encode())
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(text)); got != fmt.Sprint(rows) {
		return fmt.Errorf("%s rows are stored, %d were sealed", got, rows)
	}
	fmt.Printf("%d rows sealed, acknowledged and stored once\n", rows)
	return nil
}
