package region

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"tributary/collector/ownership"
	"tributary/proto/flowv1"
	"tributary/service/config"
	"tributary/service/reload"
)

const (
	maxAnswers  = 64 << 10
	keepAnswers = 30 * time.Second
	// Tolerances are rounded up to multiples of this, so that rows of exporters with slightly different clocks share an answer.
	toleranceStep = int64(50 * time.Millisecond)
)

// Config says who asks.
type Config struct {
	Region      string                           // this collector's
	File        string                           // the table of regions
	Credentials credentials.TransportCredentials // towards other regions
	Wake        func()                           // answers have come, or will not
}

// Simulation takes the place of clock, network and goroutines where time is not the clock's.
type Simulation struct {
	Now     func() time.Time
	Call    func(region string, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error)
	Breaker func() Breaker
}

// Resolver knows other regions' addresses. Make it with New, and stop it.
type Resolver struct {
	cfg     Config
	virtual *Simulation // nil in life
	log     *slog.Logger
	metrics *metrics
	table   atomic.Pointer[table]
	answers *expirable.LRU[question, ownership.Answer]

	cancel  context.CancelFunc
	running sync.WaitGroup
}

// New reads the table and watches it from then on. A table that cannot be read now is an error; later the last good one stays.
func New(cfg Config, reg prometheus.Registerer, log *slog.Logger) (*Resolver, error) {
	r, err := newResolver(cfg, keepAnswers, reg, log)
	if err != nil {
		return nil, err
	}
	entries, err := Load(cfg.File, cfg.Region)
	if err != nil {
		return nil, err
	}
	r.use(entries)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.running.Go(func() { r.watch(ctx) })
	return r, nil
}

func newResolver(cfg Config, keep time.Duration, reg prometheus.Registerer, log *slog.Logger) (*Resolver, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	return &Resolver{cfg: cfg, log: log, metrics: m, answers: expirable.NewLRU[question, ownership.Answer](maxAnswers, nil, keep)}, nil
}

// NewSimulated makes a Resolver that does nothing by itself: see Step. Answers are kept for as long as there is room.
func NewSimulated(cfg Config, s Simulation, entries []Entry, reg prometheus.Registerer) (*Resolver, error) {
	r, err := newResolver(cfg, 0, reg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	r.virtual = &s
	r.use(entries)
	return r, nil
}

// Step asks all that is to be asked, in the caller's goroutine; second says that this is the one step of a second that does more.
func (r *Resolver) Step(second bool) {
	peers := r.table.Load().peers
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		if second {
			peers[name].tick(context.Background())
		}
		peers[name].work(context.Background())
	}
}

// Stop ends all questions.
func (r *Resolver) Stop() {
	r.cancel()
	r.running.Wait()
	for _, p := range r.table.Load().peers {
		p.stop()
	}
}

// watch reads the table again when it has changed, until ctx ends.
func (r *Resolver) watch(ctx context.Context) {
	file := reload.New("regions", r.cfg.File, maxFileBytes)
	tick := time.NewTicker(reload.Every)
	defer tick.Stop()
	for {
		if data, news, err := file.Look(time.Now()); news {
			var entries []Entry
			if err == nil {
				entries, err = Parse(r.cfg.File, data, r.cfg.Region)
			}
			if r.metrics.loaded(err); err == nil {
				r.use(entries)
				r.log.Info("regions loaded", "file", r.cfg.File, "entries", len(entries))
			} else {
				r.log.Warn("regions stay as they were", "reason", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// use puts a new table in the place of the present one.
func (r *Resolver) use(entries []Entry) {
	old := r.table.Load()
	var before map[string]*peer
	if old != nil {
		before = old.peers
	}
	t := newTable(entries, r.cfg.Region, before, r.startPeer)
	r.table.Store(t)
	for name, p := range before {
		if t.peers[name] == p {
			continue
		}
		if p.stop(); t.peers[name] == nil {
			r.metrics.down.DeleteLabelValues(name)
		} else { // it is asked at other places now
			r.metrics.down.WithLabelValues(name).Set(0)
		}
	}
	r.answers.Purge() // of regions that are gone
}

func (r *Resolver) startPeer(e Entry) *peer {
	p := &peer{
		name: e.Region, serverName: e.ServerName, collectors: e.Collectors, log: r.log.With("region", e.Region), now: time.Now,
		metrics: r.metrics, wake: r.cfg.Wake, answered: r.keep, open: map[question]*asked{}, news: make(chan struct{}, 1),
		line: line{collectors: e.Collectors, serverName: e.ServerName, credentials: r.cfg.Credentials},
	}
	r.metrics.down.WithLabelValues(p.name)
	if v := r.virtual; v != nil {
		p.now, p.breaker = v.Now, v.Breaker()
		p.call = func(_ context.Context, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error) {
			return v.Call(p.name, m)
		}
		return p
	}
	p.call, p.breaker = p.line.call, p.newBreaker()
	p.start()
	return p
}

// Lookup says what is known of the owner by now, and asks if nothing is; see package attribute. It does not block.
func (r *Resolver) Lookup(network string, addr ownership.Addr, port uint16, at, tolerance int64) (a ownership.Answer, foreign bool) {
	p := r.table.Load().find(network, addr.Netip())
	if p == nil {
		return a, false
	}
	q := question{p, network, addr, port, at, (tolerance + toleranceStep - 1) / toleranceStep * toleranceStep}
	if q.tolerance > maxTolerance {
		return ownership.Answer{Why: ownership.Clock}, true
	}
	if a, ok := r.answers.Get(q.lasting()); ok && a.HoldsAt(at) {
		r.metrics.cached.Inc()
		return a, true
	}
	if a, ok := r.answers.Get(q); ok {
		r.metrics.cached.Inc()
		return a, true
	}
	return p.ask(q, p.now().UnixNano()), true
}

// RegionOf is the region of an address, if it is another one than this.
func (r *Resolver) RegionOf(network string, addr netip.Addr) (name string, foreign bool) {
	p := r.table.Load().find(network, addr)
	if p == nil {
		return "", false
	}
	return p.name, true
}

// lasting is the key of an answer that holds for a time and all ports.
func (q question) lasting() question {
	q.at, q.port = 0, 0
	return q
}

// keep remembers final answers of a region, unless it has lost the addresses meanwhile.
func (r *Resolver) keep(p *peer, qs []question, as []ownership.Answer) {
	if r.table.Load().peers[p.name] != p {
		return
	}
	for i, q := range qs {
		if as[i].HoldsAt(q.at) {
			r.answers.Add(q.lasting(), as[i])
		} else {
			r.answers.Add(q, as[i])
		}
	}
}

// Load reads a table once.
func Load(path, own string) ([]Entry, error) {
	data, err := config.ReadFile("regions", path, maxFileBytes)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, own)
}
