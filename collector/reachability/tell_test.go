package reachability

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tributary/collector/schema"
	"tributary/collector/schema/schematest"
	"tributary/deploy/dev/ports"
	"tributary/service/testenv"
)

// hook takes what is POSTed to it.
type hook struct {
	*httptest.Server
	mu   sync.Mutex
	away bool
	got  []string
}

func newHook(t *testing.T, say func(body []byte) string) *hook {
	h := &hook{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		h.mu.Lock()
		defer h.mu.Unlock()
		if err != nil || h.away {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		h.got = append(h.got, say(body))
	}))
	t.Cleanup(h.Close)
	return h
}

func (h *hook) leave(away bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.away = away
}

func (h *hook) said() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.got, "; ")
}

func ofWebhook(body []byte) string {
	var a webhookAlert
	if err := json.Unmarshal(body, &a); err != nil {
		return err.Error()
	}
	return a.Status + " " + a.Labels["server_workload"] + ": " + a.Annotations["clients"]
}

func verdictsOf(body []byte) string {
	var a webhookAlert
	if err := json.Unmarshal(body, &a); err != nil {
		return err.Error()
	}
	return a.Annotations["verdict"]
}

// teller is a target of a judge, told by hand.
func teller(t *testing.T, s schema.Server, kind, url string) (*Judge, *target) {
	j := newJudge(t, s)
	j.alerts.cfg.Runbook = "https://runbook"
	return j, newTarget(j.alerts, kind, url)
}

func firing(clients ...string) *Alert {
	a := &Alert{CauseOf: "server:shop/db", StartsAt: time.Now().Add(-time.Minute).Truncate(time.Millisecond)}
	for _, c := range clients {
		a.Paths = append(a.Paths, &Regression{ID: c, Path: Path{c, "shop/db", 5432}, Verdict: VerdictNoListener, Explanation: "nothing listens", OpenedAt: a.StartsAt, BrokeAt: a.StartsAt})
	}
	return a
}

func over(a *Alert) *Alert {
	ended := *a
	ended.EndsAt = time.Now()
	return &ended
}

