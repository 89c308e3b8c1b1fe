package kafka

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// The formats of a message.
const (
	FormatProtobuf = "protobuf" // one message a batch
	FormatJSON     = "json"     // one message a flow
)

// Config is what a user sets. Zero values of numbers mean the defaults of Default.
type Config struct {
	Brokers     []string      `yaml:"-"` // host:port of some; the others are found through them
	Topic       string        `yaml:"kafka_topic" usage:"topic of attributed flows"`
	Format      string        `yaml:"kafka_format" usage:"protobuf (a message a batch) or json (a message a flow)"`
	Compression string        `yaml:"kafka_compression" usage:"none, gzip, snappy, lz4 or zstd; by default none for protobuf, whose payload is compressed already, and zstd for json"`
	Partitions  int           `yaml:"kafka_partitions" usage:"partitions of a topic that the collector creates"`
	Replicas    int           `yaml:"kafka_replicas" usage:"replication factor of a topic that the collector creates; -1 is the brokers' default"`
	MinInsync   int           `yaml:"kafka_min_insync" usage:"min.insync.replicas of a topic that the collector creates; 0 is the brokers' default"`
	Retention   time.Duration `yaml:"kafka_retention" usage:"retention of a topic that the collector creates"`

	MaxMessageBytes int           `yaml:"kafka_max_message_bytes" usage:"largest message; max.message.bytes of a topic that the collector creates"`
	BatchBytes      int           `yaml:"kafka_batch_bytes" usage:"messages are gathered into requests of up to this size"`
	BatchTimeout    time.Duration `yaml:"kafka_batch_timeout" usage:"how long a first message waits for others to share its request"`
	QueueBytes      int           `yaml:"kafka_queue_bytes" usage:"memory of batches that Kafka has not acknowledged yet; then backpressure begins"`
	WriteTimeout    time.Duration `yaml:"kafka_write_timeout" usage:"how long one attempt may take"`

	SASL SASL `yaml:",inline"`
}

// SASL is how the collector proves to the brokers who it is. Without TLS a PLAIN password travels readable.
type SASL struct {
	Mechanism string `yaml:"kafka_sasl_mechanism" usage:"none, plain, scram-sha-256 or scram-sha-512"`
	Username  string `yaml:"kafka_sasl_username" usage:"name of the collector towards Kafka"`
	Password  string `yaml:"kafka_sasl_password" secret:"true" usage:"its password"`
}

const (
	minMessageBytes = 64 << 10
	maxMessageBytes = 64 << 20 // the brokers' socket.request.max.bytes is 100 MiB
	maxPartitions   = 10_000
)

// Default returns the settings that fit a regional Kafka: sixteen partitions kept for a day. Retention is short on purpose: the topic
// is a bus, the store keeps history.
func Default() Config {
	return Config{
		Topic: "flows.v1", Format: FormatProtobuf,
		Partitions: 16, Replicas: -1, Retention: 24 * time.Hour,
		MaxMessageBytes: 8 << 20, BatchBytes: 512 << 10, BatchTimeout: 5 * time.Millisecond,
		QueueBytes: 64 << 20, WriteTimeout: 10 * time.Second,
	}
}

// Check says in one sentence what is wrong with the settings.
func (c Config) Check() error {
	if len(c.Brokers) == 0 {
		return errors.New("kafka_brokers: at least one host:port is needed")
	}
	for _, b := range c.Brokers {
		if _, port, err := net.SplitHostPort(b); err != nil || port == "" {
			return fmt.Errorf("kafka_brokers: %q is not host:port", b)
		}
	}
	if !ValidTopic(c.Topic) {
		return fmt.Errorf("kafka_topic: %q is not a topic name (1 to 249 letters, digits, '.', '_' or '-')", c.Topic)
	}
	if c.Format != FormatProtobuf && c.Format != FormatJSON {
		return fmt.Errorf("kafka_format: %q is neither protobuf nor json", c.Format)
	}
	if _, err := c.compression(); err != nil {
		return err
	}
	if _, err := c.SASL.mechanism(); err != nil {
		return err
	}
	return c.checkNumbers()
}

