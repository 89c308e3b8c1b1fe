package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"tributary/deploy/dev/kafkatest"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// testConfig is the default towards one broker, with a topic of the test's own.
func testConfig(t testing.TB, broker string) Config {
	cfg := Default()
	cfg.Brokers = []string{broker}
	cfg.Topic = fmt.Sprintf("flows.%s.%d", strings.NewReplacer("/", ".", "=", "_").Replace(t.Name()), time.Now().UnixNano())
	cfg.Partitions = 4
	return cfg
}

func newSink(t testing.TB, cfg Config) (*Sink, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	s, err := New(cfg, nil, reg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Close(ctx)
	})
	return s, reg
}

// flush fails the test if Kafka does not have everything in time.
func flush(t testing.TB, s *Sink, timeout time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Fatalf("flush: %v (%v)", err, s.Ready())
	}
}

// dones counts what became of writes.
type dones struct {
	mu   sync.Mutex
	errs []error
}

func (d *dones) done(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.errs = append(d.errs, err)
}

func (d *dones) check(t *testing.T, want int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.errs) != want || errors.Join(d.errs...) != nil {
		t.Errorf("done was called %d times (%v), want %d times with nil", len(d.errs), errors.Join(d.errs...), want)
	}
}

// readTopic reads every message of the topic, partition by partition.
func readTopic(t testing.TB, cfg Config) []kafka.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	partitions, err := kafka.DefaultDialer.LookupPartitions(ctx, "tcp", cfg.Brokers[0], cfg.Topic)
	if err != nil {
		t.Fatalf("look up partitions: %v", err)
	}
	var all []kafka.Message
	for _, p := range partitions {
		conn, err := kafka.DialLeader(ctx, "tcp", cfg.Brokers[0], cfg.Topic, p.ID)
		if err != nil {
			t.Fatalf("dial leader: %v", err)
		}
		last, err := conn.ReadLastOffset()
		_ = conn.Close()
		if err != nil {
			t.Fatalf("last offset: %v", err)
		}
		r := kafka.NewReader(kafka.ReaderConfig{
			Brokers: cfg.Brokers, Topic: cfg.Topic, Partition: p.ID, MinBytes: 1, MaxBytes: 16 << 20, MaxWait: 50 * time.Millisecond,
		})
		for next := int64(0); next < last; {
			m, err := r.ReadMessage(ctx)
			if err != nil {
				t.Fatalf("read partition %d: %v", p.ID, err)
			}
			next = m.Offset + 1
			all = append(all, m)
		}
		_ = r.Close()
	}
	return all
}

// rowsIn decodes protobuf messages and says how often each headers' set came more than once.
func rowsIn(t testing.TB, messages []kafka.Message) (rows map[string]string, repeats int) {
	t.Helper()
	rows = map[string]string{}
	seen := map[string]bool{}
	for _, m := range messages {
		b, err := decode(t, m.Value)
		if err != nil {
			t.Fatalf("decode: %v", err)
		}
		headers := fmt.Sprint(headersOf(m.Headers))
		if seen[headers] {
			repeats++
		}
		seen[headers] = true
		for key, row := range rowsOf(b) {
			if before, ok := rows[key]; ok && before != row {
				t.Errorf("row %s came as %q and as %q", key, before, row)
			}
			rows[key] = row
		}
	}
	return rows, repeats
}

func TestWritesAndReadsBackTheSameRows(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	want, partition := map[string]string{}, map[string]int{}
	var d dones
	for i := range 60 {
		b := makeBatch(t, fmt.Sprintf("node-%d/1", i%20), uint64(i+1), 200)
		maps.Copy(want, rowsOf(b))
		s.Write(b, d.done)
	}
	flush(t, s, 30*time.Second)
	d.check(t, 60)
	if err := s.Ready(); err != nil || s.Pending() != 0 {
		t.Errorf("Ready() = %v, Pending() = %d after a flush", err, s.Pending())
	}
	messages := readTopic(t, cfg)
	got, repeats := rowsIn(t, messages)
	if diff := cmp.Diff(want, got); diff != "" || repeats != 0 || len(messages) != 60 {
		t.Errorf("%d messages, %d repeats, rows (-want +got):\n%s", len(messages), repeats, diff)
	}
	for _, m := range messages {
		if p, ok := partition[string(m.Key)]; ok && p != m.Partition {
			t.Errorf("the key %s is in partitions %d and %d", m.Key, p, m.Partition)
		}
		partition[string(m.Key)] = m.Partition
	}
	checkBooks(t, reg, map[string]float64{
		"rows_in_total": 12000, "rows_written_total": 12000, "messages_written_total": 60,
	})
}

