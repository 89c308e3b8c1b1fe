package config_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"tributary/collector/config"
	programconfig "tributary/service/config"
)

func load(t *testing.T, environ []string, args ...string) (config.Config, error) {
	t.Helper()
	cfg := config.Default()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	l := programconfig.NewLoader(config.EnvPrefix, flags).WithEnviron(environ)
	l.Bind(&cfg)
	if err := flags.Parse(args); err != nil {
		return cfg, err
	}
	return cfg, l.Load()
}

func TestTheContractOfTheCommandLine(t *testing.T) {
	cfg, err := load(t, []string{"TRIBUTARY_COLLECTOR_HOLD_WAIT=2s"},
		"--data", "/d", "--clickhouse", "http://u:p@ch:8123/flows", "--kafka", "a:1, b:2", "--internal", "10.0.0.0/8,fd00::/8",
		"--listen", "0.0.0.0:4747", "--metrics-listen", "127.0.0.1:1", "--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "ca")
	if err != nil {
		t.Fatal(err)
	}
	if k := cfg.KafkaConfig().Brokers; len(k) != 2 || k[1] != "b:2" || len(cfg.Internal) != 2 || cfg.Hold.Wait != 2*time.Second {
		t.Fatalf("%+v", cfg)
	}
}

func TestRefused(t *testing.T) {
	for say, args := range map[string][]string{
		"both none":                     {"--clickhouse", "none"},
		"no sink is required":           {"--clickhouse-delivery", "best_effort"},
		"kafka_delivery is":             {"--kafka-delivery", "perhaps"},
		"best_effort_max_bytes is 1":    {"--best-effort-max-bytes", "1"},
		"best_effort_max_age is 1s":     {"--best-effort-max-age", "1s"},
		"needs a directory":             {"--data", ""},
		"is written http://":            {"--clickhouse", "ftp://x"},
		`"a" is not host:port`:          {"--kafka", "a"},
		"kubeconfig needs":              {"--kubeconfig", "k.yaml"},
		"kubernetes_network":            {"--kubernetes-network", ""},
		"has no TLS":                    {"--listen", "0.0.0.0:4747"},
		"--https-listen :4748 is open":  {"--https-listen", ":4748"},
		"--udp-listen :4749 is open":    {"--udp-listen", ":4749"},
		"--api-listen :8747 is open":    {"--api-listen", ":8747"},
		"go together":                   {"--tls-cert", "x"},
		"tls_client_ca needs":           {"--tls-client-ca", "x"},
		"hold_wait is 5s":               {"--hold-wait", "5s"},
		"stream_life is 1s":             {"--stream-life", "1s"},
		"hold_tolerance":                {"--hold-tolerance", "-1s"},
		"at least 1048576":              {"--pending-bytes", "1"},
		"alertmanager and":              {"--alertmanager", "http://a:9093,b:9093"},
		"alert_webhook take":            {"--alert-webhook", "hooks.example"},
		"reachability_every is 1ms":     {"--reachability-every", "1ms"},
		"reachability_open_after":       {"--reachability-open-after", "1s"},
		"reachability_close_after":      {"--reachability-close-after", "1h"},
		"alert_repeat":                  {"--alert-repeat", "0s"},
		"alert_group_wait":              {"--alert-group-wait", "-1s"},
		"unknown flag: --colector-list": {"--colector-list"},
	} {
		if _, err := load(t, nil, args...); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%v: %v, want %q", args, err, say)
		}
	}
	if _, err := load(t, nil); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	if _, err := load(t, nil, "--listen", "0.0.0.0:4747", "--insecure"); err != nil {
		t.Errorf("--insecure: %v", err)
	}
}
