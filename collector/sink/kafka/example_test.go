package kafka_test

import (
	"context"
	"log"

	kafkago "github.com/segmentio/kafka-go"

	"tributary/collector/sink/kafka"
	"tributary/proto/flow"
)

// A consumer that sums bytes by remote workload. It counts each row once, whatever was written twice, and under its newest name.
func ExampleDecoder() {
	type key struct {
		exporter string
		flow     uint64
		record   uint32
	}
	type row struct {
		version  uint32
		workload string
		bytes    uint64
	}
	newest := map[key]row{} // a real consumer forgets rows that are older than the late ones it still wants
	total := map[string]uint64{}

	reader := kafkago.NewReader(kafkago.ReaderConfig{
		Brokers: []string{"127.0.0.1:9092"}, Topic: "flows.v1", GroupID: "bytes-by-workload", MaxBytes: 16 << 20,
	})
	decoder, err := kafka.NewDecoder()
	if err != nil {
		log.Fatal(err)
	}
	var batch flow.Batch
	for {
		message, err := reader.ReadMessage(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		if err := decoder.Decode(message.Value, &batch); err != nil {
			log.Printf("offset %d: %v", message.Offset, err)
			continue
		}
		for i := range batch.Rows {
			k := key{batch.ExporterID, batch.Get64(flow.FlowID, i), batch.Get32(flow.RecordSeq, i)}
			now := row{batch.Get32(flow.Version, i), batch.Text(flow.RemoteWorkload, i), batch.Get64(flow.TxBytes, i)}
			before, known := newest[k]
			if known && before.version >= now.version {
				continue // the same row again, or an older answer
			}
			total[before.workload] -= before.bytes
			total[now.workload] += now.bytes
			newest[k] = now
		}
	}
}
