// Package config is the collector's configuration: one struct whose fields are the keys of the YAML file, the flags and the environment
// variables of DESIGN §12 (service/config fills it). It knows what values make sense together and nothing else.
package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/collector/schema"
	"tributary/collector/sink/kafka"
	"tributary/service/tlsconf"
)

// EnvPrefix starts the collector's environment variables.
const EnvPrefix = "TRIBUTARY_COLLECTOR"

// Config is what `tributary-collector serve` takes.
type Config struct {
	Data        string         `yaml:"data" usage:"directory for everything the collector keeps: the embedded store, its credential, its lock"`
	ClickHouse  string         `yaml:"clickhouse" secret:"url" usage:"where flows are stored: embedded, http[s]://[user:password@]host:8123[/database], or none"`
	Kafka       string         `yaml:"kafka" usage:"host:port,… of some Kafka brokers that get every flow on the topic flows.v1, or none"`
	Internal    []netip.Prefix `yaml:"internal" usage:"prefixes whose addresses belong to workloads; all others are external, unless an exporter claimed them"`
	Assignments string         `yaml:"assignments" usage:"file that says which workload has an address that no exporter can claim, YAML; reloaded when it changes"`

	Kubernetes Kubernetes `yaml:",inline"`

	Region    string `yaml:"region" usage:"the region this collector serves"`
	Regions   string `yaml:"regions" usage:"file that says which prefixes are which region's, and where its collectors are, YAML; reloaded when it changes"`
	RegionsCA string `yaml:"regions_ca" usage:"file with the CA of other regions' collectors, PEM; default: tls_client_ca"`
	// ResolveAllowed is closed by default: who asks learns who has which address.
	ResolveAllowed []string `yaml:"resolve_allowed" usage:"identities, with * for anything, of other regions' collectors that may ask this one who has an address; empty: none"`

	Listen        string `yaml:"listen" usage:"address of the gRPC ingest"`
	HTTPSListen   string `yaml:"https_listen" usage:"address of the HTTPS ingest, such as 127.0.0.1:4748; empty: none. Plain HTTP where there is no certificate, for a proxy on this host"`
	UDPListen     string `yaml:"udp_listen" usage:"address for batches by UDP, such as 127.0.0.1:4749; empty: none. They are sealed, acknowledged to nobody, and only come from exporters that were told to"`
	APIListen     string `yaml:"api_listen" usage:"address of the collector's HTTP API; empty: none"`
	MetricsListen string `yaml:"metrics_listen" usage:"address of /metrics, /healthz and /readyz; empty: none"`
	TLSCert       string `yaml:"tls_cert" usage:"file with the certificate of the listeners, PEM; reloaded when it changes"`
	TLSKey        string `yaml:"tls_key" usage:"file with its key, PEM"`
	TLSClientCA   string `yaml:"tls_client_ca" usage:"file with the CA of the exporters, PEM: only they may connect"`
	// ClaimsAllowed is only in the file.
	ClaimsAllowed session.Grants `yaml:"claims_allowed" usage:"what exporters may claim, by the identity of their certificates; empty: everything"`
	Insecure      bool           `yaml:"insecure" usage:"allow listeners without TLS on addresses other than loopback"`

	BestEffort BestEffort `yaml:",inline"`

	Store Store `yaml:",inline"`
	Bus   Bus   `yaml:",inline"`
	Hold  Hold  `yaml:",inline"`

	Reachability Reachability `yaml:",inline"`

	PendingBytes   int64         `yaml:"pending_bytes" usage:"memory of batches taken in and not yet in every sink; then exporters are slowed"`
	CreditBytes    int64         `yaml:"credit_bytes" usage:"bytes one exporter may have under way beyond what was received"`
	MaxConnections int           `yaml:"max_connections" usage:"connections that may be open to each of --listen and --https-listen; more are closed as they come"`
	StreamLife     time.Duration `yaml:"stream_life" usage:"after once to twice this time, at random, an exporter is asked to connect anew, so that a balancer spreads them over the nodes; 0s: never"`
	StopTimeout    time.Duration `yaml:"stop_timeout" usage:"how long a stop waits for the sinks; what they do not take is sent again by the exporters"`
	LogLevel       string        `yaml:"log_level" usage:"debug, info, warn or error"`
	LogFormat      string        `yaml:"log_format" usage:"text or json"`
}

// Required and Optional say whether an acknowledgement waits for a sink.
const (
	Required = "required"
	Optional = "best_effort"
)

