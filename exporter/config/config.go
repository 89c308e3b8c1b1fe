// Package config is the exporter's configuration: its keys, their defaults and what is right about them. How keys become flags,
// environment variables and a file is service/config's. The room opens nothing and starts nothing.
package config

import (
	"fmt"
	"math"
	"net"
	"regexp"
	"strings"
	"time"

	"tributary/exporter/batch"
	"tributary/exporter/filter"
	"tributary/service/tlsconf"
)

// The scopes of capture.
const (
	ScopeHost  = "host"  // every network namespace
	ScopeNetns = "netns" // the exporter's own network namespace: a sidecar
	// ScopeCgroup is a cgroup with all below it: a sidecar that shares the host's network.
	ScopeCgroup = "cgroup"
)

// The modes of capture.
const (
	CaptureAuto     = "auto"    // tracing, or sock_diag where the kernel does not allow it
	CaptureTracing  = "tracing" // BPF programs
	CaptureSockDiag = "sock_diag"
)

// Codecs of batches.
const (
	CompressionZstd = "zstd"
	CompressionNone = "none"
)

// TLS names PEM files for the connection to the collector.
type TLS struct {
	CA         string `yaml:"tls_ca" usage:"PEM file with the authorities of the collector's certificate; without it the system's"`
	Cert       string `yaml:"tls_cert" usage:"PEM file with the certificate the exporter shows"`
	Key        string `yaml:"tls_key" usage:"PEM file with the key of --tls-cert"`
	ServerName string `yaml:"tls_server_name" usage:"name in the collector's certificate; without it the host of --collector"`
}

// Spool bounds the sealed batches that are not yet acknowledged. Beyond a bound the oldest are dropped and counted.
type Spool struct {
	Dir         string        `yaml:"spool_dir" usage:"directory of batches that are not yet acknowledged; empty: in memory only, and a kill loses them"`
	MaxBytes    int64         `yaml:"spool_max_bytes" usage:"disk for batches that are not yet acknowledged"`
	MaxAge      time.Duration `yaml:"spool_max_age" usage:"age at which a batch is given up; below the time for which the store keeps flows"`
	MemoryBytes int64         `yaml:"spool_memory_bytes" usage:"memory for these batches while they cannot be on disk"`
}

// Kubernetes is how the Kubernetes API names the pods of this host.
type Kubernetes struct {
	Enabled    bool   `yaml:"kubernetes" usage:"name this node's pods by the Kubernetes API: with the pod's own service account, or as --kubeconfig says"`
	Kubeconfig string `yaml:"kubeconfig" usage:"with --kubernetes: kubeconfig file that says how to reach the API"`
	NodeName   string `yaml:"node_name" usage:"with --kubernetes: this host's name as a node; default: the host's name"`
}

// maxNodeName bounds the name of a node as the API does.
const maxNodeName = 253

func (c *Config) checkKubernetes() error {
	k := c.Kubernetes
	odd := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' }
	switch {
	case len(k.NodeName) > maxNodeName || strings.ContainsFunc(k.NodeName, odd):
		return fmt.Errorf("--node-name %.64q is no name of a node, which has lower case letters, digits, dots and -", k.NodeName)
	case !k.Enabled && (k.Kubeconfig != "" || k.NodeName != ""):
		return fmt.Errorf("--kubeconfig and --node-name need --kubernetes")
	case k.Enabled && c.Pods != "":
		return fmt.Errorf("--kubernetes and --pods both name the pods of this host: give one of them")
	case k.Enabled && c.Scope == ScopeNetns:
		return fmt.Errorf("--kubernetes needs --scope host or cgroup: with --scope netns say who this is with --workload and --instance")
	}
	return nil
}

// Ways are the ways to the collector.
type Ways struct {
	Order      []string      `yaml:"transports" usage:"ways to the collector, best first: grpc, https. udp, first or not at all, sends batches by datagram, acknowledged to nobody, beside the next way in the list"`
	HTTPS      string        `yaml:"collector_https" usage:"URL of the collector's HTTPS ingest, or of a proxy before it; default: the host of --collector, port 4748"`
	UDP        string        `yaml:"collector_udp" usage:"address of the collector's UDP ingest, HOST:PORT; default: the host of --collector, port 4749"`
	Proxy      string        `yaml:"proxy" secret:"url" usage:"URL of the proxy that leads to --collector-https; default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment"`
	ProbeEvery time.Duration `yaml:"transport_probe_every" usage:"how often a better way than the present one is tried again"`
}

