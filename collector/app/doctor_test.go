package app

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tributary/deploy/dev/ports"
	"tributary/service/tlsconf/tlstest"
)

// TestDoctor: what is wrong is said in a line of its own, and only what serve cannot do without is an error.
func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	tlstest.New(t, "corp").Issue(dir, "collector")
	cfg := base(t)
	cfg.Region = "eu"
	cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA = tlstest.Files(dir)
	cfg.Regions = filepath.Join(dir, "regions.yaml")
	table := fmt.Sprintf("regions: [{region: us, prefixes: [10.64.0.0/10], collectors: ['%s']}]\n", ports.Address(t))
	if err := os.WriteFile(cfg.Regions, []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	say := func() (string, error) {
		var out bytes.Buffer
		err := diagnose(t.Context(), cfg, &out)
		return out.String(), err
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is missing in:\n%s", want, text)
			}
		}
	}
	text, err := say()
	if err != nil {
		t.Error(err)
	}
	has(text, "ok    certificate", "ok    the certificate holds until", "ok    clients must show a certificate of "+cfg.TLSClientCA, "can be written", "warn  the store at ", "warn  region us does not answer", "warn  no collector runs")
	serve(t, cfg)
	get(t, "http://"+cfg.MetricsListen+"/healthz")
	text, err = say()
	if err != nil {
		t.Error(err)
	}
	has(text, "warn  the running collector is not ready: ", "ok    its metrics show nothing wrong")
	cfg.Regions = filepath.Join(dir, "missing.yaml")
	cfg.TLSKey = cfg.Regions
	if text, err = say(); !errors.Is(err, errDoctor) {
		t.Error(err)
	}
	has(text, "FAIL  regions ", "FAIL  ")
}

// TestDoctorCannotAsk: what answers, and is not understood, is not taken for nothing.
func TestDoctorCannotAsk(t *testing.T) {
	cfg := base(t)
	l, err := net.Listen("tcp", cfg.MetricsListen)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	var out bytes.Buffer
	if err := diagnose(t.Context(), cfg, &out); err != nil {
		t.Error(err)
	}
	if text := out.String(); !strings.Contains(text, "warn  what runs at --metrics-listen cannot be asked: ") || strings.Contains(text, "no collector runs") {
		t.Error(text)
	}
}

func TestTrouble(t *testing.T) {
	for line, want := range map[string]string{
		`tributary_collector_region_down{region="us-1"} 1`:                               "region us-1 does not answer",
		`tributary_collector_region_down{region="us-1"} 0`:                               "",
		`tributary_collector_ownership_bad_clock_exporters 3`:                            "3 exporters have a clock",
		`tributary_collector_ingest_claims_total{result="not_allowed"} 12`:               "12 claims were refused",
		`tributary_collector_ingest_claims_total{result="accepted"} 12`:                  "",
		`tributary_collector_assignment_loads_total{result="error",source="file"} 1e+06`: "1000000 versions",
		`# HELP tributary_collector_region_down 1 while a region`:                        "",
		`x`: "",
	} {
		if got := trouble(line); got != want && (want == "" || !strings.HasPrefix(got, want)) {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

// TestTroublesExist: doctor reads series that a collector has.
func TestTroublesExist(t *testing.T) {
	cfg := base(t)
	dir := t.TempDir()
	tlstest.New(t, "corp").Issue(dir, "collector")
	cfg.Region, cfg.Regions, cfg.ResolveAllowed = "eu", filepath.Join(dir, "regions.yaml"), []string{"*"}
	cfg.TLSCert, cfg.TLSKey, cfg.TLSClientCA = tlstest.Files(dir)
	cfg.Kafka = ports.Address(t)
	if err := os.WriteFile(cfg.Regions, []byte("regions: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, cfg)
	get(t, "http://"+cfg.APIListen+"/v1/whois?address=192.0.2.1") // everything has started
	_, metrics := get(t, "http://"+cfg.MetricsListen+"/metrics")
	for series := range troubles {
		if !strings.Contains(metrics, "\n"+series+" ") {
			t.Errorf("there is no %s", series)
		}
	}
}
