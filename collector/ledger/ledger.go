// Package ledger writes the exporters' own counters into exporter_health, from which the view completeness says how much of each minute
// was captured, lost and why.
//
// Counters are cumulative over an exporter's run and come with every batch, or alone where there are none. The last reading of each
// minute is kept and written within Every; readings that cannot be written wait, at most MaxReadings, and the oldest are dropped,
// counted: then a loss is seen in a later minute than it happened. Note copies and does not block.
//
// A collector that is killed loses the readings of Every. Those that came with a batch come again with it, because it is not acknowledged before they are
// written ([Ledger.After]): its exporter may be killed too, and then nobody else knows them.
package ledger

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// Config is what a Ledger needs to know. Zero values mean the defaults.
type Config struct {
	Every       time.Duration // between writes; 1 s: acknowledgements wait for it
	MaxReadings int           // that wait; 100,000
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.MaxReadings == 0 {
		c.MaxReadings = 100_000
	}
	return c
}

// key is a minute of an exporter.
type key struct {
	exporter string
	minute   int64
}

type reading struct {
	host     string
	at       int64
	counters []flow.Counter
}

// mark is the newest reading known of a minute. Counters only grow, so their sum says which of two readings is the newer one; times do not, because an exporter's
// clock may be set, and batches of a spool come in another order than they were sealed.
type mark struct {
	sum   uint64
	at    int64
	noted time.Time
}

// remembers is how long marks are kept.
const remembers = 5 * time.Minute

func sumOf(counters []flow.Counter) (sum uint64) {
	for _, c := range counters {
		sum += c.Value
	}
	return sum
}

// Ledger collects readings. It is safe for concurrent use.
type Ledger struct {
	cfg     Config
	store   *schema.Client
	log     *slog.Logger
	now     func() time.Time
	written prometheus.Counter
	dropped prometheus.Counter
	errors  prometheus.Counter

	one     sync.Mutex // writes at a time
	mu      sync.Mutex
	waiting map[key]reading
	writing map[key]reading // at present, or tried last
	after   []func()        // to be called when all of them are written
	marks   map[key]mark    // at most MaxReadings
	swept   time.Time
}

// New returns a ledger that writes nothing until Run.
func New(cfg Config, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Ledger {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "tributary_collector_ledger_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	return &Ledger{
		cfg: cfg.withDefaults(), store: schema.NewClient(server, 1), log: log.With("component", "ledger"), now: time.Now, waiting: map[key]reading{}, marks: map[key]mark{},
		written: counter("readings_written_total", "Readings of exporters' counters written to exporter_health."),
		dropped: counter("readings_dropped_total", "Readings given up: too many waited for the store."),
		errors:  counter("errors_total", "Writes that failed; they are tried again."),
	}
}

// A time outside of these, beside the present, is not believed: a spool is shorter, a clock better.
const (
	oldest = 8 * 24 * time.Hour
	newest = time.Hour
)

// believed is the time of a reading, and our own where that cannot be: what was lost is known all the same.
func (l *Ledger) believed(at int64) int64 {
	now := l.now()
	if age := now.Sub(time.Unix(0, at)); age > oldest || age < -newest {
		return now.UnixNano()
	}
	return at
}

// Note takes a reading of an exporter's counters, at a time by its clock in nanoseconds since 1970. One that cannot be is taken as of now.
func (l *Ledger) Note(exporter, host string, at int64, counters []flow.Counter) {
	if len(counters) == 0 {
		return
	}
	at = l.believed(at)
	k := key{exporter, at / int64(time.Minute)}
	l.mu.Lock()
	defer l.mu.Unlock()
	at, newer := l.mark(k, at, sumOf(counters))
	if !newer {
		return
	}
	r, ok := l.waiting[k]
	if !ok {
		l.makeRoom()
	}
	l.waiting[k] = reading{host, at, append(r.counters[:0], counters...)}
}