// Budget is what the exporter may use; over it, it leaves things out in the order of exporter/budget.
type Budget struct {
	CPUPercent  float64 `yaml:"budget_cpu_percent" usage:"processor time of the exporter and its kernel programs, percent of the host (or of what its cgroup may use), but always 0.15 of a core; 0: no bound"`
	MemoryBytes int64   `yaml:"budget_memory_bytes" usage:"memory of the exporter beside batches that are not yet acknowledged; 0: no bound"`
	SampleRate  uint32  `yaml:"budget_sample_rate" usage:"when nothing else helps, record at worst one of so many established connections; 1: never sample"`
}

// Capture is what can be changed while the exporter runs (tributary-exporter filter, settings of the collector).
type Capture struct {
	Keep        []filter.Rule `yaml:"filter_keep" usage:"rules of what is recorded, such as \"port=443 role=client\"; empty: everything"`
	Drop        []filter.Rule `yaml:"filter_drop" usage:"rules of what is left out of it"`
	SampleRate  uint32        `yaml:"sample_rate" usage:"record one of so many connections that were established; 1: all"`
	SampleSeed  uint64        `yaml:"sample_seed" usage:"exporters with the same seed sample the same connections"`
	ActiveEvery time.Duration `yaml:"active_every" usage:"how often an open connection is recorded, after the first 5 s"`
}

// Filter is what the filter is told.
func (c *Capture) Filter() filter.Settings {
	return filter.Settings{Keep: c.Keep, Drop: c.Drop, SampleRate: c.SampleRate, SampleSeed: c.SampleSeed}
}

// MaxActiveEvery bounds Capture.ActiveEvery.
const MaxActiveEvery = time.Hour

// Check says in one sentence what is wrong.
func (c *Capture) Check() error {
	s := c.Filter()
	switch {
	case c.SampleRate == 0:
		return fmt.Errorf("--sample-rate 0 would record nothing; 1 records every connection")
	case c.ActiveEvery < 5*time.Second || c.ActiveEvery > MaxActiveEvery:
		return fmt.Errorf("--active-every %v is not between 5s and 1h", c.ActiveEvery)
	}
	return s.Check()
}

// Config is everything a user can set.
type Config struct {
	Collector string `yaml:"collector" usage:"address of the collector, HOST:PORT"`
	Scope     string `yaml:"scope" usage:"what to watch: host (every network namespace), netns (the exporter's own) or cgroup (--cgroup)"`
	Cgroup    string `yaml:"cgroup" usage:"with --scope cgroup: path of the cgroup (v2) to watch, with all below it; default: the exporter's own"`
	Identity  string `yaml:"identity" usage:"YAML file that names the workloads of this host; watched while running"`
	Pods      string `yaml:"pods" usage:"file with a Kubernetes PodList (JSON) that names the pods of this host; watched while running"`
	Network   string `yaml:"network" usage:"name of the address space of this host's addresses"`

	Kubernetes Kubernetes `yaml:",inline"`

	TLS      TLS  `yaml:",inline"`
	Ways     Ways `yaml:",inline"`
	Insecure bool `yaml:"insecure" usage:"allow plain text to a collector, and metrics, beyond this host"`

	MetricsListen string `yaml:"metrics_listen" usage:"address of /metrics, /healthz and /readyz"`

	Workload string `yaml:"workload" usage:"static identity: workload (namespace/name) of what no other evidence names"`
	Instance string `yaml:"instance" usage:"static identity: instance, unique in the fleet"`
	Zone     string `yaml:"zone" usage:"zone of this host, where the identity file says none"`
	Region   string `yaml:"region" usage:"region of this host, where the identity file says none"`
	Release  string `yaml:"release" usage:"static identity: release"`

	BatchRows   int           `yaml:"batch_rows" usage:"rows of a full batch"`
	BatchAge    time.Duration `yaml:"batch_age" usage:"how long a row waits for its batch to fill"`
	Compression string        `yaml:"compression" usage:"of batches: zstd or none"`

	Spool Spool `yaml:",inline"`

	Budget Budget `yaml:",inline"`

	CaptureMode string `yaml:"capture_mode" usage:"how connections are seen: tracing (BPF programs), sock_diag (the kernel's lists of sockets, which tell less), or auto: tracing where the kernel allows it"`

	Capture Capture `yaml:",inline"`
	Socket  string  `yaml:"socket" usage:"unix socket for tributary-exporter filter; empty: none"`

	FailedConnects bool `yaml:"failed_connects" usage:"record attempts that fail before their SYN (no route, policy); costs every system call of the host some nanoseconds"`

	Conntrack bool `yaml:"conntrack" usage:"ask connection tracking where connections to virtual addresses (DNAT) really go"`

	RingBytes   int `yaml:"ring_bytes" usage:"size of the kernel's ring, a power of two"`
	OpenSockets int `yaml:"open_sockets" usage:"how many open connections are followed at once"`

	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" usage:"how long to wait for acknowledgements at the end"`
	LogLevel        string        `yaml:"log_level" usage:"debug, info, warn or error"`
	LogFormat       string        `yaml:"log_format" usage:"text or json"`
}

