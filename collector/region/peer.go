package region

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

const (
	// A region is down when it has not answered for so long, and so often. With the last request that is less than the hold's patience of 4 s, and more than
	// the restart of a collector.
	downAfter      = 2 * time.Second
	failuresToOpen = 3
	requestTimeout = 800 * time.Millisecond
	askAgain       = 250 * time.Millisecond // after a failure, or for what was pending
	gather         = 5 * time.Millisecond   // questions that come together go together
	trialEvery     = time.Second            // while the region is down
	maxQuestions   = 2048                   // of a request
	maxOpen        = 16 << 10               // questions under way, by region
	forgetAfter    = 10 * int64(time.Second)
)

// question is what is asked. It is the key of its answer, too; of an answer that holds for a time, at and port are 0.
type question struct {
	to            *peer // what one region says is nobody else's answer
	network       string
	addr          ownership.Addr
	port          uint16
	at, tolerance int64
}

// asked is a question under way, or one whose answer was that evidence is still to come.
type asked struct {
	queued bool
	again  int64            // when to ask again, if it is not queued
	last   int64            // when somebody wanted to know last
	answer ownership.Answer // until there is a better one
}

// peer is another region.
type peer struct {
	name, serverName string
	collectors       []string
	log              *slog.Logger
	call             func(ctx context.Context, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error)
	now              func() time.Time
	metrics          *metrics
	answered         func(p *peer, qs []question, as []ownership.Answer) // final ones
	wake             func()

	breaker Breaker
	news    chan struct{} // there is something in queue
	cancel  context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex
	open  map[question]*asked
	queue []question

	line    line      // belongs to run, as does failing
	failing time.Time // since when it has not answered; zero: it does
}

// Breaker says when a region counts as down: gobreaker's CircuitBreaker.
type Breaker interface {
	State() gobreaker.State
	Execute(func() (*flowv1.ResolveResponse, error)) (*flowv1.ResolveResponse, error)
}

func (p *peer) newBreaker() Breaker {
	return gobreaker.NewCircuitBreaker[*flowv1.ResolveResponse](gobreaker.Settings{
		Name: p.name, MaxRequests: 1, Timeout: trialEvery,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= failuresToOpen && p.now().Sub(p.failing) >= downAfter
		},
		OnStateChange: func(_ string, _, to gobreaker.State) {
			switch to {
			case gobreaker.StateOpen:
				p.metrics.down.WithLabelValues(p.name).Set(1)
			case gobreaker.StateClosed:
				p.metrics.down.WithLabelValues(p.name).Set(0)
				p.log.Info("the region answers again")
			case gobreaker.StateHalfOpen:
			}
		},
	})
}

// start lets it run by itself.
func (p *peer) start() {
	p.done = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.run(ctx)
}

// stop ends the peer. Questions under way get no answer: their rows are asked for again, elsewhere.
func (p *peer) stop() {
	if p.cancel != nil {
		p.cancel()
		<-p.done
	}
}

// ask says what is known of a question by now, and sees to it that more will be.
func (p *peer) ask(q question, now int64) ownership.Answer {
	if p.breaker.State() != gobreaker.StateClosed {
		return ownership.Answer{Why: ownership.PeerRegionDown}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.open[q]
	if a == nil {
		if len(p.open) >= maxOpen {
			p.metrics.full.Inc()
			return pending
		}
		a = &asked{answer: pending}
		p.open[q] = a
	}
	a.last = now
	if !a.queued && now >= a.again {
		a.queued = true
		p.queue = append(p.queue, q)
		p.metrics.asked.Inc()
		select {
		case p.news <- struct{}{}:
		default:
		}
	}
	return a.answer
}

var pending = ownership.Answer{Why: ownership.Pending, Wait: true}

func (p *peer) run(ctx context.Context) {
	defer close(p.done)
	defer p.line.hangUp()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.news:
			select {
			case <-ctx.Done():
				return
			case <-time.After(gather):
			}
		case <-tick.C:
			p.tick(ctx)
		}
		p.work(ctx)
	}
}

// tick is what is due once a second.
func (p *peer) tick(ctx context.Context) {
	p.forget(p.now().UnixNano())
	if p.breaker.State() == gobreaker.StateHalfOpen {
		p.request(ctx, nil) // a trial: nobody's row waits for it
	}
}

// work asks all that is in the queue.
func (p *peer) work(ctx context.Context) {
	for qs := p.next(); len(qs) > 0 && ctx.Err() == nil; qs = p.next() {
		p.request(ctx, qs)
	}
}

// next takes questions from the queue.
func (p *peer) next() []question {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.queue), maxQuestions)
	qs := p.queue[:n:n]
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return qs
}

// forget drops what nobody has wanted to know for a while.
func (p *peer) forget(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q, a := range p.open {
		if !a.queued && a.last < now-forgetAfter {
			delete(p.open, q)
		}
	}
}

// request asks and takes the answers, or notes that there are none.
func (p *peer) request(ctx context.Context, qs []question) {
	r, err := p.breaker.Execute(func() (*flowv1.ResolveResponse, error) {
		r, err := p.call(ctx, encode(qs))
		if err == nil {
			err = check(qs, r)
		}
		switch {
		case err == nil:
			p.failing = time.Time{}
		case p.failing.IsZero():
			p.failing = p.now()
		}
		return r, err
	})
	if err != nil {
		p.failed(qs, err)
	} else {
		p.take(qs, r)
	}
	p.wake()
}

func (p *peer) failed(qs []question, err error) {
	p.log.Warn("the region did not answer", "questions", len(qs), "reason", err)
	p.metrics.failed.Add(float64(len(qs)))
	p.metrics.failures.Inc()
	again := p.now().Add(askAgain).UnixNano()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range qs {
		if a := p.open[q]; a != nil {
			a.queued, a.again = false, again
		}
	}
}

// take keeps the answers: final ones for everybody, the others until it is time to ask again.
func (p *peer) take(qs []question, r *flowv1.ResolveResponse) {
	again := p.now().Add(askAgain).UnixNano()
	finals, answers := make([]question, 0, len(qs)), make([]ownership.Answer, 0, len(qs))
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, q := range qs {
		a := decode(r.GetAnswers()[i], p.name)
		p.metrics.took(&a)
		if a.Why == ownership.Pending {
			if o := p.open[q]; o != nil {
				o.queued, o.again, o.answer = false, again, a
			}
			continue
		}
		delete(p.open, q)
		finals, answers = append(finals, q), append(answers, a)
	}
	p.answered(p, finals, answers)
}
