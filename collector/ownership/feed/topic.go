package feed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

// begin finds or creates the topic, and makes a reader for each partition.
func (f *Feed) begin(ctx context.Context) ([]*reader, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	count, err := f.partitions(ctx)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		if err = f.create(ctx); err == nil {
			count, err = f.partitions(ctx)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", f.cfg.Topic, err)
	}
	f.check(ctx)
	return f.positions(ctx, count)
}

func (f *Feed) partitions(ctx context.Context) (int, error) {
	answer, err := f.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{f.cfg.Topic}})
	if err != nil {
		return 0, err
	}
	for _, t := range answer.Topics {
		if t.Name != f.cfg.Topic {
			continue
		}
		if t.Error != nil {
			return 0, t.Error
		}
		if len(t.Partitions) > 0 {
			return len(t.Partitions), nil
		}
	}
	return 0, kafka.UnknownTopicOrPartition
}

func (f *Feed) create(ctx context.Context) error {
	answer, err := f.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: f.cfg.Topic, NumPartitions: f.cfg.Partitions, ReplicationFactor: f.cfg.Replicas, ConfigEntries: []kafka.ConfigEntry{
			{ConfigName: "cleanup.policy", ConfigValue: "delete"},
			{ConfigName: "retention.ms", ConfigValue: strconv.FormatInt(f.cfg.Retention.Milliseconds(), 10)},
		},
	}}})
	if err == nil {
		err = answer.Errors[f.cfg.Topic]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) { // another collector was faster
		return fmt.Errorf("create: %w", err)
	}
	return nil
}

// check warns of settings that cost ownership. They may be unreadable: that needs a right of its own.
func (f *Feed) check(ctx context.Context) {
	answer, err := f.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: f.cfg.Topic, ConfigNames: []string{"cleanup.policy", "retention.ms"},
	}}})
	if err != nil || len(answer.Resources) == 0 {
		return
	}
	for _, e := range answer.Resources[0].ConfigEntries {
		switch ms, _ := strconv.ParseInt(e.ConfigValue, 10, 64); {
		case e.ConfigName == "cleanup.policy" && strings.Contains(e.ConfigValue, "compact"):
			f.log.Warn("the topic is compacted: earlier claims of an exporter will be deleted; set cleanup.policy to delete", "topic", f.cfg.Topic)
		case e.ConfigName == "retention.ms" && ms > 0 && time.Duration(ms)*time.Millisecond < f.cfg.Back:
			f.log.Warn("the topic keeps messages for too short a time: a node that starts will know too little", "topic", f.cfg.Topic, "retention_ms", ms, "needed", f.cfg.Back)
		}
	}
}

// positions makes the readers: from the configured offsets where the topic still has them, else from Back on.
func (f *Feed) positions(ctx context.Context, count int) ([]*reader, error) {
	ends, err := f.offsets(ctx, count, kafka.LastOffsetOf)
	if err != nil {
		return nil, err
	}
	starts, err := f.offsets(ctx, count, kafka.FirstOffsetOf)
	if err != nil {
		return nil, err
	}
	since := time.Now().Add(-f.cfg.Back)
	backs, err := f.offsets(ctx, count, func(p int) kafka.OffsetRequest { return kafka.TimeOffsetOf(p, since) })
	if err != nil {
		return nil, err
	}
	known := len(f.cfg.From) == count
	for p := range count {
		known = known && f.cfg.From[p] >= starts[p] && f.cfg.From[p] <= ends[p]
	}
	readers := make([]*reader, count)
	for p := range readers {
		r := &reader{f: f, id: p, target: ends[p], nodes: map[string]int64{}}
		switch {
		case known:
			r.next.Store(f.cfg.From[p])
		case backs[p] < 0: // nothing is that young
			r.next.Store(ends[p])
		default:
			r.next.Store(backs[p])
		}
		r.replayed.Store(r.next.Load() >= r.target)
		readers[p] = r
	}
	return readers, nil
}

// offsets asks for one offset of each partition.
func (f *Feed) offsets(ctx context.Context, count int, of func(partition int) kafka.OffsetRequest) ([]int64, error) {
	requests := make([]kafka.OffsetRequest, count)
	for p := range requests {
		requests[p] = of(p)
	}
	answer, err := f.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{f.cfg.Topic: requests}})
	if err != nil {
		return nil, fmt.Errorf("offsets: %w", err)
	}
	out := make([]int64, count)
	found := 0
	for _, p := range answer.Topics[f.cfg.Topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("offsets of partition %d: %w", p.Partition, p.Error)
		}
		if p.Partition < 0 || p.Partition >= count {
			continue
		}
		found++
		switch req := requests[p.Partition]; req.Timestamp {
		case kafka.FirstOffset:
			out[p.Partition] = p.FirstOffset
		case kafka.LastOffset:
			out[p.Partition] = p.LastOffset
		default:
			out[p.Partition] = -1
			for offset := range p.Offsets {
				out[p.Partition] = offset
			}
		}
	}
	if found != count {
		return nil, fmt.Errorf("offsets of %d partitions out of %d", found, count)
	}
	return out, nil
}
