package config

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"tributary/service/config"
)

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string // "" for valid
	}{
		"default":             {func(*Config) {}, ""},
		"no port":             {func(c *Config) { c.Collector = "collector" }, "--collector"},
		"no host":             {func(c *Config) { c.Collector = ":4747" }, "--collector"},
		"open metrics":        {func(c *Config) { c.MetricsListen = "0.0.0.0:9748" }, "--metrics-listen"},
		"open by consent":     {func(c *Config) { c.MetricsListen, c.Insecure = "0.0.0.0:9748", true }, ""},
		"open with TLS":       {func(c *Config) { c.MetricsListen, c.TLS = "0.0.0.0:9748", TLS{Cert: "c", Key: "k"} }, ""},
		"half a pair":         {func(c *Config) { c.TLS.Cert = "c" }, "--tls-key"},
		"netns":               {func(c *Config) { c.Scope = ScopeNetns }, ""},
		"cgroup":              {func(c *Config) { c.Scope, c.Cgroup = ScopeCgroup, "/shop" }, ""},
		"own cgroup":          {func(c *Config) { c.Scope = ScopeCgroup }, ""},
		"idle cgroup":         {func(c *Config) { c.Cgroup = "/shop" }, "--scope cgroup"},
		"scope":               {func(c *Config) { c.Scope = "pod" }, `--scope "pod"`},
		"network":             {func(c *Config) { c.Network = "" }, "--network"},
		"control bytes":       {func(c *Config) { c.Zone = "a\x00b" }, "--zone"},
		"long name":           {func(c *Config) { c.Region = strings.Repeat("x", 257) }, "--region"},
		"workload":            {func(c *Config) { c.Workload = "api" }, "NAMESPACE/NAME"},
		"static":              {func(c *Config) { c.Workload, c.Instance = "payments/api", "api-1" }, ""},
		"only instance":       {func(c *Config) { c.Instance = "api-1" }, "--workload"},
		"rows":                {func(c *Config) { c.BatchRows = 1 << 20 }, "--batch-rows"},
		"age":                 {func(c *Config) { c.BatchAge = time.Hour }, "--batch-age"},
		"spool":               {func(c *Config) { c.Spool.MaxBytes = 1 }, "--spool-max-bytes"},
		"spool's memory":      {func(c *Config) { c.Spool.MemoryBytes = 1 }, "--spool-memory-bytes"},
		"spool's age":         {func(c *Config) { c.Spool.MaxAge = time.Second }, "--spool-max-age"},
		"codec":               {func(c *Config) { c.Compression = "gzip" }, "--compression"},
		"ring":                {func(c *Config) { c.RingBytes = 100_000 }, "--ring-bytes"},
		"sockets":             {func(c *Config) { c.OpenSockets = 0 }, "--open-sockets"},
		"udp":                 {func(c *Config) { c.Ways.Order = []string{"udp", "https"} }, ""},
		"udp falls back":      {func(c *Config) { c.Ways.Order = []string{"grpc", "udp"} }, "nothing falls back to it"},
		"udp's address":       {func(c *Config) { c.Ways.UDP = "collector" }, "--collector-udp"},
		"kubernetes":          {func(c *Config) { c.Kubernetes = Kubernetes{true, "k.yaml", "node-1.example"} }, ""},
		"two sources of pods": {func(c *Config) { c.Kubernetes.Enabled, c.Pods = true, "pods.json" }, "--pods"},
		"idle kubeconfig":     {func(c *Config) { c.Kubernetes.Kubeconfig = "k.yaml" }, "--kubernetes"},
		"idle node":           {func(c *Config) { c.Kubernetes.NodeName = "n" }, "--kubernetes"},
		"node's name":         {func(c *Config) { c.Kubernetes = Kubernetes{true, "", "n,metadata.name=x"} }, "--node-name"},
		"pods of a sidecar":   {func(c *Config) { c.Scope, c.Kubernetes.Enabled = ScopeNetns, true }, "--scope"},
		"shutdown":            {func(c *Config) { c.ShutdownTimeout = -1 }, "--shutdown-timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Default()
			c.change(&config)
			err := config.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestEncrypted(t *testing.T) {
	for _, c := range []struct {
		collector string
		insecure  bool
		tls       TLS
		want      bool
	}{
		{"127.0.0.1:4747", false, TLS{}, false},
		{"[::1]:4747", false, TLS{}, false},
		{"localhost:4747", false, TLS{}, false},
		{"localhost:4747", false, TLS{CA: "ca"}, true},
		{"collector.example:4747", false, TLS{}, true},
		{"10.0.0.1:4747", true, TLS{}, false},
		{"10.0.0.1:4747", true, TLS{CA: "ca"}, true},
	} {
		config := Config{Collector: c.collector, Insecure: c.insecure, TLS: c.tls}
		if got := config.Encrypted(); got != c.want {
			t.Errorf("%+v: %v, want %v", c, got, c.want)
		}
	}
}

// TestContract holds the flags of DESIGN §12 and that each key has its three ways in.
func TestContract(t *testing.T) {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	c := Default()
	loader := config.NewLoader("TRIBUTARY_EXPORTER", flags).WithEnviron([]string{"TRIBUTARY_EXPORTER_COLLECTOR=c:1", "TRIBUTARY_EXPORTER_TLS_CA=a.pem"})
	loader.Bind(&c)
	for _, name := range strings.Fields("collector scope identity network tls-ca tls-cert tls-key config check dump insecure metrics-listen") {
		if flags.Lookup(name) == nil {
			t.Errorf("there is no flag --%s", name)
		}
	}
	if err := flags.Parse([]string{"--batch-age", "100ms"}); err != nil {
		t.Fatal(err)
	}
	if err := loader.Load(); err != nil {
		t.Fatal(err)
	}
	if c.Collector != "c:1" || c.TLS.CA != "a.pem" || c.BatchAge != 100*time.Millisecond || c.Network != "default" {
		t.Errorf("%+v", c)
	}
}