// TestWebhook: told once when it fires and once when it is over, by whatever collector, whenever the webhook is there.
func TestWebhook(t *testing.T) {
	s := schematest.Migrated(t)
	h := newHook(t, ofWebhook)
	j, hooked := teller(t, s, targetWebhook, h.URL+"/x?token=secret")
	a := firing("shop/web", "shop/api")
	h.leave(true)
	j.alerts.set([]*Alert{a})
	if err := hooked.tell(t.Context(), time.Now()); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the webhook is away: %v", err)
	}
	h.leave(false)
	for range 3 {
		if err := hooked.tell(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	other, again := teller(t, s, targetWebhook, h.URL+"/x?token=secret") // another collector takes over
	other.alerts.set([]*Alert{over(a)})
	for range 2 {
		if err := again.tell(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := h.said(), "firing shop/db: shop/api, shop/web; resolved shop/db: shop/api, shop/web"; got != want {
		t.Errorf("the webhook was told %q, want %q", got, want)
	}
	if rows := schematest.Query(t, s, "SELECT DISTINCT target FROM "+s.Database+".alerts_told"); strings.Contains(rows, "/x") || strings.Contains(rows, "secret") || strings.Count(rows, "\n") != 1 {
		t.Errorf("targets in the store: %s", rows)
	}
	young := firing("shop/new")
	young.StartsAt = time.Now().Add(-time.Second)
	short := firing("shop/silenced") // over before anybody was to be told
	other.alerts.set([]*Alert{young, over(short)})
	if err := again.tell(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := len(strings.Split(h.said(), "; ")); got != 2 {
		t.Errorf("told of what is too young, or was never told: %s", h.said())
	}
}

// TestOneIsNotTaken: an alert that the webhook refuses holds up no other.
func TestOneIsNotTaken(t *testing.T) {
	var got []string
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := ofWebhook(body)
		if strings.Contains(text, "many") {
			http.Error(w, "too large for me", http.StatusRequestEntityTooLarge)
			return
		}
		got = append(got, text)
	}))
	defer h.Close()
	j, hooked := teller(t, schematest.Migrated(t), targetWebhook, h.URL)
	other := firing("shop/web")
	other.CauseOf = "server:shop/other"
	j.alerts.set([]*Alert{firing("shop/many"), other})
	for range 2 {
		if err := hooked.tell(t.Context(), time.Now()); err == nil || !strings.Contains(err.Error(), "too large for me") {
			t.Errorf("the webhook refuses one: %v", err)
		}
	}
	if diff := cmp.Diff([]string{"firing shop/other: shop/web"}, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// TestBodiesAreBounded: an alert of many paths names those that broke first, and many alerts go to Alertmanager in several requests.
func TestBodiesAreBounded(t *testing.T) {
	var sizes []int
	h := newHook(t, func(body []byte) string {
		var alerts []postableAlert
		if err := json.Unmarshal(body, &alerts); err != nil {
			return err.Error()
		}
		sizes = append(sizes, len(alerts))
		return ""
	})
	j, manager := teller(t, schematest.Migrated(t), targetAlertmanager, h.URL)
	var many []*Alert
	for i := range 2*maxPost + 1 {
		a := firing("shop/web")
		a.CauseOf = fmt.Sprintf("server:shop/%d", i)
		many = append(many, a)
	}
	j.alerts.set(many)
	if err := manager.tell(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{maxPost, maxPost, 1}, sizes); diff != "" {
		t.Errorf("alerts of a request (-want +got):\n%s", diff)
	}
	for _, n := range []int{1, maxPaths, maxPaths + 1, 5000} {
		a := firing(make([]string, n)...)
		for i, p := range a.Paths {
			p.Client = strings.Repeat("a long name ", 40)
			p.BrokeAt = a.StartsAt.Add(time.Duration(n-i) * time.Millisecond) // the last one broke first
		}
		w := manager.webhookBody(a).(webhookAlert)
		if len(w.Paths) != min(n, maxPaths) || w.MorePaths != n-len(w.Paths) || len(a.Paths) != n {
			t.Errorf("of %d paths %d are named and %d not", n, len(w.Paths), w.MorePaths)
		}
		if n > maxPaths && w.Paths[0] != a.Paths[n-1] {
			t.Errorf("of %d paths the first to break is not named first", n)
		}
		if text, err := json.Marshal(w); err != nil || len(text) > 512<<10 {
			t.Errorf("%d bytes, %v", len(text), err)
		}
	}
}

// TestForgets: what a target was told is kept as long as the alert is told of, and not for ever.
func TestForgets(t *testing.T) {
	s := newTarget(&alerts{}, targetWebhook, "")
	stays := firing("shop/web")
	for i := range 10_000 {
		key := fmt.Sprint("server:shop/db at ", i)
		s.owed[key], s.told[key+" "+stateFiring], s.told[key+" "+stateResolved], s.again[key] = true, time.Now(), time.Now(), time.Now()
	}
	s.owed[stays.key()], s.told[stays.key()+stateOf(stays)], s.again[stays.key()] = true, time.Now(), time.Now()
	s.forget([]*Alert{stays})
	if len(s.owed) != 1 || len(s.told) != 1 || len(s.again) != 1 || !s.knows(stays) {
		t.Errorf("%d owed, %d told and %d to be told again are remembered of 1 alert", len(s.owed), len(s.told), len(s.again))
	}
}

// TestAlertmanager: the real one gets an alert once, from two collectors, and again what it missed while it was away.
func TestAlertmanager(t *testing.T) {
	h := newHook(t, func(body []byte) string {
		var m struct {
			Status string `json:"status"`
			Alerts []struct {
				Status      string            `json:"status"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"alerts"`
		}
		if err := json.Unmarshal(body, &m); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s %d %s: %s", m.Status, len(m.Alerts), m.Alerts[0].Labels["server_workload"], m.Alerts[0].Annotations["clients"])
	})
	address := ports.Address(t)
	url := "http://" + address + "/prefix"
	s := schematest.Migrated(t)
	j, first := teller(t, s, targetAlertmanager, url)
	other, second := teller(t, s, targetAlertmanager, url)
	a := firing("shop/web")
	j.alerts.set([]*Alert{a})
	if err := first.tell(t.Context(), time.Now()); err == nil {
		t.Error("nobody is there, and it was told")
	}
	startAlertmanager(t, address, h.URL)
	a.Paths = firing("shop/web", "shop/api").Paths
	other.alerts.set([]*Alert{a})
	tell := func(target *target) {
		t.Helper()
		if err := target.tell(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	tell(first)
	tell(second)
	waitFor(t, h, "firing 1 shop/db: shop/api, shop/web")
	j.alerts.set([]*Alert{over(a)})
	other.alerts.set([]*Alert{over(a)})
	tell(first)
	tell(second)
	waitFor(t, h, "firing 1 shop/db: shop/api, shop/web; resolved 1 shop/db: shop/api, shop/web")
	answer, err := http.Get("http://" + address + "/prefix/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || strings.TrimSpace(string(body)) != "[]" {
		t.Errorf("what is left: %s %v", body, err)
	}
}

// TestAlertmanagerAway: ten minutes during which the v2 API takes nothing, by the clock of the judges. What fires then is told when it is back, once by each
// collector and with the same labels and times, so that Alertmanager has it once; what began and ended meanwhile is told as over; and nobody asks
// more often than at each look.
func TestAlertmanagerAway(t *testing.T) {
	type told struct {
		Labels   map[string]string `json:"labels"`
		StartsAt time.Time         `json:"startsAt"`
		EndsAt   time.Time         `json:"endsAt"`
	}
	alive := map[string]told{} // what an Alertmanager has: by labels
	var started, ended int
	api := newHook(t, func(body []byte) string {
		var all []told
		if err := json.Unmarshal(body, &all); err != nil {
			return err.Error()
		}
		for _, a := range all {
			key := fmt.Sprint(a.Labels, a.StartsAt)
			if _, known := alive[key]; !known {
				started++
			}
			if before := alive[key].EndsAt; (before.IsZero() || before.After(time.Now())) && a.EndsAt.Before(time.Now()) {
				ended++
			}
			alive[key] = a
		}
		return fmt.Sprint(len(all))
	})
	s := schematest.Migrated(t)
	j, first := teller(t, s, targetAlertmanager, api.URL)
	other, second := teller(t, s, targetAlertmanager, api.URL)
	stays, short := firing("shop/web"), firing("shop/web")
	short.CauseOf = "server:shop/cache"
	now := time.Now().Add(-10 * time.Minute)
	stays.StartsAt, short.StartsAt = now, now
	api.leave(true)
	for i := range 120 {
		what := []*Alert{stays, short}
		if i > 60 {
			what[1] = over(short)
		}
		j.alerts.set(what)
		other.alerts.set(what)
		if first.tell(t.Context(), now) == nil || second.tell(t.Context(), now) == nil {
			t.Fatal("nobody is there, and it was told")
		}
		now = now.Add(5 * time.Second)
	}
	api.leave(false)
	for range 3 {
		for _, target := range []*target{first, second} {
			if err := target.tell(t.Context(), now); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(alive) != 2 || started != 2 || ended != 1 || api.said() != "2; 2" {
		t.Errorf("after ten minutes Alertmanager has %d alerts, %d began and %d ended, in calls of %s: %v", len(alive), started, ended, api.said(), alive)
	}
}

func waitFor(t *testing.T, h *hook, want string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if h.said() == want {
			return
		}
	}
	t.Fatal(cmp.Diff(want, h.said()))
}

// startAlertmanager starts the real one, with one receiver.
func startAlertmanager(t *testing.T, address, receiver string) {
	t.Helper()
	const program = "/usr/bin/prometheus-alertmanager"
	testenv.NeedFile(t, program, "run make packages")
	dir := t.TempDir()
	config := fmt.Sprintf("route: {receiver: hook, group_wait: 500ms, group_interval: 1s, repeat_interval: 1h}\nreceivers:\n- name: hook\n  webhook_configs: [{url: %s}]\n", receiver)
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file", filepath.Join(dir, "config.yml"), "--storage.path", dir, "--web.listen-address", address, "--cluster.listen-address", "",
		"--web.route-prefix", "/prefix", "--log.level", "error")
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, as asked
	})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		answer, err := http.Get("http://" + address + "/prefix/-/ready")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("Alertmanager is not ready: %v", err)
		}
	}
}
