package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"tributary/deploy/dev/kafkatest"
	"tributary/deploy/dev/ports"
)

func TestBrokerKilledInTheMiddleLosesNothing(t *testing.T) {
	broker := kafkatest.New(t, "")
	cfg := testConfig(t, broker.Addr)
	cfg.WriteTimeout = 2 * time.Second
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	want := map[string]string{}
	var d dones
	const batches = 300
	for i := range batches {
		b := makeBatch(t, fmt.Sprintf("node-%d/1", i%8), uint64(i+1), 100)
		maps.Copy(want, rowsOf(b))
		s.Write(b, d.done)
		if i == batches/2 {
			broker.Kill()
		}
		time.Sleep(2 * time.Millisecond)
	}
	waitUnready(t, s)
	if s.Pending() == 0 {
		t.Error("nothing is pending while the broker is dead")
	}
	broker.Restart(t)
	flush(t, s, 2*time.Minute)
	d.check(t, batches)
	got, repeats := rowsIn(t, readTopic(t, cfg))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	t.Logf("%d messages came twice, with equal headers", repeats)
	retries := counterSum(t, reg, "tributary_collector_kafka_retries_total")
	if retries == 0 || retries > 300 {
		t.Errorf("%v retries: none, or no backoff", retries)
	}
	if err := s.Ready(); err != nil {
		t.Errorf("Ready() = %v after the restart", err)
	}
}

func counterSum(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// TestBrokerThatStopsAnswering makes the duplicates that at-least-once allows: the request arrived, the answer came too late.
func TestBrokerThatStopsAnswering(t *testing.T) {
	broker := kafkatest.New(t, "")
	cfg := testConfig(t, broker.Addr)
	cfg.WriteTimeout = time.Second
	s, _ := newSink(t, cfg)
	s.Start(t.Context())
	var d dones
	s.Write(makeBatch(t, "x", 1, 10), d.done)
	flush(t, s, time.Minute)
	if err := broker.Pause(); err != nil {
		t.Fatal(err)
	}
	b := makeBatch(t, "x", 2, 10)
	s.Write(b, d.done)
	waitUnready(t, s)
	if err := broker.Resume(); err != nil {
		t.Fatal(err)
	}
	flush(t, s, time.Minute)
	d.check(t, 2)
	got, repeats := rowsIn(t, readTopic(t, cfg))
	if len(got) != 20 {
		t.Errorf("%d rows, want 20", len(got))
	}
	t.Logf("%d messages came twice, with equal headers", repeats)
}

func TestTopicDeletedWhileWriting(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	s, _ := newSink(t, cfg)
	s.Start(t.Context())
	var d dones
	s.Write(makeBatch(t, "x", 1, 10), d.done)
	flush(t, s, time.Minute)
	client := &kafka.Client{Addr: kafka.TCP(cfg.Brokers...), Timeout: 30 * time.Second, Transport: &kafka.Transport{}}
	if _, err := client.DeleteTopics(t.Context(), &kafka.DeleteTopicsRequest{Topics: []string{cfg.Topic}}); err != nil {
		t.Fatal(err)
	}
	s.Write(makeBatch(t, "x", 2, 10), d.done)
	flush(t, s, 2*time.Minute)
	d.check(t, 2)
	if got, _ := rowsIn(t, readTopic(t, cfg)); len(got) != 10 {
		t.Errorf("%d rows in the topic created again, want the 10 written after", len(got))
	}
}

func TestOneBadBatchTakesNoOtherWithIt(t *testing.T) {
	cfg := testConfig(t, kafkatest.Start(t))
	createTopic(t, cfg, 1, "70000")
	cfg.BatchTimeout = 50 * time.Millisecond
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	waitReady(t, s)
	bad := makeBatch(t, "x", 2, 3)
	for range 300 { // a dictionary does not get smaller with fewer rows
		bad.AttrStrings = append(bad.AttrStrings, strings.Repeat("a", 500))
	}
	var good, refused dones
	s.Write(makeBatch(t, "x", 1, 10), good.done)
	s.Write(bad, refused.done)
	s.Write(makeBatch(t, "x", 3, 10), good.done)
	flush(t, s, time.Minute)
	good.check(t, 2)
	if len(refused.errs) != 1 || !errors.Is(refused.errs[0], errTooLarge) || !errors.Is(refused.errs[0], ErrDropped) {
		t.Errorf("done of the bad batch: %v, want once errTooLarge", refused.errs)
	}
	checkBooks(t, reg, map[string]float64{
		"rows_in_total": 23, "rows_written_total": 20, "rows_dropped_total{too_large}": 3, "messages_written_total": 2,
	})
}

func TestUnreachableBrokerIsAStateNotAnError(t *testing.T) {
	addr := ports.Address(t)
	cfg := testConfig(t, addr)
	cfg.WriteTimeout = time.Second
	s, reg := newSink(t, cfg)
	s.Start(t.Context())
	var d dones
	s.Write(makeBatch(t, "x", 1, 10), d.done)
	var reason string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if reason = s.Ready().Error(); strings.Contains(reason, "refused") {
			break
		}
	}
	if !strings.Contains(reason, addr) || !strings.Contains(reason, "connection refused") || strings.Contains(reason, "\n") {
		t.Errorf("Ready() = %q, want one sentence with the address and the reason", reason)
	}
	t.Log(reason)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); err == nil {
		t.Error("Close = nil with a batch pending")
	}
	if len(d.errs) != 1 || !errors.Is(d.errs[0], ErrStopped) {
		t.Errorf("done: %v, want once ErrStopped", d.errs)
	}
	checkBooks(t, reg, map[string]float64{"rows_in_total": 10, "rows_dropped_total{stopped}": 10, "unready": 1})
}