// BestEffort says which sinks nobody waits for, and bounds the log in --data that each of them has.
type BestEffort struct {
	ClickHouse string        `yaml:"clickhouse_delivery" usage:"required: what exporters send is acknowledged when ClickHouse has it; best_effort: when it is in a log in --data, out of which ClickHouse gets it when it can"`
	Kafka      string        `yaml:"kafka_delivery" usage:"required or best_effort, as clickhouse_delivery"`
	MaxBytes   int64         `yaml:"best_effort_max_bytes" usage:"disk for what a best_effort sink does not have yet; beyond it the oldest is dropped"`
	MaxAge     time.Duration `yaml:"best_effort_max_age" usage:"age at which it is given up"`
}

// check holds the combinations: somebody must be waited for.
func (c *Config) checkBestEffort() error {
	b := &c.BestEffort
	for key, value := range map[string]string{"clickhouse_delivery": b.ClickHouse, "kafka_delivery": b.Kafka} {
		if value != Required && value != Optional {
			return fmt.Errorf("%s is %.32q: it must be required or best_effort", key, value)
		}
	}
	waited := c.ClickHouse != "none" && b.ClickHouse == Required || c.Kafka != "none" && b.Kafka == Required
	optional := b.ClickHouse == Optional || b.Kafka == Optional
	switch {
	case !waited:
		return errors.New("no sink is required: what exporters send would be acknowledged before anybody has it")
	case optional && c.Data == "":
		return errors.New("a best_effort sink keeps a log: set --data")
	case b.MaxBytes < 16<<20:
		return fmt.Errorf("best_effort_max_bytes is %d: it must be at least %d", b.MaxBytes, 16<<20)
	case b.MaxAge < time.Minute || b.MaxAge > 7*24*time.Hour:
		return fmt.Errorf("best_effort_max_age is %s: it must be 1m to 168h", b.MaxAge)
	}
	return nil
}

// Store are the details of ClickHouse.
type Store struct {
	EmbeddedListen  string        `yaml:"embedded_listen" usage:"loopback address of the embedded store's HTTP interface"`
	EmbeddedLibrary string        `yaml:"embedded_library" usage:"path of libchdb.so; default: beside the program"`
	EmbeddedMemory  int64         `yaml:"embedded_memory_bytes" usage:"memory the embedded engine may use"`
	CA              string        `yaml:"clickhouse_ca" usage:"file with the CA of an https ClickHouse, PEM; default: the system's"`
	RawTTL          time.Duration `yaml:"clickhouse_raw_ttl" usage:"how long raw flows are kept, whole hours"`
	BlockRows       int           `yaml:"clickhouse_block_rows" usage:"rows of a full block"`
	BlockAge        time.Duration `yaml:"clickhouse_block_age" usage:"how long rows wait for a block to fill"`
	Compression     string        `yaml:"clickhouse_compression" usage:"of inserts: none, lz4 or zstd; default: none to loopback, lz4 elsewhere"`
}

// Bus are the details of Kafka.
type Bus struct {
	TLS          bool   `yaml:"kafka_tls" usage:"speak TLS to the brokers"`
	CA           string `yaml:"kafka_ca" usage:"file with the CA of the brokers, PEM; default: the system's"`
	kafka.Config `yaml:",inline"`

	OwnershipTopic  string `yaml:"kafka_ownership_topic" usage:"topic by which the collectors of a region share what exporters claim"`
	AssignmentTopic string `yaml:"kafka_assignment_topic" usage:"topic of assignments to read, one JSON object an entry, compacted; empty: none"`
}

// Hold are the details of waiting for evidence.
type Hold struct {
	Wait          time.Duration `yaml:"hold_wait" usage:"the longest a batch waits for the evidence of its remote ends"`
	Bytes         int64         `yaml:"hold_bytes" usage:"memory of batches that wait; beyond it the oldest is written as it is"`
	Tolerance     time.Duration `yaml:"hold_tolerance" usage:"clock difference and handshake time allowed for when an address is looked up"`
	MaxClockError time.Duration `yaml:"max_clock_error" usage:"an exporter whose clock is off by more names nobody by its claims; smaller errors widen the tolerance"`
}