// Default returns the configuration of an exporter that was told nothing.
func Default() Config {
	return Config{
		Collector: "127.0.0.1:4747", Scope: ScopeHost, Network: "default", MetricsListen: "127.0.0.1:9748",
		BatchRows: 2500, BatchAge: time.Second, Compression: CompressionZstd,
		Spool:       Spool{Dir: spoolDir, MaxBytes: 256 << 20, MaxAge: 6 * time.Hour, MemoryBytes: 64 << 20},
		Ways:        Ways{Order: []string{"grpc"}, ProbeEvery: 10 * time.Minute},
		Budget:      Budget{CPUPercent: 5, MemoryBytes: 64 << 20, SampleRate: 1},
		CaptureMode: CaptureAuto,
		Capture:     Capture{SampleRate: 1, ActiveEvery: 30 * time.Second}, Socket: "/run/tributary-exporter.sock",
		FailedConnects: true, Conntrack: true, RingBytes: 1 << 20, OpenSockets: 262144,
		ShutdownTimeout: 5 * time.Second, LogLevel: "info", LogFormat: "text",
	}
}

// spoolDir is where a daemon's own data belong. Where it cannot be made the exporter goes on in memory.
const spoolDir = "/var/lib/tributary-exporter/spool"

// minSpoolBytes holds the largest batch a few times over.
const minSpoolBytes = 8 << 20

const (
	minBudgetMemory   = 32 << 20 // an exporter at rest has most of that
	maxBudgetSampling = 1024
)

// maxName bounds every name that goes into records.
const maxName = 256

// Validate implements service/config.Validator.
func (c *Config) Validate() error {
	host, port, err := net.SplitHostPort(c.Collector)
	if err != nil || host == "" || port == "" {
		return fmt.Errorf("--collector %q is not HOST:PORT, such as collector.example:4747", c.Collector)
	}
	if err := tlsconf.CheckListener("--metrics-listen", c.MetricsListen, c.MetricsTLS(), c.Insecure); err != nil {
		return err
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return fmt.Errorf("a client certificate needs its key: give both --tls-cert and --tls-key, or none")
	}
	switch c.Scope {
	case ScopeHost, ScopeNetns, ScopeCgroup:
	default:
		return fmt.Errorf("--scope %q is not host, netns or cgroup", c.Scope)
	}
	switch c.CaptureMode {
	case CaptureAuto, CaptureTracing, CaptureSockDiag:
	default:
		return fmt.Errorf("--capture-mode %q is not auto, tracing or sock_diag", c.CaptureMode)
	}
	if c.Cgroup != "" && c.Scope != ScopeCgroup {
		return fmt.Errorf("--cgroup %q needs --scope cgroup", c.Cgroup)
	}
	for _, check := range []func() error{c.checkWays, c.checkNames, c.checkKubernetes, c.checkSizes, c.Budget.check, c.Capture.Check} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

var workloadForm = regexp.MustCompile(`^[^/\s]+/[^/\s]+$`)

func (c *Config) checkNames() error {
	for _, n := range []struct{ flag, value string }{
		{"--network", c.Network},
		{"--workload", c.Workload},
		{"--instance", c.Instance},
		{"--zone", c.Zone},
		{"--region", c.Region},
		{"--release", c.Release},
	} {
		control := func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0xfffd }
		if len(n.value) > maxName || strings.ContainsFunc(n.value, control) {
			return fmt.Errorf("%s is longer than %d bytes or has control characters", n.flag, maxName)
		}
	}
	switch {
	case c.Network == "":
		return fmt.Errorf("--network must not be empty")
	case c.Workload != "" && !workloadForm.MatchString(c.Workload):
		return fmt.Errorf("--workload %q is not NAMESPACE/NAME, such as payments/api", c.Workload)
	case c.Workload == "" && (c.Instance != "" || c.Release != ""):
		return fmt.Errorf("--instance and --release describe a --workload: give it too")
	}
	return nil
}

