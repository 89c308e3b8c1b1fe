package region

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
)

const (
	// Three requests that fail, and the pauses between them, take less than the hold's patience of 4 s.
	requestTimeout = 800 * time.Millisecond
	failuresToOpen = 3
	askAgain       = 250 * time.Millisecond // after a failure, or for what was pending
	gather         = 5 * time.Millisecond   // questions that come together go together
	trialEvery     = 3 * time.Second        // while the region is down
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
	dial             grpc.DialOption // credentials
	metrics          *metrics
	answered         func(p *peer, qs []question, as []ownership.Answer) // final ones
	wake             func()

	breaker *gobreaker.CircuitBreaker[*flowv1.ResolveResponse]
	news    chan struct{} // there is something in queue
	cancel  context.CancelFunc
	done    chan struct{}

	mu    sync.Mutex
	open  map[question]*asked
	queue []question

	conn *grpc.ClientConn // belongs to run, as does turn
	turn int              // which collector is asked
}

func (p *peer) start() {
	p.open, p.news, p.done = map[question]*asked{}, make(chan struct{}, 1), make(chan struct{})
	p.breaker = gobreaker.NewCircuitBreaker[*flowv1.ResolveResponse](gobreaker.Settings{
		Name: p.name, MaxRequests: 1, Timeout: trialEvery,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= failuresToOpen },
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
	p.metrics.down.WithLabelValues(p.name).Set(0)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go p.run(ctx)
}

// stop ends the peer. Questions under way get no answer: their rows are asked for again, elsewhere.
func (p *peer) stop() {
	p.cancel()
	<-p.done
	p.metrics.down.DeleteLabelValues(p.name)
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
	defer p.hangUp()
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
		case now := <-tick.C:
			p.forget(now.UnixNano())
			if p.breaker.State() == gobreaker.StateHalfOpen {
				p.request(ctx, nil) // a trial: nobody's row waits for it
			}
		}
		for qs := p.next(); len(qs) > 0 && ctx.Err() == nil; qs = p.next() {
			p.request(ctx, qs)
		}
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
	r, err := p.breaker.Execute(func() (*flowv1.ResolveResponse, error) { return p.call(ctx, qs) })
	if err != nil {
		p.failed(qs, err)
	} else {
		p.take(qs, r)
	}
	p.wake()
}

// call is one request to one collector. After an error the next one is asked, on a new connection: this one may be dead without knowing.
func (p *peer) call(ctx context.Context, qs []question) (*flowv1.ResolveResponse, error) {
	if p.conn == nil {
		conn, err := grpc.NewClient("passthrough:///"+p.collectors[p.turn%len(p.collectors)], p.dial, grpc.WithAuthority(p.authority()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: requestTimeout}))
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		p.conn = conn
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	r, err := flowv1.NewRegionsClient(p.conn).Resolve(ctx, encode(qs))
	if err == nil {
		err = check(qs, r)
	}
	if err != nil {
		p.hangUp()
		p.turn++
		return nil, err
	}
	return r, nil
}

// authority is the name that the certificate must carry.
func (p *peer) authority() string {
	if p.serverName != "" {
		return p.serverName
	}
	host, _, _ := net.SplitHostPort(p.collectors[p.turn%len(p.collectors)]) // checked with the table
	return host
}

func (p *peer) hangUp() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

func (p *peer) failed(qs []question, err error) {
	p.log.Warn("the region did not answer", "questions", len(qs), "reason", err)
	p.metrics.failed.Add(float64(len(qs)))
	p.metrics.failures.Inc()
	again := time.Now().Add(askAgain).UnixNano()
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
	again := time.Now().Add(askAgain).UnixNano()
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
