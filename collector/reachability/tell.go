package reachability

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"tributary/collector/schema"
)

// target is an Alertmanager or a webhook.
type target struct {
	of    *alerts
	kind  string
	url   string
	http  *http.Client
	wake  chan struct{}
	told  map[string]time.Time // alert and state, of those that were taken, and when
	owed  map[string]bool      // alerts of which it is or was to be told that they fire
	again map[string]time.Time // when Alertmanager is told of a firing one again
	known bool                 // told has been read from the store
}

const (
	tellTimeout = 10 * time.Second
	// retryAfter is the least time between two tries of a target that does not take an alert.
	retryAfter = 5 * time.Second
	// firesFor is how long Alertmanager believes an alert that it is not told again: a few repeats.
	firesFor = 4
	// keptAlerts are remembered beside twice those that are told of.
	keptAlerts = 1000
	// maxAnswer of an error is kept.
	maxAnswer = 500
	// maxPaths of an alert are in the body that a webhook gets; each is a few hundred bytes to a few thousand.
	maxPaths = 100
	// maxPost alerts are told to Alertmanager in one body.
	maxPost = 100
)

func newTarget(of *alerts, kind, url string) *target {
	return &target{
		of: of, kind: kind, url: url, http: &http.Client{Timeout: tellTimeout}, wake: make(chan struct{}, 1), told: map[string]time.Time{}, owed: map[string]bool{}, again: map[string]time.Time{},
	}
}

// run tells at each look, and rests after a failure.
func (t *target) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		}
		if err := t.tell(ctx, time.Now()); err != nil && ctx.Err() == nil {
			t.of.judge.metrics.tellErrors.WithLabelValues(t.kind).Inc()
			t.of.judge.limited.Warn("alerts not taken; telling them again", "target", t.kind, "reason", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryAfter):
			}
		}
	}
}

// tell says what is due: to a webhook, what it has not been told; to Alertmanager also what fires, every now and then.
func (t *target) tell(ctx context.Context, now time.Time) error {
	what := t.of.get()
	if len(what) == 0 {
		t.known = false // another collector may tell meanwhile
		return nil
	}
	if err := t.recall(ctx); err != nil {
		return err
	}
	t.forget(what)
	due := t.due(what, now)
	if len(due) == 0 {
		return nil
	}
	if t.kind == targetWebhook {
		var refused error // one that is not taken holds up no other
		for _, a := range due {
			err := t.post(ctx, t.url, t.webhookBody(a))
			if err == nil {
				err = t.note(ctx, []*Alert{a}, now)
			}
			if answered := (*answerError)(nil); errors.As(err, &answered) {
				refused = err
			} else if err != nil {
				return err
			}
		}
		return refused
	}
	u, err := url.Parse(t.url)
	if err != nil {
		return fmt.Errorf("the address of the Alertmanager: %w", err)
	}
	u.Path = alertsPath(u.Path)
	for part := range slices.Chunk(due, maxPost) {
		if err := t.post(ctx, u.String(), t.alertmanagerBody(part, now)); err != nil {
			return err
		}
		for _, a := range part {
			t.again[a.key()] = now.Add(t.of.cfg.Every)
		}
		if err := t.note(ctx, part, now); err != nil {
			return err
		}
	}
	return nil
}

func (t *target) due(what []*Alert, now time.Time) []*Alert {
	var due []*Alert
	for _, a := range what {
		told := t.knows(a)
		switch {
		case a.state() == stateResolved:
			// What it was never to be told of (it was silenced) need not be taken back.
			if !told && t.owed[a.key()] {
				due = append(due, a)
			}
			continue
		case t.kind == targetAlertmanager:
			told = told && now.Before(t.again[a.key()])
		case now.Sub(a.StartsAt) < t.of.cfg.GroupWait:
			continue
		}
		t.owed[a.key()] = true
		if !told {
			due = append(due, a)
		}
	}
	return due
}

// knows says that the target was told of the alert in this state, and with these verdicts: one that fires is told again when they are corrected.
func (t *target) knows(a *Alert) bool {
	at, told := t.told[a.key()+stateOf(a)]
	return told && (a.state() == stateResolved || !a.correctedAt().After(at))
}

// forget drops what concerns alerts that are told of no more.
func (t *target) forget(what []*Alert) {
	if len(t.owed) <= 2*len(what)+keptAlerts {
		return
	}
	now := make(map[string]bool, len(what))
	for _, a := range what {
		now[a.key()] = true
	}
	maps.DeleteFunc(t.owed, func(key string, _ bool) bool { return !now[key] })
	maps.DeleteFunc(t.again, func(key string, _ time.Time) bool { return !now[key] })
	maps.DeleteFunc(t.told, func(key string, _ time.Time) bool {
		return !now[strings.TrimSuffix(strings.TrimSuffix(key, " "+stateFiring), " "+stateResolved)]
	})
}

