package reachability

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/schema"
	logs "tributary/service/log"
)

// Config is what a Judge needs to know. Zero values mean the defaults.
type Config struct {
	Collector  string        // one run of this collector
	Every      time.Duration // between looks; 5 s
	OpenAfter  time.Duration // a path must have failed so long; 15 s
	CloseAfter time.Duration // and must work so long again; 20 s
	Alerts     AlertConfig
}

// WithDefaults fills in what is not given.
func (c Config) WithDefaults() Config {
	if c.Every == 0 {
		c.Every = 5 * time.Second
	}
	if c.OpenAfter == 0 {
		c.OpenAfter = 15 * time.Second
	}
	if c.CloseAfter == 0 {
		c.CloseAfter = 20 * time.Second
	}
	return c
}

// quietAfterStart is how much longer than OpenAfter a collector opens nothing after its start: exporters send again what was not acknowledged,
// in no order between them.
const quietAfterStart = 5 * time.Second

// dear looks are made less often: at most this part of the time is spent in them.
const dear = 5

// Judge is the loop. It is inert until Run.
type Judge struct {
	cfg     Config
	store   *schema.Client
	log     *slog.Logger
	limited *slog.Logger // for what repeats at each look
	metrics *metrics
	alerts  *alerts
	started time.Time
}

// New returns a judge over a store whose schema is there. The server's user must be allowed to write.
func New(cfg Config, server schema.Server, reg prometheus.Registerer, log *slog.Logger) *Judge {
	j := &Judge{
		cfg: cfg.WithDefaults(), store: schema.NewClient(server, 2), log: log.With("component", "reachability"), metrics: newMetrics(reg), started: time.Now(),
	}
	j.limited = logs.Limited(j.log, time.Minute)
	j.alerts = newAlerts(j.cfg.Alerts, j)
	return j
}

// Run looks until ctx ends. Errors are logged, counted and tried again.
func (j *Judge) Run(ctx context.Context) {
	defer j.store.Close()
	told := make(chan struct{})
	go func() {
		defer close(told)
		j.alerts.run(ctx)
	}()
	defer func() { <-told }()
	wait := time.NewTimer(j.cfg.Every)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		began := time.Now()
		if err := j.turn(ctx, began); err != nil && ctx.Err() == nil {
			j.metrics.errors.Inc()
			j.limited.Error("paths not judged; trying again", "reason", err)
		}
		took := time.Since(began)
		j.metrics.seconds.Add(took.Seconds())
		wait.Reset(max(j.cfg.Every-took, dear*took))
	}
}

// turn is one look, if it is this collector's to look.
func (j *Judge) turn(ctx context.Context, now time.Time) error {
	mine, err := j.elected(ctx)
	if err != nil {
		return err
	}
	j.metrics.judging.Set(map[bool]float64{true: 1}[mine])
	if !mine {
		j.metrics.open.Set(0)
		j.alerts.set(nil)
		return nil
	}
	return j.Step(ctx, now)
}

// leaderFor is how long a judge that is not seen keeps its office.
const leaderFor = 20 * time.Second

// elected notes that this collector is there, and says whether it is the one that judges.
func (j *Judge) elected(ctx context.Context) (bool, error) {
	note := fmt.Sprintf("INSERT INTO $database.reachability_judges SELECT %s, fromUnixTimestamp64Milli(%d, 'UTC'), now64(3, 'UTC')", literal(j.cfg.Collector), j.started.UnixMilli())
	if err := j.store.Exec(ctx, j.statement(note)); err != nil {
		return false, fmt.Errorf("note that this collector judges: %w", err)
	}
	type row struct {
		Collector string `json:"collector"`
	}
	first, err := schema.Rows[row](ctx, j.store, j.statement(fmt.Sprintf(
		"SELECT collector FROM $database.reachability_judges FINAL WHERE seen > now64(3, 'UTC') - toIntervalSecond(%d) ORDER BY started, collector LIMIT 1", leaderFor/time.Second)))
	if err != nil {
		return false, fmt.Errorf("ask who judges: %w", err)
	}
	return len(first) == 1 && first[0].Collector == j.cfg.Collector, nil
}