func (b *Budget) check() error {
	switch {
	case math.IsNaN(b.CPUPercent) || b.CPUPercent < 0 || b.CPUPercent > 100:
		return fmt.Errorf("--budget-cpu-percent %v is not between 0 and 100", b.CPUPercent)
	case b.MemoryBytes != 0 && b.MemoryBytes < minBudgetMemory:
		return fmt.Errorf("--budget-memory-bytes %d is less than %d", b.MemoryBytes, minBudgetMemory)
	case b.SampleRate < 1 || b.SampleRate > maxBudgetSampling:
		return fmt.Errorf("--budget-sample-rate %d is not between 1 and %d", b.SampleRate, maxBudgetSampling)
	}
	return nil
}

func (c *Config) checkSizes() error {
	switch {
	case c.BatchRows < 1 || c.BatchRows > batch.MaxRows:
		return fmt.Errorf("--batch-rows %d is not between 1 and %d", c.BatchRows, batch.MaxRows)
	case c.BatchAge < 10*time.Millisecond || c.BatchAge > time.Minute:
		return fmt.Errorf("--batch-age %v is not between 10ms and 1m", c.BatchAge)
	case c.Spool.MaxBytes < minSpoolBytes:
		return fmt.Errorf("--spool-max-bytes %d is less than %d", c.Spool.MaxBytes, minSpoolBytes)
	case c.Spool.MemoryBytes < minSpoolBytes:
		return fmt.Errorf("--spool-memory-bytes %d is less than %d", c.Spool.MemoryBytes, minSpoolBytes)
	case c.Spool.MaxAge < time.Minute || c.Spool.MaxAge > 7*24*time.Hour:
		return fmt.Errorf("--spool-max-age %v is not between 1m and 168h", c.Spool.MaxAge)
	case c.Compression != CompressionZstd && c.Compression != CompressionNone:
		return fmt.Errorf("--compression %q is not zstd or none", c.Compression)
	case c.RingBytes < 64<<10 || c.RingBytes > 256<<20 || c.RingBytes&(c.RingBytes-1) != 0:
		return fmt.Errorf("--ring-bytes %d is not a power of two between %d and %d", c.RingBytes, 64<<10, 256<<20)
	case c.OpenSockets < 1024 || c.OpenSockets > 16<<20:
		return fmt.Errorf("--open-sockets %d is not between 1024 and %d", c.OpenSockets, 16<<20)
	case c.ShutdownTimeout < 0 || c.ShutdownTimeout > 10*time.Minute:
		return fmt.Errorf("--shutdown-timeout %v is not between 0s and 10m", c.ShutdownTimeout)
	}
	return nil
}

// Encrypted reports whether the connection to the collector uses TLS: always, except to a loopback address without any TLS
// file, and except where --insecure gives up on it.
func (c *Config) Encrypted() bool {
	if c.TLS != (TLS{}) {
		return true
	}
	return !c.Insecure && beyondHost(c.Collector)
}

// MetricsTLS reports whether the metrics are served with TLS: where they are open to the network and there is a certificate.
func (c *Config) MetricsTLS() bool { return c.TLS.Cert != "" && beyondHost(c.MetricsListen) }

// beyondHost reports whether others than this host take part at this address.
func beyondHost(address string) bool {
	return tlsconf.CheckListener("", address, false, false) != nil
}