// Reachability are the details of judging paths, and who is told.
type Reachability struct {
	Alertmanager string        `yaml:"alertmanager" secret:"url" usage:"http[s]://host:9093,… of the Alertmanagers that are told of broken paths; empty: none"`
	Webhook      string        `yaml:"alert_webhook" secret:"url" usage:"URL that gets a POST for each alert that fires or is resolved; empty: none"`
	Runbook      string        `yaml:"alert_runbook" usage:"URL of the runbook in the alerts"`
	RepeatEvery  time.Duration `yaml:"alert_repeat" usage:"how often Alertmanager is told again of what fires"`
	GroupWait    time.Duration `yaml:"alert_group_wait" usage:"how long the webhook is not told yet, so that one alert names all clients"`
	Every        time.Duration `yaml:"reachability_every" usage:"how often paths are judged; 0: never, by this collector"`
	OpenAfter    time.Duration `yaml:"reachability_open_after" usage:"how long all attempts of a path that worked must have failed"`
	CloseAfter   time.Duration `yaml:"reachability_close_after" usage:"how long it must have worked again"`
}

// Alertmanagers are the base URLs.
func (r *Reachability) Alertmanagers() []string {
	var out []string
	for _, u := range strings.Split(r.Alertmanager, ",") {
		if u = strings.TrimSpace(u); u != "" {
			out = append(out, u)
		}
	}
	return out
}

func (r *Reachability) check() error {
	for _, u := range append(r.Alertmanagers(), r.Webhook) {
		if u == "" {
			continue
		}
		if parsed, err := url.Parse(u); err != nil || parsed.Host == "" || (parsed.Scheme != "http" && parsed.Scheme != "https") {
			return errors.New("alertmanager and alert_webhook take URLs: http://host:9093 or https://…")
		}
	}
	switch {
	case r.Every != 0 && (r.Every < time.Second || r.Every > time.Minute):
		return fmt.Errorf("reachability_every is %s: it must be 1s to 1m, or 0", r.Every)
	case r.OpenAfter < 3*time.Second || r.OpenAfter > 2*time.Minute:
		return fmt.Errorf("reachability_open_after is %s: it must be 3s to 2m", r.OpenAfter)
	case r.CloseAfter < 3*time.Second || r.CloseAfter > 10*time.Minute:
		return fmt.Errorf("reachability_close_after is %s: it must be 3s to 10m", r.CloseAfter)
	case r.RepeatEvery < time.Second || r.RepeatEvery > 5*time.Minute:
		return fmt.Errorf("alert_repeat is %s: it must be 1s to 5m", r.RepeatEvery)
	case r.GroupWait < 0 || r.GroupWait > 5*time.Minute:
		return fmt.Errorf("alert_group_wait is %s: it must be 0s to 5m", r.GroupWait)
	}
	return nil
}

// Default returns the configuration without file, environment and flags.
func Default() Config {
	bus := kafka.Default()
	return Config{
		Data: "/var/lib/tributary", ClickHouse: "embedded", Kafka: "none", Internal: ownership.DefaultInternal(),
		Listen: "127.0.0.1:4747", APIListen: "127.0.0.1:8747", MetricsListen: "127.0.0.1:9747",
		Kubernetes: Kubernetes{Network: "default"},
		BestEffort: BestEffort{ClickHouse: Required, Kafka: Required, MaxBytes: 1 << 30, MaxAge: 6 * time.Hour},
		Store: Store{
			EmbeddedListen: "127.0.0.1:8123", EmbeddedMemory: 2 << 30, RawTTL: schema.DefaultRawTTL, BlockRows: 100_000,
			BlockAge: 500 * time.Millisecond,
		},
		Bus:  Bus{Config: bus, OwnershipTopic: "ownership.v1"},
		Hold: Hold{Wait: 4 * time.Second, Bytes: 128 << 20, Tolerance: 100 * time.Millisecond, MaxClockError: 2 * time.Second},
		Reachability: Reachability{
			Every: 5 * time.Second, OpenAfter: 15 * time.Second, CloseAfter: 20 * time.Second, RepeatEvery: 30 * time.Second, GroupWait: 10 * time.Second,
		},
		PendingBytes: 64 << 20, CreditBytes: 8 << 20, MaxConnections: 8 << 10, StreamLife: 10 * time.Minute, StopTimeout: 10 * time.Second,
		LogLevel: "info", LogFormat: "text",
	}
}

