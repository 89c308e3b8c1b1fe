package reachability

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"tributary/collector/schema"
)

// AlertConfig says who is told. Zero values mean nobody, and the defaults.
type AlertConfig struct {
	Alertmanagers []string      // base URLs, each of one Alertmanager; all are told
	Webhook       string        // URL; "" means none
	Runbook       string        // URL in the annotations; "" means docs/reachability.md
	Every         time.Duration // between repeats to Alertmanager; 30 s
	GroupWait     time.Duration // before a webhook is told, so that all clients are named; 10 s
}

// DefaultRunbook is where the annotations point.
const DefaultRunbook = "docs/reachability.md"

func (c AlertConfig) withDefaults() AlertConfig {
	if c.Every == 0 {
		c.Every = 30 * time.Second
	}
	if c.GroupWait == 0 {
		c.GroupWait = 10 * time.Second
	}
	if c.Runbook == "" {
		c.Runbook = DefaultRunbook
	}
	return c
}

// The states of an alert, and who is told.
const (
	stateFiring   = "firing"
	stateResolved = "resolved"

	targetAlertmanager = "alertmanager"
	targetWebhook      = "webhook"
)

// Alert is what is told of regressions with one cause.
type Alert struct {
	CauseOf  string
	Paths    []*Regression // those that are open and not silenced, or, once it is over, those that were
	StartsAt time.Time
	EndsAt   time.Time // zero while it fires
}

// key names one alert, from its opening to its end.
func (a *Alert) key() string { return fmt.Sprintf("%s at %s", a.CauseOf, clickhouseTime(a.StartsAt)) }

// correctedAt is when a verdict of it was corrected last; zero: none was.
func (a *Alert) correctedAt() (last time.Time) {
	for _, r := range a.Paths {
		if r.VerdictAt.After(r.OpenedAt) && r.VerdictAt.After(last) {
			last = r.VerdictAt
		}
	}
	return last
}

func (a *Alert) state() string {
	if a.EndsAt.IsZero() {
		return stateFiring
	}
	return stateResolved
}

// Silence is a path of which nobody is told.
type Silence struct {
	ID      string `json:"id"`
	Client  string `json:"client_workload"` // * stands for anything
	Server  string `json:"server_workload"`
	Port    uint16 `json:"server_port"` // 0: any
	Until   string `json:"until"`
	Comment string `json:"comment"`
}

// Covers says whether the silence is of the path.
func (s *Silence) Covers(p Path) bool {
	return (s.Port == 0 || s.Port == p.Port) && matches(s.Client, p.Client) && matches(s.Server, p.Server)
}

// matches takes * in a pattern for any text; nothing else in it is special.
func matches(pattern, name string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == name
	}
	if !strings.HasPrefix(name, parts[0]) {
		return false
	}
	name = name[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(name, part)
		if i < 0 {
			return false
		}
		name = name[i+len(part):]
	}
	return strings.HasSuffix(name, parts[len(parts)-1])
}

// silences reads those that are in force.
func (j *Judge) silences(ctx context.Context, now time.Time) ([]Silence, error) {
	found, err := schema.Rows[Silence](ctx, j.store, j.statement(fmt.Sprintf(
		"SELECT id, client_workload, server_workload, server_port, until, comment FROM $database.reachability_silences FINAL WHERE until > toDateTime(%d, 'UTC')", now.Unix())))
	if err != nil {
		return nil, fmt.Errorf("read the silences: %w", err)
	}
	return found, nil
}

// alertsOf makes alerts out of regressions: those that are open, one for each cause, and, of causes of which nothing is open, those that
// ended lately. A regression that ended under a silence was not told of and is not now.
func alertsOf(known []*Regression, silences []Silence) []*Alert {
	open, ended := map[string][]*Regression{}, map[string][]*Regression{}
	for _, r := range known {
		if slices.ContainsFunc(silences, func(s Silence) bool { return s.Covers(r.Path) }) {
			r = silenced(r)
		}
		if r.Open() {
			open[r.CauseOf] = append(open[r.CauseOf], r)
		} else {
			ended[r.CauseOf] = append(ended[r.CauseOf], r)
		}
	}
	var out []*Alert
	for _, cause := range slices.Sorted(maps.Keys(open)) {
		out = append(out, &Alert{CauseOf: cause, Paths: open[cause], StartsAt: startOf(open[cause], ended[cause])})
	}
	for _, cause := range slices.Sorted(maps.Keys(ended)) {
		out = append(out, episodes(cause, ended[cause], open[cause])...)
	}
	return out
}

// silenced is a regression as those see it who are told nothing of it: over.
func silenced(r *Regression) *Regression {
	if !r.Open() {
		return r
	}
	over := *r
	over.ClosedWhy, over.ClosedAt = "silenced", r.LastSeen
	if over.ClosedAt.Before(over.OpenedAt) {
		over.ClosedAt = over.OpenedAt
	}
	return &over
}