// Step looks once, as of a time: it opens, corrects and closes regressions, and hands what is open to those that tell.
func (j *Judge) Step(ctx context.Context, now time.Time) error {
	known, err := j.known(ctx, now)
	if err != nil {
		return err
	}
	found, err := j.lookAll(ctx, now)
	if err != nil {
		return err
	}
	seen, err := j.sight(ctx, now)
	if err != nil {
		return err
	}
	s := newState(found, known)
	changed, err := j.follow(ctx, s, seen, now)
	if err != nil {
		return err
	}
	var opened []*Regression
	if now.Sub(j.started) >= j.cfg.OpenAfter+quietAfterStart {
		if opened, err = j.open(ctx, s, seen, now); err != nil {
			return err
		}
	}
	if err := j.write(ctx, append(changed, opened...), now); err != nil {
		return err
	}
	j.count(s, changed, opened)
	silences, err := j.silences(ctx, now)
	if err != nil {
		return err
	}
	j.alerts.set(alertsOf(s.known, silences))
	return nil
}

// state is what one look works with.
type state struct {
	looks map[Path]*look
	open  map[Path]*Regression
	ended map[Path]*Regression // the last one of each path
	known []*Regression
}

func newState(found []look, known []*Regression) *state {
	s := &state{map[Path]*look{}, map[Path]*Regression{}, map[Path]*Regression{}, known}
	for i := range found {
		s.looks[found[i].Path] = &found[i]
	}
	for _, r := range known {
		if r.Open() {
			s.open[r.Path] = r
		} else {
			s.ended[r.Path] = r
		}
	}
	return s
}

// firmAfter is how long after the break a verdict may still change, as more is seen: as long as all records since then are looked at.
const firmAfter = window - 10*time.Second

// mayChange says whether the verdict may be corrected now: each time it must have stood as long as all before it, so that causes that take turns are
// not told in turns.
func (r *Regression) mayChange(now time.Time) bool {
	return now.Sub(r.BrokeAt) < firmAfter && now.Sub(r.VerdictAt) >= r.VerdictAt.Sub(r.OpenedAt)
}

// follow brings open regressions up to date, and closes those that are over.
func (j *Judge) follow(ctx context.Context, s *state, seen sight, now time.Time) ([]*Regression, error) {
	var changed []*Regression
	var ask []asked
	for path, r := range s.open {
		l := s.looks[path]
		why, over := r.over(l, j.cfg.CloseAfter, now)
		if over && why == whyNobody {
			var err error
			if why, err = j.whyNobodyTries(ctx, r.Client, seen, now); err != nil {
				return nil, err
			}
			if why == "" && !r.LostSight {
				r.LostSight = true
				changed = append(changed, r)
			}
			over = why != ""
		}
		if over {
			r.ClosedAt, r.ClosedWhy = now.UTC(), why
			delete(s.open, path)
			s.ended[path] = r
			changed = append(changed, r)
			continue
		}
		if l == nil {
			continue
		}
		before := *r
		r.LastSeen = fromNs(max(l.LastTry, r.LastSeen.UnixNano()))
		r.LostSight = seen.completeOf(l.Exporters) < leastComplete
		if before.LostSight != r.LostSight || r.LastSeen.Sub(before.LastSeen) >= time.Minute {
			changed = append(changed, r)
		}
		if len(l.candidates(now, suspectAfter)) > 0 && r.mayChange(now) {
			ask = append(ask, asked{path, r.BrokeAt.UnixNano()})
		}
	}
	corrected, err := j.correct(ctx, s, ask, seen, now)
	return append(changed, corrected...), err
}

// correct judges again why paths fail: more is seen of it than when they were opened.
func (j *Judge) correct(ctx context.Context, s *state, ask []asked, seen sight, now time.Time) ([]*Regression, error) {
	before, err := j.usual(ctx, ask, now)
	if err != nil {
		return nil, err
	}
	sides, err := j.serverSides(ctx, ask, seen, now)
	if err != nil {
		return nil, err
	}
	var corrected []*Regression
	for _, a := range ask {
		r, l := s.open[a.Path], s.looks[a.Path]
		b := l.regresses(suspectAfter, before[a.Path], seen.completeOf(l.Exporters), now)
		if len(b) == 0 {
			continue
		}
		v, text := verdict(b, sides[a.Path])
		if v == r.Verdict && !betterKnown(r.Explanation, text) {
			continue
		}
		if v != r.Verdict {
			j.metrics.corrected.WithLabelValues(string(v)).Inc()
			j.log.Info("why a path fails is better known", "path", r.Path.String(), "verdict", v, "before", r.Verdict)
		}
		r.Verdict, r.Explanation, r.VerdictAt = v, text, now.UTC()
		corrected = append(corrected, r)
	}
	return corrected, nil
}