func stateOf(a *Alert) string { return " " + a.state() }

// recall reads once what this target was told, by whatever collector.
func (t *target) recall(ctx context.Context) error {
	if t.known {
		return nil
	}
	type row struct {
		Alert string    `json:"alert"`
		State string    `json:"state"`
		Told  time.Time `json:"told"`
	}
	j := t.of.judge
	found, err := schema.Rows[row](ctx, j.store, j.statement(fmt.Sprintf(
		"SELECT alert, state, max(told) AS told FROM $database.alerts_told AS a WHERE target = %s AND a.told >= now() - toIntervalDay(2) GROUP BY alert, state", literal(t.name()))))
	if err != nil {
		return fmt.Errorf("read what was told: %w", err)
	}
	for _, r := range found {
		t.told[r.Alert+" "+r.State], t.owed[r.Alert] = r.Told, true
	}
	t.known = true
	return nil
}

// name is the target in the store, which anybody may read: the path of a webhook is often a password.
func (t *target) name() string {
	u, err := url.Parse(t.url)
	if err != nil {
		return t.kind
	}
	of := sha256.Sum256([]byte(u.Path + "?" + u.RawQuery))
	return fmt.Sprintf("%s %s %x", t.kind, u.Host, of[:4])
}

// note remembers what was taken, once for each state and correction.
func (t *target) note(ctx context.Context, taken []*Alert, now time.Time) error {
	type row struct {
		Target string `json:"target"`
		Alert  string `json:"alert"`
		State  string `json:"state"`
		Told   string `json:"told"`
	}
	var rows []row
	for _, a := range taken {
		if t.knows(a) {
			continue
		}
		t.told[a.key()+stateOf(a)] = now
		t.of.judge.metrics.told.WithLabelValues(t.kind, a.state()).Inc()
		rows = append(rows, row{t.name(), a.key(), a.state(), clickhouseTime(now)})
	}
	if err := schema.Insert(ctx, t.of.judge.store, "alerts_told", slices.Values(rows)); err != nil {
		return fmt.Errorf("note what was told: %w", err)
	}
	return nil
}

// postableAlert is Alertmanager's.
type postableAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
}

// alertmanagerBody: one that fires ends in the future, and is told again before that. If all collectors are gone, it ends by itself.
func (t *target) alertmanagerBody(due []*Alert, now time.Time) any {
	out := make([]postableAlert, len(due))
	for i, a := range due {
		ends := a.EndsAt
		if ends.IsZero() {
			ends = now.Add(firesFor * max(t.of.cfg.Every, 30*time.Second))
		}
		out[i] = postableAlert{a.labels(), a.annotations(t.of.cfg.Runbook, t.of.judge.store.Server().Database), a.StartsAt.UTC(), ends.UTC()}
	}
	return out
}

// webhookAlert is the body of a POST to the webhook.
type webhookAlert struct {
	ID          string            `json:"id"` // the same when it fires and when it is resolved
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"starts_at"`
	EndsAt      *time.Time        `json:"ends_at,omitempty"`
	Paths       []*Regression     `json:"paths"`                // those that broke first, at most maxPaths
	MorePaths   int               `json:"more_paths,omitempty"` // how many are left out
}

func (t *target) webhookBody(a *Alert) any {
	w := webhookAlert{
		ID: a.key(), Status: a.state(), Labels: a.labels(), Annotations: a.annotations(t.of.cfg.Runbook, t.of.judge.store.Server().Database),
		StartsAt: a.StartsAt.UTC(), Paths: a.Paths,
	}
	if w.MorePaths = len(a.Paths) - maxPaths; w.MorePaths > 0 {
		w.Paths = slices.SortedStableFunc(slices.Values(a.Paths), func(x, y *Regression) int { return x.BrokeAt.Compare(y.BrokeAt) })[:maxPaths]
	} else {
		w.MorePaths = 0
	}
	if !a.EndsAt.IsZero() {
		ends := a.EndsAt.UTC()
		w.EndsAt = &ends
	}
	return w
}

// answerError is what a target says that does not take an alert.
type answerError struct{ kind, status, said string }

func (e *answerError) Error() string {
	return fmt.Sprintf("the %s answers %s: %s", e.kind, e.status, e.said)
}

// withoutURL leaves out of an error the address, which may hold a password.
func withoutURL(err error) error {
	var cause *url.Error
	if errors.As(err, &cause) {
		return cause.Err
	}
	return err
}

func (t *target) post(ctx context.Context, to string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("write an alert: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("the address of the %s: %w", t.kind, err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := t.http.Do(r)
	if err != nil {
		return fmt.Errorf("tell the %s: %w", t.kind, withoutURL(err))
	}
	defer answer.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if answer.StatusCode/100 != 2 {
		return &answerError{t.kind, answer.Status, string(said)}
	}
	return nil
}
