package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tributary/collector/config"
	"tributary/collector/query"
	"tributary/service/tlsconf/tlstest"
)

// TestTwoRegions: two collectors, each its own region. The one asks the other over mutual TLS, and gets an answer only if it may ask.
func TestTwoRegions(t *testing.T) {
	dir := t.TempDir()
	authority := tlstest.New(t, "corp")
	make := func(region string) *config.Config {
		cfg := base(t)
		files := filepath.Join(dir, region)
		if err := os.Mkdir(files, 0o700); err != nil {
			t.Fatal(err)
		}
		authority.Issue(files, "collector-"+region)
		cfg.Region = region
		cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA = tlstest.Files(files)
		return cfg
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	us, eu, asia := make("us"), make("eu"), make("asia")
	us.Assignments = write("assignments.yaml", "assignments: [{workload: edge/lb, addresses: [10.64.0.1], from: 2026-01-01T00:00:00Z}]\n")
	us.ResolveAllowed = []string{"collector-e*"}
	table := fmt.Sprintf("regions: [{region: us, prefixes: [10.64.0.0/10], collectors: ['%s']}]\n", us.Listen)
	eu.Regions, asia.Regions = write("eu.yaml", table), write("asia.yaml", table)
	for _, cfg := range []*config.Config{us, eu, asia} {
		serve(t, cfg)
	}
	whois := func(cfg *config.Config, addr string) string {
		t.Helper()
		q := url.Values{"address": {addr}, "at": {time.Now().Add(-2 * time.Second).Format(time.RFC3339Nano)}}
		get(t, "http://"+cfg.APIListen+query.WhoisPath+"?address=192.0.2.1") // it is up
		r, err := http.Get("http://" + cfg.APIListen + query.WhoisPath + "?" + q.Encode())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var a query.WhoisAnswer
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil || len(a.Answers) != 1 {
			t.Fatalf("%v %+v", err, a)
		}
		o := a.Answers[0]
		return fmt.Sprintf("%s %s %s %s", o.Workload, o.Region, o.Evidence, o.Why)
	}
	want := "edge/lb us assignment named"
	got := ""
	for end := time.Now().Add(60 * time.Second); got != want && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		got = whois(eu, "10.64.0.1")
	}
	if got != want {
		t.Errorf("the region that may ask: %q, want %q", got, want)
	}
	if got := whois(asia, "10.64.0.1"); got != " us none peer_region_down" {
		t.Errorf("the region that may not ask: %q", got)
	}
	if got := whois(us, "10.64.0.1"); got != "edge/lb  assignment named" {
		t.Errorf("the region itself: %q", got)
	}
}

// TestRegionsNeedTLS: nobody is asked without a certificate, and nobody answers without knowing who asks.
func TestRegionsNeedTLS(t *testing.T) {
	for name, set := range map[string]func(*config.Config){
		"no region": func(c *config.Config) { c.Regions = "f" },
		"no TLS":    func(c *config.Config) { c.Region, c.Regions = "eu", "f" },
		"no client": func(c *config.Config) { c.ResolveAllowed = []string{"*"} },
	} {
		cfg := base(t)
		if set(cfg); cfg.Validate() == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