// startOf is when the alert began of which these regressions are open: with the first of those that overlap, open or over.
func startOf(open, ended []*Regression) time.Time {
	start := open[0].OpenedAt
	for _, r := range open {
		start = earlier(start, r.OpenedAt)
	}
	for again := true; again; {
		again = false
		for _, r := range ended {
			if r.OpenedAt.Before(start) && r.ClosedAt.After(start) {
				start, again = r.OpenedAt, true
			}
		}
	}
	return start
}

// episodes are the alerts of one cause that are over: regressions that overlap are one. Those that reach into what is open are not over.
func episodes(cause string, ended, open []*Regression) []*Alert {
	var out []*Alert
	slices.SortFunc(ended, func(a, b *Regression) int { return a.OpenedAt.Compare(b.OpenedAt) })
	for _, r := range ended {
		last := len(out) - 1
		if last >= 0 && !r.OpenedAt.After(out[last].EndsAt) {
			out[last].Paths = append(out[last].Paths, r)
			if r.ClosedAt.After(out[last].EndsAt) {
				out[last].EndsAt = r.ClosedAt
			}
			continue
		}
		out = append(out, &Alert{CauseOf: cause, Paths: []*Regression{r}, StartsAt: r.OpenedAt, EndsAt: r.ClosedAt})
	}
	if len(open) == 0 {
		return out
	}
	start := startOf(open, ended)
	return slices.DeleteFunc(out, func(a *Alert) bool { return !a.EndsAt.Before(start) })
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// labels are the names by which an alert is known: they do not change while it fires.
func (a *Alert) labels() map[string]string {
	of, name, _ := strings.Cut(a.CauseOf, ":")
	return map[string]string{"alertname": "TributaryPathBroken", "severity": "critical", "cause": of, of + "_workload": name}
}

// named bounds what a text names.
const named = 10

func list(of []string) string {
	slices.Sort(of)
	of = slices.Compact(of)
	if more := len(of) - named; more > 0 {
		return strings.Join(of[:named], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(of, ", ")
}

// annotations say what happened, in words, and what to do next.
func (a *Alert) annotations(runbook, database string) map[string]string {
	first := slices.MinFunc(a.Paths, func(x, y *Regression) int { return x.BrokeAt.Compare(y.BrokeAt) })
	var clients, servers, verdicts, conditions []string
	for _, r := range a.Paths {
		clients = append(clients, r.Client)
		servers = append(servers, fmt.Sprintf("%s:%d", r.Server, r.Port))
		verdicts = append(verdicts, string(r.Verdict))
		conditions = append(conditions, fmt.Sprintf("(%s, %s, %d)", literal(r.Client), literal(r.Server), r.Port))
	}
	slices.Sort(conditions)
	conditions = slices.Compact(conditions)
	return map[string]string{
		"summary":     fmt.Sprintf("%s cannot reach %s any more", list(clients), list(servers)),
		"description": fmt.Sprintf("It worked until %s and fails since %s: %s.", momentText(first.LastSuccess), first.BrokeAt.UTC().Format(time.RFC3339), first.Explanation),
		"clients":     list(clients), "servers": list(servers), "verdict": list(verdicts), "evidence": first.Evidence,
		"runbook_url": runbook,
		"sql": fmt.Sprintf("SELECT * FROM %s.flows WHERE role = 'client' AND (local_workload, %s, remote_port) IN (%s) AND end_time_ns >= toDateTime64('%s', 3, 'UTC') ORDER BY end_time_ns LIMIT 100",
			database, schema.PathServer, strings.Join(conditions[:min(len(conditions), named)], ", "), clickhouseTime(first.BrokeAt.Add(-time.Minute))),
	}
}

func momentText(t time.Time) string {
	if t.Unix() <= 0 {
		return "some time ago"
	}
	return t.UTC().Format(time.RFC3339)
}

// alerts tells what the last look found. It is safe for concurrent use.
type alerts struct {
	cfg   AlertConfig
	judge *Judge
	wake  chan struct{}

	mu   sync.Mutex
	what []*Alert
}

func newAlerts(cfg AlertConfig, j *Judge) *alerts {
	return &alerts{cfg: cfg.withDefaults(), judge: j, wake: make(chan struct{}, 1)}
}

// set takes what is to be told from now on.
func (a *alerts) set(what []*Alert) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.what = what
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *alerts) get() []*Alert {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.what
}

// run tells until ctx ends. Each target has a goroutine of its own: one that does not answer holds up nobody else.
func (a *alerts) run(ctx context.Context) {
	var targets []*target
	for _, url := range a.cfg.Alertmanagers {
		targets = append(targets, newTarget(a, targetAlertmanager, url))
	}
	if a.cfg.Webhook != "" {
		targets = append(targets, newTarget(a, targetWebhook, a.cfg.Webhook))
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, t := range targets {
		all.Go(func() { t.run(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		for _, t := range targets {
			select {
			case t.wake <- struct{}{}:
			default:
			}
		}
	}
}

// alertsPath is where Alertmanager takes alerts (https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml).
func alertsPath(prefix string) string { return path.Join("/", prefix, "api/v2/alerts") }
