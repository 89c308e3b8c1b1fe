package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"tributary/collector/sink/kafka"
	"tributary/proto/flow"
)

// topic reads what Kafka has, as a consumer that counts: with the recipe of docs/delivery.md.
type topic struct {
	brokers    string
	partitions []int
	offsets    map[int]int64
	decoder    *kafka.Decoder
	batch      *flow.Batch
	// A row may come again after the round in which it was made, and not much later: two generations are enough.
	newest, before map[rowKey]uint32
	repeats        int
}

type rowKey struct {
	exporter string
	flow     uint64
	record   uint32
}

// sums are what the rows of a batch add up to.
type sums struct {
	rows   int
	tx, rx uint64
}

const flowsTopic = "flows.v1"

func newTopic(ctx context.Context, brokers string) (*topic, error) {
	t := &topic{brokers: brokers, offsets: map[int]int64{}, batch: new(flow.Batch), newest: map[rowKey]uint32{}}
	var err error
	if t.decoder, err = kafka.NewDecoder(); err != nil {
		return nil, err
	}
	partitions, err := kafkago.LookupPartitions(ctx, "tcp", brokers, flowsTopic)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", flowsTopic, err)
	}
	for _, p := range partitions {
		t.partitions = append(t.partitions, p.ID)
	}
	return t, nil
}

// take says whether a row is fresh, replaces an earlier one, or neither.
func (t *topic) take(b *flow.Batch, i int) (fresh, renamed bool) {
	key := rowKey{b.ExporterID, b.Get64(flow.FlowID, i), b.Get32(flow.RecordSeq, i)}
	version := b.Get32(flow.Version, i)
	was, known := t.newest[key]
	if !known {
		was, known = t.before[key]
	}
	if known && was >= version {
		return false, false
	}
	t.newest[key] = version
	return !known, known
}

// read takes everything new and adds it up: by batch for replayers, whose rows have their bytes for ever, and by run for the others.
func (t *topic) read(ctx context.Context) (map[batchKey]sums, error) {
	t.newest, t.before, t.repeats = map[rowKey]uint32{}, t.newest, 0
	got := map[batchKey]sums{}
	for _, p := range t.partitions {
		if err := t.partition(ctx, p, got); err != nil {
			return nil, fmt.Errorf("partition %d of %s: %w", p, flowsTopic, err)
		}
	}
	return got, nil
}

func (t *topic) partition(ctx context.Context, id int, got map[batchKey]sums) error {
	conn, err := kafkago.DialLeader(ctx, "tcp", t.brokers, flowsTopic, id)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // only read
	last, err := conn.ReadLastOffset()
	if err != nil {
		return err
	}
	if t.offsets[id] >= last {
		return nil
	}
	if _, err := conn.Seek(t.offsets[id], kafkago.SeekAbsolute); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	for t.offsets[id] < last {
		messages := conn.ReadBatch(1, 64<<20)
		for {
			m, err := messages.ReadMessage()
			if err != nil {
				break // the end of what one request brings
			}
			t.offsets[id] = m.Offset + 1
			if err := t.count(m.Value, got); err != nil {
				return err
			}
		}
		if err := messages.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (t *topic) count(message []byte, got map[batchKey]sums) error {
	b := t.batch
	if err := t.decoder.Decode(message, b); err != nil {
		return err
	}
	key := batchKey{b.ExporterID, b.Seq}
	if !strings.HasPrefix(b.ExporterID, "replay-") {
		key.Seq = 0
	}
	s := got[key]
	for i := range b.Rows {
		fresh, renamed := t.take(b, i)
		if fresh {
			s.rows++
			s.tx, s.rx = s.tx+b.Get64(flow.TxBytes, i), s.rx+b.Get64(flow.RxBytes, i)
		}
		if !fresh && !renamed {
			t.repeats++
		}
	}
	if s.rows > 0 { // not only repetitions of what an earlier round has counted
		got[key] = s
	}
	return nil
}