// whyNobodyTries tells a client that is gone from one that has nothing to ask, and from one that is not seen any more: "".
func (j *Judge) whyNobodyTries(ctx context.Context, client string, seen sight, now time.Time) (string, error) {
	for _, over := range []time.Duration{quietFor, machinesOver} {
		machines, err := j.machines(ctx, []string{client}, over, now)
		if err != nil {
			return "", err
		}
		if len(machines[client]) == 0 {
			continue
		}
		if !slices.ContainsFunc(machines[client], func(host string) bool { return seen.heard(host, now) }) {
			return "", nil
		}
		if over == quietFor {
			return whyNobody, nil
		}
	}
	return whyGone, nil
}

// open finds new regressions. One phase must have failed for long enough; the verdict is of all that fail.
func (j *Judge) open(ctx context.Context, s *state, seen sight, now time.Time) ([]*Regression, error) {
	var ask []asked
	for path, l := range s.looks {
		if s.open[path] != nil {
			continue
		}
		if f := l.candidates(now, j.cfg.OpenAfter); len(f) > 0 {
			ask = append(ask, asked{path, broken(f).first()})
		}
	}
	before, err := j.usual(ctx, ask, now)
	if err != nil {
		return nil, err
	}
	var found []asked
	fails := map[Path]broken{}
	for _, a := range ask {
		l := s.looks[a.Path]
		complete := seen.completeOf(l.Exporters)
		if len(l.regresses(j.cfg.OpenAfter, before[a.Path], complete, now)) > 0 {
			fails[a.Path] = l.regresses(min(suspectAfter, j.cfg.OpenAfter), before[a.Path], complete, now)
			found = append(found, asked{a.Path, fails[a.Path].first()})
		}
	}
	sides, err := j.serverSides(ctx, found, seen, now)
	if err != nil {
		return nil, err
	}
	var opened []*Regression
	for _, a := range found {
		if b := fails[a.Path]; !sides[a.Path].awaits(b, now) {
			opened = append(opened, j.regression(s, a.Path, b, before[a.Path], sides[a.Path], now))
		}
	}
	s.group(opened, now)
	return opened, nil
}

// regression makes a new one; one that comes back soon has to work longer before it is over.
func (j *Judge) regression(s *state, path Path, b broken, u usual, side serverSide, now time.Time) *Regression {
	l := s.looks[path]
	evidence, err := json.Marshal(l.Flows)
	if err != nil {
		evidence = []byte("[]")
	}
	r := &Regression{ID: newID(), Path: path, OpenedAt: now.UTC(), VerdictAt: now.UTC(), Times: 1}
	if before := s.ended[path]; before != nil {
		r.LeastRx = before.LeastRx
		if now.Sub(before.ClosedAt) <= comesBackWithin {
			r.Times += before.Times
		}
	}
	s.known = append(s.known, r)
	r.Verdict, r.Explanation = verdict(b, side)
	r.Evidence = string(evidence)
	r.LastSuccess = fromNs(max(l.ConnectOK, int64(u.LastSuccess*1e9)))
	if b.inData() {
		r.LastSuccess = fromNs(max(l.DataOK, 0))
	}
	r.BrokeAt, r.LastSeen, r.ClosedAt, r.ClosedWhy = fromNs(b.first()), fromNs(l.LastTry), noTime, ""
	r.Failures, r.UsualRate, r.LeastRx = b.count(), u.rate(), max(r.LeastRx, l.LeastRx)
	s.open[path] = r
	return r
}

// count logs and counts what happened.
func (j *Judge) count(s *state, changed, opened []*Regression) {
	j.metrics.open.Set(float64(len(s.open)))
	for _, r := range opened {
		j.metrics.opened.WithLabelValues(string(r.Verdict)).Inc()
		j.log.Warn("a path that worked fails", "path", r.Path.String(), "verdict", r.Verdict, "since", r.BrokeAt)
	}
	for _, r := range changed {
		if !r.Open() {
			j.metrics.closed.WithLabelValues(r.ClosedWhy).Inc()
			j.log.Info("a regression is over", "path", r.Path.String(), "why", r.ClosedWhy, "lasted", r.ClosedAt.Sub(r.OpenedAt).Round(time.Second))
		}
	}
}