// mark reports whether a reading tells more than what is known of its minute, and at what time it is to be stored: of a minute the store keeps the
// reading with the latest time. The caller holds mu.
func (l *Ledger) mark(k key, at int64, sum uint64) (stored int64, newer bool) {
	now := l.now()
	m, known := l.marks[k]
	if known && (sum < m.sum || sum == m.sum && at <= m.at) {
		return 0, false
	}
	if known {
		at = max(at, m.at+1)
	} else if len(l.marks) >= l.cfg.MaxReadings {
		clear(l.marks)
	}
	l.marks[k] = mark{sum, at, now}
	if now.Sub(l.swept) > remembers {
		l.swept = now
		maps.DeleteFunc(l.marks, func(_ key, m mark) bool { return now.Sub(m.noted) > remembers })
	}
	return at, true
}

// makeRoom is for one more reading. The caller holds mu.
func (l *Ledger) makeRoom() {
	if len(l.waiting) >= l.cfg.MaxReadings {
		l.dropOldest()
	}
}

// After calls then once the reading that was noted for a time of an exporter is in the store, or was given up; at once where it is already, and where
// MaxReadings calls wait. It does not block, and then must not.
func (l *Ledger) After(exporter string, at int64, then func()) {
	k := key{exporter, l.believed(at) / int64(time.Minute)}
	l.mu.Lock()
	_, waits := l.waiting[k]
	if _, ok := l.writing[k]; (ok || waits) && len(l.after) < l.cfg.MaxReadings {
		l.after = append(l.after, then)
		then = nil
	}
	l.mu.Unlock()
	if then != nil {
		then()
	}
}

// dropOldest makes room: a tenth at once, because finding the oldest is not cheap.
func (l *Ledger) dropOldest() {
	keys := slices.SortedFunc(maps.Keys(l.waiting), func(a, b key) int { return cmp.Compare(a.minute, b.minute) })
	for _, k := range keys[:len(keys)/10+1] {
		delete(l.waiting, k)
		l.dropped.Inc()
	}
}

// Run writes until ctx ends, and then what still waits, if the store takes it within a second.
func (l *Ledger) Run(ctx context.Context) {
	defer l.store.Close()
	schema.WriteEvery(ctx, l.cfg.Every, func(ctx context.Context, _ bool) { l.write(ctx) })
}

// Flush writes what waits at once: at the end nobody can wait for Every.
func (l *Ledger) Flush(ctx context.Context) { l.write(ctx) }

func (l *Ledger) write(ctx context.Context) {
	l.one.Lock()
	defer l.one.Unlock()
	l.mu.Lock()
	taken, after := l.waiting, l.after
	l.waiting, l.writing, l.after = make(map[key]reading, len(taken)), taken, nil
	l.mu.Unlock()
	var err error
	if len(taken) > 0 {
		err = l.insert(ctx, taken)
	}
	if err != nil {
		l.errors.Inc()
		l.log.Error("the exporters' counters are not written; trying again", "reason", err)
	}
	l.mu.Lock()
	l.writing = nil
	if err != nil {
		l.putBack(taken)
		l.after, after = append(after, l.after...), nil
	}
	l.mu.Unlock()
	if err == nil {
		l.written.Add(float64(len(taken)))
	}
	for _, then := range after {
		then()
	}
}

// putBack lets readings wait again but for those of which newer ones do. The caller holds mu.
func (l *Ledger) putBack(readings map[key]reading) {
	for k, r := range readings {
		if _, newer := l.waiting[k]; !newer {
			l.makeRoom()
			l.waiting[k] = r
		}
	}
}

type row struct {
	Minute   int64             `json:"minute"`
	Exporter string            `json:"exporter_id"`
	Host     string            `json:"host"`
	ReadTime string            `json:"read_time_ns"`
	Counters map[string]uint64 `json:"counters"`
}

// insert writes readings. A repeat replaces itself.
func (l *Ledger) insert(ctx context.Context, readings map[key]reading) error {
	return schema.Insert(ctx, l.store, "exporter_health", func(yield func(row) bool) {
		for k, r := range readings {
			counters := make(map[string]uint64, len(r.counters))
			for _, c := range r.counters {
				counters[c.Name] = c.Value
			}
			if !yield(row{k.minute * 60, k.exporter, r.host, time.Unix(0, r.at).UTC().Format("2006-01-02 15:04:05.000000000"), counters}) {
				return
			}
		}
	})
}
