package e2e

import (
	"testing"
	"time"

	"tributary/collector/sink/kafka"
	"tributary/deploy/dev/kafkatest"
	"tributary/proto/flow"
)

// TestKafkaIsAbsent: nobody waits for a best_effort Kafka that is away, not even a kill of the collector costs it anything, and when it is back it gets
// every row that the store has.
func TestKafkaIsAbsent(t *testing.T) {
	r := bareRig(t, false)
	broker := kafkatest.New(t, "")
	broker.Kill()
	r.kafka = broker.Addr
	r.collectorArgs = []string{"--kafka-delivery", "best_effort"}
	r.startCollector()
	r.startExporter()
	r.plainTraffic()
	const acked, pending = "tributary_exporter_spool_acked_rows_total", `tributary_collector_backlog_pending_rows{sink="kafka"}`
	r.until("the rows are acknowledged and wait", func() bool {
		return r.sample(r.exporterMetrics)[acked] >= 2*plainConnections && r.sample(r.collectorMetrics)[pending] >= 2*plainConnections
	})
	r.collector.kill()
	time.Sleep(500 * time.Millisecond) // its engine lets go of the port
	r.startCollector()
	waiting := r.sample(r.collectorMetrics)[pending]
	if waiting < 2*plainConnections {
		t.Errorf("%v rows wait for Kafka", waiting)
	}
	broker.Restart(t)
	r.until("nothing waits for Kafka", func() bool {
		s := r.sample(r.collectorMetrics)
		return s[pending] == 0 && s[`tributary_collector_backlog_acked_rows_total{sink="kafka"}`] >= waiting
	})
	r.until("Kafka has what the store has", func() bool { return r.distinctRows() == r.number(`SELECT count() FROM flows`) })
}

// until waits for something.
func (r *rig) until(what string, so func() bool) {
	r.t.Helper()
	for end := time.Now().Add(soon); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// distinctRows counts the rows in Kafka by their keys.
func (r *rig) distinctRows() uint64 {
	r.t.Helper()
	decoder, err := kafka.NewDecoder()
	if err != nil {
		r.t.Fatal(err)
	}
	seen, b := map[rowKey]bool{}, new(flow.Batch)
	for _, value := range r.messages(topic) {
		if err := decoder.Decode(value, b); err != nil {
			r.t.Fatal(err)
		}
		for i := range b.Rows {
			seen[rowKey{b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i)}] = true
		}
	}
	return uint64(len(seen))
}
