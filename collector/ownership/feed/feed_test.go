package feed

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"tributary/collector/ownership"
	"tributary/collector/ownership/session"
	"tributary/deploy/dev/kafkatest"
	"tributary/proto/flowv1"
)

func TestMain(m *testing.M) { os.Exit(kafkatest.Main(m)) }

// TestNodesShare: what an exporter says to one node is known to the other, to one that starts later, and to one that restarts.
func TestNodesShare(t *testing.T) {
	broker, topic := kafkatest.Start(t), "own."+t.Name()
	a, b := start(t, broker, topic, "a", nil).ready(), start(t, broker, topic, "b", nil).ready()
	from := time.Now().UnixNano() - 60*second
	s := a.speaks("x", true, claim(1, "shop/web", from), claim(2, "shop/api", from))
	mark(t, s)
	b.named(1, time.Now().UnixNano()-second, "shop/web")
	late := start(t, broker, topic, "c", nil).ready()
	mark(t, s)
	late.named(2, time.Now().UnixNano()-second, "shop/api")
	at := time.Now().UnixNano()
	if err := s.Ownership(&flowv1.Ownership{Releases: []*flowv1.Release{{Network: "n", Addr: claim(2, "", 0).GetAddr(), AtNs: at}}}, at, quiet{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "released on b and c", func() string {
		mark(t, s)
		if one, two := b.owner(2, at+second), late.owner(2, at+second); one != "no_evidence" || two != "no_evidence" {
			return one + " " + two
		}
		return ""
	})

	// b stops and starts again out of its snapshot; meanwhile address 3 appears.
	path := filepath.Join(t.TempDir(), "snapshot")
	if err := Save(path, topic, b.table, Restored{Offsets: b.feed.Offsets()}, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	if err := s.Ownership(&flowv1.Ownership{Claims: []*flowv1.Claim{claim(3, "shop/db", from)}}, time.Now().UnixNano(), quiet{}); err != nil {
		t.Fatal(err)
	}
	mark(t, s)
	again := ownership.New(ownership.Config{})
	beside, err := Restore(path, topic, again, time.Minute, time.Now())
	if err != nil || beside == nil || len(beside.Offsets) != 16 {
		t.Fatalf("%v %v", beside, err)
	}
	last := time.Now().UnixNano() - second
	mark(t, s)
	b = start(t, broker, topic, "b2", func(c *Config) { c.From, c.Back = beside.Offsets, time.Millisecond }).ready()
	b.named(3, last, "shop/db")
}

// TestFaults have one broker, because its start is the dearest thing here.
func TestFaults(t *testing.T) {
	broker := kafkatest.New(t, "")
	t.Run("cut", func(t *testing.T) { testCut(t, broker, "own.cut") })
	t.Run("absent", func(t *testing.T) { testAbsent(t, broker, "own.absent") })
}

// testCut: a node that is cut off waits; when Kafka is back it knows everything, and nothing that was said is lost.
func testCut(t *testing.T, broker *kafkatest.Broker, topic string) {
	a, b := start(t, broker.Addr, topic, "a", nil).ready(), start(t, broker.Addr, topic, "b", nil).ready()
	from := time.Now().UnixNano() - 60*second
	s := a.speaks("x", true, claim(1, "shop/web", from))
	mark(t, s)
	b.named(1, time.Now().UnixNano()-second, "shop/web")
	if err := broker.Pause(); err != nil {
		t.Fatal(err)
	}
	cut := time.Now().UnixNano()
	if err := s.Ownership(&flowv1.Ownership{Claims: []*flowv1.Claim{claim(2, "shop/api", cut)}}, cut, quiet{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	mark(t, s)
	if got := b.owner(2, cut+second/2); got != "wait" && got != "pending" { // the latter after three seconds
		t.Errorf("cut off, b says %s of an address that it has not heard of", got)
	}
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	b.named(2, cut+second/2, "shop/api")
}

// testAbsent: an absent Kafka is a state, and what does not fit meanwhile is given up, counted, and said whole later.
func testAbsent(t *testing.T, broker *kafkatest.Broker, topic string) {
	a := start(t, broker.Addr, topic, "a", nil).ready()
	broker.Kill()
	a.feed.out.room = 2000
	from := time.Now().UnixNano() - 60*second
	s := a.speaks("x", true)
	for i := range byte(100) {
		if err := s.Ownership(&flowv1.Ownership{Claims: []*flowv1.Claim{claim(i+1, "shop/web", from)}}, time.Now().UnixNano(), quiet{}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "said to be unready", func() string {
		if a.feed.Ready() == nil {
			return "ready"
		}
		return ""
	})
	if a.counter("given_up_steps_total") == 0 {
		t.Error("nothing was given up: the test says nothing")
	}
	a.feed.out.mu.Lock()
	a.feed.out.room = 1 << 20
	a.feed.out.mu.Unlock()
	broker.Restart(t)
	b := start(t, broker.Addr, topic, "b", nil).ready()
	eventually(t, "known to b", func() string {
		mark(t, s)
		if got := b.owner(100, from+second); got != "shop/web" {
			return got
		}
		return ""
	})
}

// TestForeignMessages: what is not ours or of another version is counted and left out.
func TestForeignMessages(t *testing.T) {
	broker, topic := kafkatest.Start(t), "own."+t.Name()
	a, b := start(t, broker, topic, "a", nil).ready(), start(t, broker, topic, "b", nil).ready()
	other, err := proto.Marshal(&flowv1.OwnershipMessage{Schema: 2, Node: "z"})
	if err != nil {
		t.Fatal(err)
	}
	empty, err := proto.Marshal(&flowv1.OwnershipMessage{Schema: 1, Node: "z"})
	if err != nil {
		t.Fatal(err)
	}
	client := &kafka.Client{Addr: kafka.TCP(broker), Timeout: 10 * time.Second}
	var records []kafka.Record
	for _, v := range [][]byte{other, empty, []byte("{\"json\": true}"), nil, {}} {
		records = append(records, kafka.Record{Value: kafka.NewBytes(v)})
	}
	if r, err := client.Produce(t.Context(), &kafka.ProduceRequest{Topic: topic, Partition: 3, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(records...)}); err != nil || r.Error != nil {
		t.Fatal(err, r)
	}
	eventually(t, "counted", func() string {
		if b.counter("read_messages_total schema") != 1 || b.counter("read_messages_total malformed") != 4 {
			return fmt.Sprint(b.counter("read_messages_total schema"), b.counter("read_messages_total malformed"))
		}
		return ""
	})
	s := a.speaks("x", true, claim(1, "shop/web", time.Now().UnixNano()-60*second))
	mark(t, s)
	b.named(1, time.Now().UnixNano()-second, "shop/web")
}

// TestLargeSets are cut into messages that the topic takes.
func TestLargeSets(t *testing.T) {
	full := &flowv1.Ownership{Full: true}
	for i := range 20_000 {
		c := claim(byte(i), fmt.Sprintf("shop/%d", i), 1)
		full.Claims = append(full.Claims, c)
	}
	f := &Feed{cfg: Config{Node: "a"}}
	messages := f.encodeChanges(nil, &flowv1.ExporterChanges{ExporterId: "x", Stream: 1, Steps: []*flowv1.OwnershipStep{
		{Hello: true}, {Ownership: full, RepeatedSet: true}, {Ownership: &flowv1.Ownership{}},
	}}, 1)
	claims, ends, steps := 0, 0, 0
	for _, m := range messages {
		if len(m.value) > 2*partBytes {
			t.Errorf("a message of %d bytes", len(m.value))
		}
		var got flowv1.OwnershipMessage
		if err := proto.Unmarshal(m.value, &got); err != nil {
			t.Fatal(err)
		}
		for _, s := range got.GetChanges().GetSteps() {
			steps++
			claims += len(s.GetOwnership().GetClaims())
			if s.GetOwnership().GetFull() {
				ends++
				if claims != 20_000 || !s.GetRepeatedSet() {
					t.Errorf("the end of the set after %d claims", claims)
				}
			}
		}
	}
	if claims != 20_000 || ends != 1 || len(messages) < 3 {
		t.Errorf("%d claims, %d ends, %d messages, %d steps", claims, ends, len(messages), steps)
	}
}

// TestSnapshotFile: a damaged, old or foreign file is not used.
func TestSnapshotFile(t *testing.T) {
	table := ownership.New(ownership.Config{})
	if err := table.Claim(&ownership.Claim{Exporter: "x", Network: "n", Addr: ownership.Addr{Hi: 1, Lo: 2}, Owner: ownership.Owner{Workload: "w"}, From: 5}, 5); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	now := time.Now()
	saved := Restored{Offsets: []int64{1, 2}, Owned: []session.Owned{{ExporterID: "x", Identity: make([]byte, 16), Stream: 3}, {ExporterID: "y", Stream: 4}}}
	if err := Save(path, "own", table, saved, now); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(topic string, later time.Duration) (bool, error) {
		beside, err := Restore(path, topic, ownership.New(ownership.Config{}), time.Minute, now.Add(later))
		if diff := cmp.Diff(&saved, beside); beside != nil && diff != "" {
			t.Errorf("not as saved:\n%s", diff)
		}
		return beside != nil, err
	}
	if ok, err := restore("own", time.Second); !ok || err != nil {
		t.Errorf("a good one: %v %v", ok, err)
	}
	if ok, err := restore("own", time.Hour); ok || err != nil {
		t.Errorf("an old one: %v %v", ok, err)
	}
	if ok, err := restore("another", time.Second); ok || err != nil {
		t.Errorf("one of another topic: %v %v", ok, err)
	}
	for i := range whole {
		for _, damaged := range [][]byte{whole[:i], append(append(append([]byte{}, whole[:i]...), whole[i]^0x10), whole[i+1:]...)} {
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if ok, err := restore("own", time.Second); ok || err == nil {
				t.Fatalf("damaged at %d of %d: %v %v", i, len(whole), ok, err)
			}
		}
	}
	os.Remove(path)
	if ok, err := restore("own", 0); ok || err != nil {
		t.Errorf("none: %v %v", ok, err)
	}
	if err := Save(filepath.Join(path, "in", "no", "directory"), "own", table, Restored{}, now); err == nil {
		t.Error("saved into a directory that is not there")
	}
}

// TestAssigned reads a topic of assignments whole, and what comes later.
func TestAssigned(t *testing.T) {
	broker, topic := kafkatest.Start(t), "assigned."+t.Name()
	client := &kafka.Client{Addr: kafka.TCP(broker), Timeout: 10 * time.Second}
	var mu sync.Mutex
	got, rounds := map[string]string{}, 0
	set := func(key string, value []byte, _ time.Time) {
		mu.Lock()
		defer mu.Unlock()
		if got[key] = string(value); value == nil {
			delete(got, key)
		}
	}
	whole := func() {
		mu.Lock()
		defer mu.Unlock()
		rounds++
	}
	a := NewAssigned([]string{broker}, &kafka.Transport{MetadataTTL: time.Second, MetadataTopics: []string{topic}}, topic, set, whole, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx)
	}()
	defer func() { cancel(); <-ended }()
	time.Sleep(100 * time.Millisecond)
	if a.Current() {
		t.Error("current without a topic")
	}
	if _, err := client.CreateTopics(t.Context(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{Topic: topic, NumPartitions: 3, ReplicationFactor: 1}}}); err != nil {
		t.Fatal(err)
	}
	put := func(partition int, key string, value []byte) {
		t.Helper()
		eventually(t, "written", func() string {
			r, err := client.Produce(t.Context(), &kafka.ProduceRequest{
				Topic: topic, Partition: partition, RequiredAcks: kafka.RequireAll,
				Records: kafka.NewRecordReader(kafka.Record{Key: kafka.NewBytes([]byte(key)), Value: kafka.NewBytes(value)}),
			})
			if err == nil {
				err = r.Error
			}
			if err != nil {
				return err.Error()
			}
			return ""
		})
	}
	put(0, "a", []byte("1"))
	put(1, "b", []byte("2"))
	put(2, "c", []byte("3"))
	put(0, "a", nil)
	put(1, "b", []byte("4"))
	eventually(t, "read", func() string {
		mu.Lock()
		defer mu.Unlock()
		if text := fmt.Sprint(got); text != "map[b:4 c:3]" || rounds == 0 || !a.Current() {
			return fmt.Sprint(text, rounds, a.Current())
		}
		return ""
	})
}
