package renames

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	"tributary/collector/sink"
	"tributary/proto/flow"
)

// Config is what a Teller needs to know. Zero values mean the defaults.
type Config struct {
	Every time.Duration // 20 s: between looks for what other collectors and reattribute have renamed
	Grace time.Duration // 30 s: younger runs are left to whoever renamed
	// Dropped says that the sink will never take a batch, as opposed to having stopped.
	Dropped func(error) bool
}

// unfinished is after what time a run is taken for broken off: those of its rows that are not in flows by then never will be.
const unfinished = 10 * time.Minute

func (c Config) withDefaults() Config {
	if c.Every <= 0 {
		c.Every = 20 * time.Second
	}
	if c.Grace <= 0 {
		c.Grace = 30 * time.Second
	}
	if c.Dropped == nil {
		c.Dropped = func(error) bool { return false }
	}
	return c
}

// Jobs that rename.
var jobs = []string{"reattribute", "pairs"}

// Teller is the loop. It is inert until Run.
type Teller struct {
	cfg    Config
	store  *schema.Client
	to     sink.Sink
	log    *slog.Logger
	wake   chan struct{}
	rows   *prometheus.CounterVec
	errors prometheus.Counter
}

// New returns a teller. The server's user must be allowed to write.
func New(cfg Config, server schema.Server, to sink.Sink, reg prometheus.Registerer, log *slog.Logger) *Teller {
	const prefix = "tributary_collector_renames_"
	t := &Teller{
		cfg: cfg.withDefaults(), store: schema.NewClient(server, 1), to: to, log: log.With("component", "renames"), wake: make(chan struct{}, 1),
		rows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "told_rows_total", Help: "Records renamed in the store of which Kafka was told, by the job that renamed them.",
		}, []string{"job"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "errors_total", Help: "Looks that failed; the next one tells of the same records."}),
	}
	for _, job := range jobs {
		t.rows.WithLabelValues(job)
	}
	reg.MustRegister(t.rows, t.errors)
	return t
}

// Wake says that pairs has renamed records at this collector. It does not block.
func (t *Teller) Wake() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// Run looks until ctx ends.
func (t *Teller) Run(ctx context.Context) {
	defer t.store.Close()
	for {
		timer := time.NewTimer(t.cfg.Every + time.Duration(rand.Int64N(int64(t.cfg.Every)/2+1)))
		woken := false
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-t.wake:
			timer.Stop()
			woken = true
		case <-timer.C:
		}
		if err := t.Step(ctx, woken); err != nil && ctx.Err() == nil {
			t.errors.Inc()
			t.log.Warn("Kafka is not told of renamed records; trying again", "reason", err)
		}
	}
}

// run is one run of a job of which Kafka has not been told.
type run struct {
	Job    string `json:"job"`
	Number uint64 `json:"run"`
	From   int64  `json:"from_ns"` // of end_time_ns
	To     int64  `json:"to_ns"`
	Age    int64  `json:"age"` // seconds, of its last name
}

// untoldSQL lists the runs that have had their grace, and those of pairs without it where that has just woken us.
const untoldSQL = `SELECT job, run, toUnixTimestamp64Nano(min(end_time_ns)) AS from_ns, toUnixTimestamp64Nano(max(end_time_ns)) AS to_ns,
    toInt64(now()) - toInt64(max(made)) AS age
FROM {database}.renames
WHERE made > now() - INTERVAL 1 DAY AND (job, run) NOT IN (SELECT job, run FROM {database}.renames_told)
GROUP BY job, run
HAVING age >= {grace:Int64} OR {woken:Bool} AND job = 'pairs'
ORDER BY age DESC`

// Step tells of every run whose last name is older than the grace, and at once of what pairs has renamed if that has woken us.
func (t *Teller) Step(ctx context.Context, woken bool) error {
	runs, err := schema.Rows[run](ctx, t.store, t.statement(untoldSQL, map[string]string{
		"grace": strconv.Itoa(int(t.cfg.Grace / time.Second)), "woken": strconv.FormatBool(woken),
	}))
	if err != nil {
		return fmt.Errorf("look for renamed records: %w", err)
	}
	for i := range runs {
		if err := t.tell(ctx, &runs[i]); err != nil {
			return err
		}
	}
	return nil
}

// noteSQL notes a run; the note must not be lost, or everything is told again.
const noteSQL = "INSERT INTO {database}.renames_told (job, run, told_rows) VALUES ({job:String}, {run:UInt64}, {told:UInt64})"

func (t *Teller) tell(ctx context.Context, r *run) error {
	out := delivery{to: t.to, dropped: t.cfg.Dropped}
	answer, err := t.store.Do(ctx, t.statement(rowsSQL(), map[string]string{
		"job": r.Job, "run": strconv.FormatUint(r.Number, 10), "from": strconv.FormatInt(r.From, 10), "to": strconv.FormatInt(r.To, 10),
	}))
	if err != nil {
		return fmt.Errorf("read renamed records: %w", err)
	}
	told, missing, err := eachBatch(answer.Body, out.write)
	_ = answer.Body.Close() // it was read to its end, or there is an error already
	if err != nil {
		return fmt.Errorf("read renamed records: %w", err)
	}
	if err := out.wait(ctx); err != nil {
		return fmt.Errorf("write renamed records: %w", err)
	}
	t.rows.WithLabelValues(r.Job).Add(float64(told))
	if missing > 0 && r.Age < int64(unfinished/time.Second) {
		return nil // the job is writing them: once more, later
	}
	if err := t.store.Exec(ctx, t.statement(noteSQL, map[string]string{
		"job": r.Job, "run": strconv.FormatUint(r.Number, 10), "told": strconv.Itoa(told),
	})); err != nil {
		return fmt.Errorf("note that Kafka was told: %w", err)
	}
	return nil
}

func (t *Teller) statement(text string, params map[string]string) schema.Statement {
	return schema.Statement{
		Text: strings.ReplaceAll(text, "{database}", t.store.Server().Database), Params: params, Settings: map[string]string{"max_execution_time": "300"},
	}
}

// delivery waits for the sink to have what it was given.
type delivery struct {
	to      sink.Sink
	dropped func(error) bool
	pending sync.WaitGroup
	mu      sync.Mutex
	err     error
}

func (d *delivery) write(b *flow.Batch) {
	d.pending.Add(1)
	d.to.Write(b, func(err error) {
		defer d.pending.Done()
		if err == nil || d.dropped(err) { // the sink has counted it
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.err = err
	})
}

// wait returns when the sink has everything, or will not have it, or ctx ends.
func (d *delivery) wait(ctx context.Context) error {
	all := make(chan struct{})
	go func() {
		d.pending.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-ctx.Done():
		return ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.err)
}