// checkBooks compares every metric of the room; what want does not name is 0. Times and bytes are not compared.
func checkBooks(t *testing.T, reg *prometheus.Registry, want map[string]float64) {
	t.Helper()
	const prefix = "tributary_collector_kafka_"
	all := map[string]float64{
		"rows_in_total": 0, "rows_written_total": 0, "messages_written_total": 0, "rows_pending": 0, "pending_bytes": 0,
		"oldest_pending_seconds": 0, "unready": 0, "retries_total{network}": 0, "retries_total{broker}": 0,
		"rows_dropped_total{too_large}": 0, "rows_dropped_total{refused}": 0, "rows_dropped_total{encode}": 0, "rows_dropped_total{stopped}": 0,
	}
	maps.Copy(all, want)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := strings.TrimPrefix(f.GetName(), prefix)
			for _, l := range m.Label {
				name += "{" + l.GetValue() + "}"
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	delete(got, "bytes_written_total")
	delete(got, "write_duration_seconds")
	if diff := cmp.Diff(all, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestJSONThroughTheBroker(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	cfg.Format, cfg.BatchBytes = FormatJSON, 100<<10
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	var d dones
	s.Write(makeBatch(t, "node-1/7", 3, 500), d.done)
	flush(t, s, time.Minute)
	d.check(t, 1)
	rows := map[string]bool{}
	for _, m := range readTopic(t, cfg) {
		if string(m.Key) != "node-1/7" || !strings.HasPrefix(string(m.Value), `{"exporter_id":"node-1/7",`) {
			t.Fatalf("key %q, value %q", m.Key, m.Value)
		}
		rows[headersOf(m.Headers)[HeaderRow]] = true
	}
	if len(rows) != 500 {
		t.Errorf("%d different rows, want 500", len(rows))
	}
	checkBooks(t, reg, map[string]float64{"rows_in_total": 500, "rows_written_total": 500, "messages_written_total": 500})
}

func TestCreatesTheTopicAsConfigured(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	cfg.Partitions, cfg.MinInsync, cfg.Retention = 5, 1, 3*time.Hour
	s, _ := newSink(t, cfg)
	s.Start(t.Context())
	waitReady(t, s)
	client := &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Timeout: 30 * time.Second}
	answer, err := client.DescribeConfigs(t.Context(), &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: cfg.Topic,
		ConfigNames: []string{"retention.ms", "max.message.bytes", "min.insync.replicas", "cleanup.policy"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range answer.Resources[0].ConfigEntries {
		got[e.ConfigName] = e.ConfigValue
	}
	want := map[string]string{
		"retention.ms": "10800000", "max.message.bytes": fmt.Sprint(8<<20 + requestOverhead), "min.insync.replicas": "1", "cleanup.policy": "delete",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	partitions, err := kafka.DefaultDialer.LookupPartitions(t.Context(), "tcp", cfg.Brokers[0], cfg.Topic)
	if err != nil || len(partitions) != 5 {
		t.Errorf("%d partitions (%v), want 5", len(partitions), err)
	}
}

func waitReady(t *testing.T, s *Sink) {
	t.Helper()
	for end := time.Now().Add(time.Minute); s.Ready() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not ready: %v", s.Ready())
		}
	}
}

// waitUnready waits until the sink says what is wrong with its broker.
func waitUnready(t *testing.T, s *Sink) {
	t.Helper()
	for end := time.Now().Add(time.Minute); s.Ready() == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Ready() = nil while the broker does not answer")
		}
	}
	t.Log(s.Ready())
}

// TestTopicOfSomebodyElse has three partitions and takes small messages only: the first is kept, the second leads to parts.
func TestTopicOfSomebodyElse(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	createTopic(t, cfg, 3, "70000")
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	b := makeBatch(t, "x", 1, 10_000)
	if len(b.Payload) < 140_000 {
		t.Fatalf("a payload of %d bytes does not test this", len(b.Payload))
	}
	var d dones
	s.Write(b, d.done)
	flush(t, s, time.Minute)
	d.check(t, 1)
	messages := readTopic(t, cfg)
	got, _ := rowsIn(t, messages)
	if diff := cmp.Diff(rowsOf(b), got); diff != "" || len(messages) < 3 {
		t.Errorf("%d messages, rows (-want +got):\n%s", len(messages), diff)
	}
	checkBooks(t, reg, map[string]float64{"rows_in_total": 10_000, "rows_written_total": 10_000, "messages_written_total": float64(len(messages))})
}

func createTopic(t *testing.T, cfg Config, partitions int, maxBytes string) {
	t.Helper()
	client := &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Timeout: 30 * time.Second, Transport: &kafka.Transport{}}
	answer, err := client.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: cfg.Topic, NumPartitions: partitions, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "max.message.bytes", ConfigValue: maxBytes}},
	}}})
	if err != nil || answer.Errors[cfg.Topic] != nil {
		t.Fatalf("create topic: %v %v", err, answer)
	}
}