// Validate says in one sentence what does not make sense together.
func (c *Config) Validate() error {
	if c.ClickHouse == "" || c.Kafka == "" {
		return errors.New("clickhouse and kafka must each be given, or be \"none\"")
	}
	if c.ClickHouse == "none" && c.Kafka == "none" {
		return errors.New("clickhouse and kafka are both none: flows would go nowhere")
	}
	if c.ClickHouse == "embedded" && c.Data == "" {
		return errors.New("the embedded store needs a directory: set --data")
	}
	if c.ClickHouse != "embedded" && c.ClickHouse != "none" {
		if _, err := schema.ParseServer(c.ClickHouse); err != nil {
			return fmt.Errorf("clickhouse: %w", err)
		}
	}
	if err := c.checkBus(); err != nil {
		return err
	}
	if err := c.checkBestEffort(); err != nil {
		return err
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("tls_cert and tls_key go together")
	}
	if c.TLSClientCA != "" && c.TLSCert == "" {
		return errors.New("tls_client_ca needs tls_cert and tls_key")
	}
	if len(c.ClaimsAllowed) > 0 && c.TLSClientCA == "" {
		return errors.New("claims_allowed needs tls_client_ca: without it no exporter proves who it is")
	}
	for _, check := range []func() error{c.Reachability.check, c.Kubernetes.check, c.ClaimsAllowed.Check, c.checkRegions} {
		if err := check(); err != nil {
			return err
		}
	}
	return c.checkListeners()
}

func (c *Config) checkRegions() error {
	switch {
	case c.Regions != "" && c.Region == "":
		return errors.New("regions needs region: which of them this collector serves")
	case c.Regions != "" && (c.TLSCert == "" || c.RegionsCA == "" && c.TLSClientCA == ""):
		return errors.New("regions needs tls_cert, tls_key and regions_ca: collectors of other regions are asked over mutual TLS")
	case len(c.ResolveAllowed) > 0 && c.TLSClientCA == "":
		return errors.New("resolve_allowed needs tls_client_ca: without it no collector proves who it is")
	}
	return nil
}

func (c *Config) checkBus() error {
	if t := c.Bus.AssignmentTopic; t != "" && (c.Kafka == "none" || !kafka.ValidTopic(t)) {
		return fmt.Errorf("kafka_assignment_topic: %q is not a topic name, or there is no kafka", t)
	}
	if c.Kafka == "none" {
		return nil
	}
	if !kafka.ValidTopic(c.Bus.OwnershipTopic) || c.Bus.OwnershipTopic == c.Bus.Topic {
		return fmt.Errorf("kafka_ownership_topic: %q is not a topic name, or is that of the flows", c.Bus.OwnershipTopic)
	}
	return c.KafkaConfig().Check()
}

func (c *Config) checkListeners() error {
	if err := tlsconf.CheckListener("--listen", c.Listen, c.TLSCert != "", c.Insecure); err != nil {
		return err
	}
	for flag, address := range map[string]string{"--https-listen": c.HTTPSListen, "--udp-listen": c.UDPListen, "--api-listen": c.APIListen, "--metrics-listen": c.MetricsListen} {
		if address == "" {
			continue
		}
		if err := tlsconf.CheckListener(flag, address, c.TLSCert != "", c.Insecure); err != nil {
			return err
		}
	}
	switch {
	case c.Hold.Wait < 0 || c.Hold.Wait > 4*time.Second:
		return fmt.Errorf("hold_wait is %s: it must be 0s to 4s", c.Hold.Wait)
	case c.Hold.Tolerance < 0 || c.Hold.Tolerance > 5*time.Second:
		return fmt.Errorf("hold_tolerance is %s: it must be 0s to 5s", c.Hold.Tolerance)
	case c.Hold.MaxClockError < 100*time.Millisecond || c.Hold.MaxClockError > 10*time.Second:
		return fmt.Errorf("max_clock_error is %s: it must be 100ms to 10s", c.Hold.MaxClockError)
	case c.StreamLife != 0 && c.StreamLife < 10*time.Second:
		return fmt.Errorf("stream_life is %s: it must be 0s or at least 10s", c.StreamLife)
	case c.MaxConnections < 1 || c.MaxConnections > 1<<20:
		return fmt.Errorf("max_connections is %d: it must be 1 to 1048576", c.MaxConnections)
	case c.PendingBytes < 1<<20 || c.Hold.Bytes < 1<<20 || c.CreditBytes < 1<<20:
		return errors.New("pending_bytes, hold_bytes and credit_bytes must be at least 1048576 each")
	}
	return nil
}

// KafkaConfig returns the settings of the Kafka sink.
func (c *Config) KafkaConfig() kafka.Config {
	k := c.Bus.Config
	k.Brokers = nil
	for _, b := range strings.Split(c.Kafka, ",") {
		if b = strings.TrimSpace(b); b != "" {
			k.Brokers = append(k.Brokers, b)
		}
	}
	return k
}
