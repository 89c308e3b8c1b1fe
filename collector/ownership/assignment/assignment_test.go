package assignment

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
)

// rig is a source with a real book and table.
type rig struct {
	*Source
	t     *testing.T
	table *ownership.Table
	reg   *prometheus.Registry
}

func newRig(t *testing.T, kind string) *rig {
	t.Helper()
	r := &rig{t: t, table: ownership.New(ownership.Config{}), reg: prometheus.NewRegistry()}
	book, err := session.New(100, r.table, nil)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := NewMetrics(r.reg)
	if err != nil {
		t.Fatal(err)
	}
	r.Source = New(kind, "n1", book, func() {}, metrics, slog.New(slog.NewTextHandler(t.Output(), nil)))
	return r
}

// owner asks who had an address at a time.
func (r *rig) owner(addr string, port uint16, at time.Time) string {
	r.t.Helper()
	for range 5 { // a new clock is not trusted to the millisecond
		now := time.Now().UnixNano()
		r.step(now, now)
	}
	now := time.Now().UnixNano()
	v := r.table.View(now)
	a := v.Lookup(r.table.Network("default"), ownership.AddrFrom(netip.MustParseAddr(addr)), port, at.UnixNano(), int64(time.Millisecond))
	if a.Owner == nil {
		return a.Why.String()
	}
	if !a.Owner.Assigned {
		r.t.Errorf("%s is not marked as assigned", addr)
	}
	return a.Owner.Workload
}

