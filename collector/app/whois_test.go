package app

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tributary/collector/config"
	"tributary/collector/ownership"
	"tributary/collector/query"
	"tributary/deploy/dev/ports"
)

// TestWhois claims an address for one workload, moves it to another, and asks over HTTP before, at and after the move.
func TestWhois(t *testing.T) {
	cfg := config.Default()
	cfg.APIListen = ports.Address(t)
	c := &collector{cfg: &cfg, table: ownership.New(ownership.Config{}), failed: make(chan error, 1)}
	if err := c.startAPI(t.Context(), http.NotFoundHandler()); err != nil {
		t.Fatal(err)
	}
	defer c.stopForTest(t)
	now := time.Now()
	addr := ownership.AddrFrom(netip.MustParseAddr("10.7.0.1"))
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	claim := func(exporter, workload string, from int64) {
		err := c.table.Claim(&ownership.Claim{
			Exporter: exporter, Host: exporter, Network: "lab", Addr: addr, From: from, Owner: ownership.Owner{Workload: workload, Instance: workload + "-1"},
		}, now.UnixNano())
		if err != nil {
			t.Fatal(err)
		}
	}
	watermark := func(exporter string, at int64) {
		if err := c.table.Watermark(&ownership.Watermark{Exporter: exporter, Host: exporter, VerifiedTo: at, ReceivedAt: now.UnixNano()}); err != nil {
			t.Fatal(err)
		}
	}
	claim("e1", "shop/old", ago(60*time.Second))
	watermark("e1", ago(31*time.Second))
	if err := c.table.Release(&ownership.Release{Exporter: "e1", Network: "lab", Addr: addr, At: ago(30 * time.Second)}, now.UnixNano()); err != nil {
		t.Fatal(err)
	}
	claim("e2", "shop/new", ago(25*time.Second))
	watermark("e2", now.UnixNano())
	for at, want := range map[time.Duration]string{50 * time.Second: "shop/old", 27 * time.Second: "", 10 * time.Second: "shop/new"} {
		q := url.Values{"address": {"10.7.0.1"}, "at": {now.Add(-at).Format(time.RFC3339Nano)}}
		r, err := http.Get("http://" + cfg.APIListen + query.WhoisPath + "?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		var answer query.WhoisAnswer
		err = json.NewDecoder(r.Body).Decode(&answer)
		r.Body.Close()
		if err != nil || len(answer.Answers) != 1 || answer.Answers[0].Workload != want || len(answer.Ranges) != 2 {
			t.Errorf("%s ago: %v %+v, want %q", at, err, answer, want)
		}
	}
	port := &ownership.Claim{
		Exporter: "e2", Host: "e2", Network: "lab", Addr: ownership.AddrFrom(netip.MustParseAddr("10.7.0.2")), PortFrom: 100, PortTo: 199,
		From: ago(20 * time.Second), Owner: ownership.Owner{Workload: "shop/part"},
	}
	if err := c.table.Claim(port, now.UnixNano()); err != nil {
		t.Fatal(err)
	}
	watermark("e1", now.UnixNano())
	for question, want := range map[string]string{
		"address=10.7.0.2&port=150": "shop/part named", "address=10.7.0.2&port=80": " no_evidence", "address=10.7.0.9": " no_evidence",
		"address=8.8.8.8": " external",
	} {
		r, err := http.Get("http://" + cfg.APIListen + query.WhoisPath + "?at=" + url.QueryEscape(now.Add(-10*time.Second).Format(time.RFC3339)) + "&" + question)
		if err != nil {
			t.Fatal(err)
		}
		var answer query.WhoisAnswer
		err = json.NewDecoder(r.Body).Decode(&answer)
		r.Body.Close()
		if err != nil || len(answer.Answers) != 1 || answer.Answers[0].Workload+" "+answer.Answers[0].Why != want {
			t.Errorf("%s: %v %+v, want %q", question, err, answer, want)
		}
	}
	for _, bad := range []string{
		"?address=10.7.0.1&port=70000", "?address=x", "?address=10.7.0.1&at=yesterday", "?address=10.7.0.1&at=9999-12-31T23:59:59Z", "?address=10.7.0.1&at=0001-01-01T00:00:00Z", "",
	} {
		r, err := http.Get("http://" + cfg.APIListen + query.WhoisPath + bad)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusBadRequest {
			t.Errorf("%q: %s", bad, r.Status)
		}
	}
	r, err := http.NewRequest(http.MethodGet, "http://"+cfg.APIListen+query.WhoisPath+"?address=10.7.0.1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Origin", "http://evil.example")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a page of another site gets %s", answer.Status)
	}
}

func (c *collector) stopForTest(t *testing.T) {
	t.Helper()
	c.stop()
	if len(c.failed) > 0 {
		t.Error(<-c.failed)
	}
}

// TestAssignmentsFromFileAndAPI: what a file and the API say is named, marked as assignment, beside each other.
func TestAssignmentsFromFileAndAPI(t *testing.T) {
	cfg := base(t)
	file := filepath.Join(t.TempDir(), "assignments.yaml")
	since := time.Now().Add(-time.Hour).Format(time.RFC3339)
	if err := os.WriteFile(file, []byte("assignments:\n  - workload: edge/lb\n    addresses: [10.9.0.1]\n    from: "+since+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Assignments = file
	serve(t, cfg)
	get(t, "http://"+cfg.APIListen+"/v1/assignments")
	token, err := os.ReadFile(filepath.Join(cfg.Data, "assignments.token"))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"assignments": [{"workload": "edge/gateway", "addresses": ["10.9.0.2"], "from": "` + since + `"}]}`
	r, err := http.NewRequest(http.MethodPut, "http://"+cfg.APIListen+"/v1/assignments", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	answer, err := http.DefaultClient.Do(r)
	if err != nil || answer.StatusCode != http.StatusNoContent {
		t.Fatalf("PUT: %v %v", answer, err)
	}
	answer.Body.Close()
	at := time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	for addr, want := range map[string]string{"10.9.0.1": "edge/lb", "10.9.0.2": "edge/gateway"} {
		var text string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if _, text = get(t, "http://"+cfg.APIListen+query.WhoisPath+"?address="+addr+"&at="+at); strings.Contains(text, `"workload":"`+want+`"`) && strings.Contains(text, `"evidence":"assignment"`) {
				break
			}
		}
		if !strings.Contains(text, `"workload":"`+want+`"`) || !strings.Contains(text, `"evidence":"assignment"`) {
			t.Errorf("%s: %s", addr, text)
		}
	}
}