func (c Config) checkNumbers() error {
	switch {
	case c.Partitions < 1 || c.Partitions > maxPartitions:
		return fmt.Errorf("kafka_partitions: %d is not between 1 and %d", c.Partitions, maxPartitions)
	case c.Replicas == 0 || c.Replicas < -1 || c.Replicas > 32767:
		return fmt.Errorf("kafka_replicas: %d is neither -1 (the brokers' default) nor 1 or more", c.Replicas)
	case c.MinInsync < 0 || (c.Replicas > 0 && c.MinInsync > c.Replicas):
		return fmt.Errorf("kafka_min_insync: %d does not fit %d replicas; nothing could be written", c.MinInsync, c.Replicas)
	case c.Retention < time.Minute:
		return fmt.Errorf("kafka_retention: %s is less than a minute", c.Retention)
	case c.MaxMessageBytes < minMessageBytes || c.MaxMessageBytes > maxMessageBytes:
		return fmt.Errorf("kafka_max_message_bytes: %d is not between %d and %d", c.MaxMessageBytes, minMessageBytes, maxMessageBytes)
	case c.BatchBytes < 1 || c.BatchBytes > c.MaxMessageBytes:
		return fmt.Errorf("kafka_batch_bytes: %d is not between 1 and max_message_bytes (%d)", c.BatchBytes, c.MaxMessageBytes)
	case c.BatchTimeout < 0 || c.BatchTimeout > time.Second:
		return fmt.Errorf("kafka_batch_timeout: %s is not between 0 and 1s", c.BatchTimeout)
	case c.QueueBytes < 1<<20:
		return fmt.Errorf("kafka_queue_bytes: %d is less than 1 MiB", c.QueueBytes)
	case c.WriteTimeout < 100*time.Millisecond:
		return fmt.Errorf("kafka_write_timeout: %s is less than 100ms", c.WriteTimeout)
	}
	return nil
}

// ValidTopic follows the rule of Kafka's own Topic.validate.
func ValidTopic(name string) bool {
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return false
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func (c Config) compression() (kafka.Compression, error) {
	switch c.Compression {
	case "":
		if c.Format == FormatJSON {
			return kafka.Zstd, nil
		}
		return 0, nil
	case "none":
		return 0, nil
	case "gzip":
		return kafka.Gzip, nil
	case "snappy":
		return kafka.Snappy, nil
	case "lz4":
		return kafka.Lz4, nil
	case "zstd":
		return kafka.Zstd, nil
	}
	return 0, fmt.Errorf("kafka_compression: %q is none of none, gzip, snappy, lz4, zstd", c.Compression)
}

func (s SASL) mechanism() (sasl.Mechanism, error) {
	if s.Mechanism == "" || s.Mechanism == "none" {
		if s.Username != "" || s.Password != "" {
			return nil, errors.New("kafka_sasl: a username or password is set but no mechanism (plain, scram-sha-256 or scram-sha-512)")
		}
		return nil, nil
	}
	var algorithm scram.Algorithm
	switch s.Mechanism {
	case "plain":
		return plain.Mechanism{Username: s.Username, Password: s.Password}, s.checkUser()
	case "scram-sha-256":
		algorithm = scram.SHA256
	case "scram-sha-512":
		algorithm = scram.SHA512
	default:
		return nil, fmt.Errorf("kafka_sasl: mechanism %q is none of none, plain, scram-sha-256, scram-sha-512", s.Mechanism)
	}
	if err := s.checkUser(); err != nil {
		return nil, err
	}
	m, err := scram.Mechanism(algorithm, s.Username, s.Password)
	if err != nil {
		return nil, errors.New("kafka_sasl: username or password has characters that SCRAM does not allow")
	}
	return m, nil
}

func (s SASL) checkUser() error {
	if s.Username == "" || s.Password == "" {
		return fmt.Errorf("kafka_sasl: mechanism %s needs a username and a password", s.Mechanism)
	}
	return nil
}

// metadataTTL is how long a moved partition leader may stay unnoticed: kafka-go looks for it by the clock only.
const metadataTTL = 2 * time.Second

// Transport makes a connection pool for a topic. It asks for this topic's metadata only: a large cluster's whole list is megabytes.
func (c Config) Transport(tlsConfig *tls.Config, topic string) (*kafka.Transport, error) {
	mechanism, err := c.SASL.mechanism()
	if err != nil {
		return nil, err
	}
	return &kafka.Transport{
		ClientID: "tributary-collector", TLS: tlsConfig, SASL: mechanism, DialTimeout: 5 * time.Second,
		MetadataTTL: metadataTTL, MetadataTopics: []string{topic},
	}, nil
}

// settings are the properties of a topic that the collector creates.
func (c Config) settings() []kafka.ConfigEntry {
	entries := []kafka.ConfigEntry{
		{ConfigName: "cleanup.policy", ConfigValue: "delete"},
		{ConfigName: "retention.ms", ConfigValue: strconv.FormatInt(c.Retention.Milliseconds(), 10)},
		{ConfigName: "max.message.bytes", ConfigValue: strconv.Itoa(c.MaxMessageBytes + requestOverhead)},
	}
	if c.MinInsync > 0 {
		entries = append(entries, kafka.ConfigEntry{ConfigName: "min.insync.replicas", ConfigValue: strconv.Itoa(c.MinInsync)})
	}
	return entries
}