func (r *rig) counter(name string) float64 {
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			id := strings.TrimPrefix(f.GetName(), "tributary_collector_assignment_")
			for _, l := range m.GetLabel() {
				id += " " + l.GetValue()
			}
			if id == name {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	r.t.Fatalf("no metric %s", name)
	return 0
}

func parse(t *testing.T, text string, args ...any) []Entry {
	t.Helper()
	entries, err := Parse("test", fmt.Appendf(nil, text, args...))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestAssignmentsInTime(t *testing.T) {
	r := newRig(t, File)
	now := time.Now()
	stamp := func(ago time.Duration) string { return now.Add(-ago).Format(time.RFC3339Nano) }
	r.Set("", parse(t, `
assignments:
  - {workload: edge/old, addresses: [10.9.0.1], from: %s, to: %s}
  - {workload: edge/lb, addresses: [10.9.0.1, "fd00::1"], from: %s}
  - {workload: edge/later, addresses: [10.9.0.2], from: %s}
  - {workload: edge/https, addresses: [10.9.0.3], ports: 443, from: %s}
  - {workload: edge/ssh, addresses: [10.9.0.3], ports: 20-29, from: %s}
  - {workload: edge/now, addresses: [10.9.0.4]}
`, stamp(time.Hour), stamp(30*time.Minute), stamp(30*time.Minute), stamp(-time.Hour), stamp(time.Hour), stamp(time.Hour)), now.Add(-time.Second))
	for _, c := range []struct {
		addr string
		port uint16
		ago  time.Duration
		want string
	}{
		{"10.9.0.1", 0, 45 * time.Minute, "edge/old"},
		{"10.9.0.1", 0, time.Minute, "edge/lb"},
		{"fd00::1", 0, time.Minute, "edge/lb"},
		{"10.9.0.1", 0, 2 * time.Hour, "no_evidence"},
		{"10.9.0.2", 0, time.Minute, "no_evidence"},
		{"10.9.0.3", 443, time.Minute, "edge/https"},
		{"10.9.0.3", 22, time.Minute, "edge/ssh"},
		{"10.9.0.3", 80, time.Minute, "no_evidence"},
		{"10.9.0.4", 0, 500 * time.Millisecond, "edge/now"},
		{"10.9.0.4", 0, time.Minute, "no_evidence"},
	} {
		if got := r.owner(c.addr, c.port, now.Add(-c.ago)); got != c.want {
			t.Errorf("%s:%d %s ago: %s, want %s", c.addr, c.port, c.ago, got, c.want)
		}
	}
	// The same again changes nothing; what is left out ends.
	refused := r.table.Stats().Refused
	r.Set("", parse(t, `assignments: [{workload: edge/lb, addresses: [10.9.0.1], from: %s}]`, stamp(30*time.Minute)), now)
	time.Sleep(5 * time.Millisecond)
	if got := r.owner("10.9.0.1", 0, now.Add(-time.Minute)); got != "edge/lb" {
		t.Errorf("said again: %s", got)
	}
	if got := r.owner("fd00::1", 0, time.Now().Add(-2*time.Millisecond)); got == "edge/lb" {
		t.Errorf("left out: %s", got)
	}
	if got := r.owner("fd00::1", 0, now.Add(-time.Minute)); got != "edge/lb" {
		t.Errorf("left out, before: %s", got)
	}
	for reason, n := range r.table.Stats().Refused {
		if n != refused[reason] {
			t.Errorf("%s refused", reason)
		}
	}
}

func TestRefusedDocuments(t *testing.T) {
	for name, text := range map[string]string{
		"not YAML":           "assignments: [{",
		"cut in the middle":  "assignments:\n  - workload: edge/lb\n    addr",
		"unknown key":        "assignments: [{workload: a, address: 10.0.0.1}]",
		"no workload":        "assignments: [{addresses: [10.0.0.1]}]",
		"no address":         "assignments: [{workload: a}]",
		"no such address":    "assignments: [{workload: a, addresses: [10.0.0.256]}]",
		"everything":         "assignments: [{workload: a, addresses: [0.0.0.0]}]",
		"a prefix":           "assignments: [{workload: a, addresses: [10.0.0.0/8]}]",
		"multicast":          "assignments: [{workload: a, addresses: [224.0.0.1]}]",
		"long name":          "assignments: [{workload: " + strings.Repeat("a", 10_000) + ", addresses: [10.0.0.1]}]",
		"control characters": `assignments: [{workload: "a\u0007b", addresses: [10.0.0.1]}]`,
		"ports":              "assignments: [{workload: a, addresses: [10.0.0.1], ports: 70000}]",
		"ports backwards":    "assignments: [{workload: a, addresses: [10.0.0.1], ports: 20-10}]",
		"to before from":     "assignments: [{workload: a, addresses: [10.0.0.1], from: 2026-01-02T00:00:00Z, to: 2026-01-01T00:00:00Z}]",
		"two owners":         "assignments: [{workload: a, addresses: [10.0.0.1]}, {workload: b, addresses: [10.0.0.1]}]",
		"two at one time":    "assignments: [{workload: a, addresses: [10.0.0.1]}, {workload: b, addresses: [10.0.0.1], from: 2026-01-01T00:00:00Z}]",
		"two documents":      "assignments: []\n---\nassignments: []\n",
	} {
		if entries, err := Parse("f", []byte(text)); err == nil || strings.Contains(err.Error(), "\n") || len(err.Error()) > 300 {
			t.Errorf("%s: %v %v", name, entries, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("assignments: [{workload: a, addresses: [10.0.0.1], ports: 1-2, from: 2026-01-02T00:00:00Z}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := Parse("f", data)
		if err != nil {
			return
		}
		again, err := json.Marshal(Document{entries})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("g", again); err != nil {
			t.Fatalf("%s does not read what it wrote: %v", again, err)
		}
	})
}

func TestAPI(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, API)
	h, err := NewHandler(r.Source, dir)
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(filepath.Join(dir, tokenFile)); info.Mode().Perm() != 0o600 {
		t.Errorf("the token's mode is %s", info.Mode())
	}
	ask := func(h http.Handler, method, token, body string) (int, string) {
		q := httptest.NewRequest(method, Path, strings.NewReader(body))
		if token != "" {
			q.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		text, _ := io.ReadAll(w.Body)
		return w.Code, string(text)
	}
	good := strings.TrimSpace(string(token))
	body := `{"assignments": [{"workload": "edge/lb", "addresses": ["10.9.0.1"]}]}`
	for _, c := range []struct {
		method, token, body string
		code                int
	}{
		{"PUT", "", body, 401},
		{"PUT", "wrong", body, 401},
		{"PUT", good, "{", 400},
		{"PUT", good, `{"assignments": [{"workload": "x"}]}`, 400},
		{"DELETE", good, "", 405},
		{"POST", good, body, 405},
		{"PUT", good, body, 204},
		{"GET", "", "", 200},
	} {
		if code, text := ask(h, c.method, c.token, c.body); code != c.code {
			t.Errorf("%s %q: %d %s", c.method, c.body, code, text)
		}
	}
	time.Sleep(5 * time.Millisecond)
	before := time.Now().Add(-2 * time.Millisecond)
	if got := r.owner("10.9.0.1", 0, before); got != "edge/lb" {
		t.Errorf("told by the API: %s", got)
	}
	if code, _ := ask(h, "PUT", good, strings.Replace(body, `]}]`, `]}, {"workload": "edge/two", "addresses": ["10.9.0.2"]}]`, 1)); code != 204 {
		t.Errorf("a second PUT: %d", code)
	}
	// After a restart the same is known, since the same time.
	r2 := newRig(t, API)
	if _, err := NewHandler(r2.Source, dir); err != nil {
		t.Fatal(err)
	}
	if got := r2.owner("10.9.0.1", 0, before); got != "edge/lb" {
		t.Errorf("after a restart: %s", got)
	}
	if _, err := NewHandler(newRig(t, API).Source, ""); err == nil {
		t.Error("without a directory nothing is kept")
	}
}

// TestTopic: entries come and go by their keys; a bad one leaves its entry, a contradiction leaves both out.
func TestTopic(t *testing.T) {
	r := newRig(t, Kafka)
	topic := NewTopic(r.Source)
	at := time.Now().Add(-time.Minute)
	topic.Set("a", []byte(`{"workload": "edge/a", "addresses": ["10.9.0.1"]}`), at)
	topic.Set("b", []byte(`{"workload": "edge/b", "addresses": ["10.9.0.2"]}`), at)
	topic.Set("b", []byte(`{"workload": "edge/b", "addr`), at)
	topic.Whole()
	look := time.Now().Add(-10 * time.Second)
	if one, two := r.owner("10.9.0.1", 0, look), r.owner("10.9.0.2", 0, look); one != "edge/a" || two != "edge/b" {
		t.Errorf("%s %s", one, two)
	}
	if n := r.counter("loads_total error kafka"); n != 1 {
		t.Errorf("%v errors", n)
	}
	topic.Set("b", nil, time.Now())
	topic.Set("c", []byte(`{"workload": "edge/c", "addresses": ["10.9.0.1"]}`), at)
	topic.Whole()
	if n := r.counter("refused_total conflict kafka"); n != 2 {
		t.Errorf("%v contradictions", n)
	}
	time.Sleep(5 * time.Millisecond)
	last := time.Now().Add(-2 * time.Millisecond)
	if one, two := r.owner("10.9.0.1", 0, last), r.owner("10.9.0.2", 0, last); one == "edge/a" || one == "edge/c" || two == "edge/b" {
		t.Errorf("after a contradiction and a withdrawal: %s %s", one, two)
	}
	topic.Set("a", nil, time.Now())
	topic.Whole()
	time.Sleep(5 * time.Millisecond)
	if got := r.owner("10.9.0.1", 0, time.Now().Add(-3*time.Millisecond)); got != "edge/c" && got != "gap" {
		t.Errorf("the contradiction is over: %s", got)
	}
}

// TestTopicIsBounded: any number of keys costs a bounded amount of memory.
func TestTopicIsBounded(t *testing.T) {
	r := newRig(t, Kafka)
	topic := NewTopic(r.Source)
	topic.total = maxAddresses - 1 // of other keys
	says := func(key, text string, total, changed int, refused float64) {
		t.Helper()
		topic.Set(key, []byte(text), time.Now())
		if n := r.counter("refused_total too_many kafka"); n != refused || topic.total != total || len(topic.changed) != changed {
			t.Errorf("%s: %v refused, %d kept, %d keys changed", key, n, topic.total, len(topic.changed))
		}
	}
	says("a", `{"workload": "edge/a", "addresses": ["10.9.0.1"]}`, maxAddresses, 1, 0)
	says("b", `{"workload": "edge/b", "addresses": ["10.9.0.2"]}`, maxAddresses, 1, 1)
	says("a", `{"workload": "edge/c", "addresses": ["10.9.0.1", "10.9.0.3"]}`, maxAddresses-1, 1, 3) // what it said before holds no more either
	says("b", `{"workload": "edge/b", "addresses": ["10.9.0.2"]}`, maxAddresses, 2, 3)
	says("nobody", "", maxAddresses, 2, 3)
}
