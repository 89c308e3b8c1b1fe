package app

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tributary/exporter/batch"
	"tributary/exporter/clock"
	"tributary/exporter/event"
	"tributary/exporter/filter"
)

// namer names the local end of an event; comm is its program as text.
type namer func(e *event.Event, comm string, start int64) batch.Local

// pipeline turns the bytes of a record into a row. record and swept run on the ring's goroutine; the rest may be called from any.
type pipeline struct {
	clock *clock.Clock
	name  namer
	age   time.Duration

	// Of what comes from a kernel, else nil: drain hands over all that it has recorded by now, sealed is told, on the kernel's clock, until when all of that is sealed.
	drain  func(context.Context) error
	sealed func(until time.Duration)

	event   event.Event // reused
	tracker *event.Tracker
	comms   comms
	filter  *filter.Filter
	keep    atomic.Uint32 // walks without a record after which a connection is forgotten

	mu      sync.Mutex // guards batcher, timer and stopped
	batcher *batch.Batcher
	timer   *time.Timer
	stopped bool

	decoded   [event.KindFailed + 1]atomic.Uint64 // by kind; the sum is that of judged
	judged    [filter.Verdicts]atomic.Uint64
	tracked   atomic.Int64
	forgotten atomic.Uint64
}

func newPipeline(batcher *batch.Batcher, clock *clock.Clock, name namer, f *filter.Filter, age time.Duration, keep uint32) *pipeline {
	p := &pipeline{clock: clock, name: name, filter: f, age: age, tracker: event.NewTracker(), comms: make(comms), batcher: batcher}
	p.keep.Store(keep)
	return p
}

// record takes one record of the kernel. The error says that its bytes are not understood.
func (p *pipeline) record(b []byte) error {
	e := &p.event
	if err := event.Decode(b, e); err != nil {
		return err
	}
	p.decoded[e.Kind].Add(1)
	anchor := p.clock.Anchor()
	start := anchor.Wall(e.Start)
	comm := p.comms.of(e)
	local := p.name(e, comm, start)
	local.Comm = comm
	verdict, stands := p.filter.Judge(e, local.Workload, p.tracker.Told(e))
	p.judged[verdict].Add(1)
	if verdict != filter.Kept {
		return nil // before Apply: what it counted stays for the next record that is kept
	}
	e.SampleRate = stands
	p.tracker.Apply(e)
	at := batch.Times{Start: start, IntervalStart: anchor.Wall(e.IntervalStart), End: anchor.Wall(e.End)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.batcher.Add(e, at, &local) {
		p.startTimer()
	}
	return nil
}

// startTimer bounds how long the row that opened the batch waits: to the next multiple of the age, where the exporter wakes for other work too. A timer
// of the batch before may seal this one early; that only costs a smaller batch. The caller holds mu.
func (p *pipeline) startTimer() {
	switch {
	case p.stopped:
	case p.timer == nil:
		p.timer = time.AfterFunc(clock.Beat(p.age), p.sealByAge)
	default:
		p.timer.Reset(clock.Beat(p.age))
	}
}

// restEvery is how often it is said that there was nothing to seal.
const restEvery = time.Second

// begin seals from now on, as batches become old, with all that the kernel has recorded by then: what a reading of the ring just missed would wait for another age.
func (p *pipeline) begin(drain func(context.Context) error, sealed func(until time.Duration)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drain, p.sealed = drain, sealed
	p.timer = time.AfterFunc(clock.Beat(max(p.age, restEvery)), p.sealByAge)
}

func (p *pipeline) sealByAge() {
	if p.drain == nil {
		p.flush(batch.Age)
		return
	}
	until := time.Duration(clock.Boot())
	ctx, cancel := context.WithTimeout(context.Background(), drainMost)
	defer cancel()
	err := p.drain(ctx) // what does not come in time is in the next batch
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.batcher.Flush(batch.Age)
	if err == nil {
		p.sealed(until)
	}
	p.timer.Reset(clock.Beat(max(p.age, restEvery)))
}

// setAge changes how long a row waits; the batch that is open keeps its time.
func (p *pipeline) setAge(age time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.age = age
}

func (p *pipeline) flush(reason batch.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batcher.Flush(reason)
}

// stop seals what is there. No record comes any more.
func (p *pipeline) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.timer != nil {
		p.timer.Stop()
	}
	p.batcher.Flush(batch.Shutdown)
	if p.sealed != nil {
		p.sealed(time.Duration(clock.Boot()))
	}
}

// swept is called after each walk of the open sockets.
func (p *pipeline) swept() {
	p.forgotten.Add(uint64(p.tracker.Sweep(p.keep.Load())))
	p.tracked.Store(int64(p.tracker.Open()))
}
