package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// awaitTopic looks for the topic until it is there, and returns its number of partitions; false if ctx ended first.
func (s *Sink) awaitTopic(ctx context.Context) (int, bool) {
	for n := 1; ; n++ {
		count, err := s.ensureTopic(ctx)
		if err == nil {
			s.fault.clear()
			return count, true
		}
		if ctx.Err() != nil {
			return 0, false
		}
		s.fault.report(err)
		if !backoff(ctx, n) {
			return 0, false
		}
	}
}

// ensureTopic creates the topic if it is not there, reads what it takes, and returns its number of partitions.
func (s *Sink) ensureTopic(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.WriteTimeout)
	defer cancel()
	topic, err := s.lookUp(ctx)
	if errors.Is(err, kafka.UnknownTopicOrPartition) {
		if err := s.create(ctx); err != nil {
			return 0, err
		}
		if topic, err = s.lookUp(ctx); err == nil {
			err = s.awaitLeaders(ctx, topic)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("look up topic %s: %w", s.cfg.Topic, s.explain(err))
	}
	return len(topic.Partitions), s.readLimits(ctx, topic)
}

func (s *Sink) lookUp(ctx context.Context) (kafka.Topic, error) {
	answer, err := s.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{s.cfg.Topic}})
	if err != nil {
		return kafka.Topic{}, err
	}
	for _, t := range answer.Topics {
		if t.Name == s.cfg.Topic && t.Error == nil && len(t.Partitions) > 0 {
			return t, nil
		} else if t.Name == s.cfg.Topic && t.Error != nil {
			return kafka.Topic{}, t.Error
		}
	}
	return kafka.Topic{}, kafka.UnknownTopicOrPartition
}

func (s *Sink) create(ctx context.Context) error {
	answer, err := s.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{{
		Topic: s.cfg.Topic, NumPartitions: s.cfg.Partitions, ReplicationFactor: s.cfg.Replicas, ConfigEntries: s.cfg.settings(),
	}}})
	if err == nil {
		err = answer.Errors[s.cfg.Topic]
	}
	if err != nil && !errors.Is(err, kafka.TopicAlreadyExists) { // another collector was faster
		return fmt.Errorf("create topic %s: %w", s.cfg.Topic, s.explain(err))
	}
	if err == nil {
		s.log.Info("topic created", "topic", s.cfg.Topic, "partitions", s.cfg.Partitions, "retention", s.cfg.Retention)
	}
	return nil
}

// awaitLeaders waits until the leaders of a new topic know that they are: until then they refuse writes (error 6).
func (s *Sink) awaitLeaders(ctx context.Context, topic kafka.Topic) error {
	offsets := make([]kafka.OffsetRequest, len(topic.Partitions))
	for i, p := range topic.Partitions {
		offsets[i] = kafka.LastOffsetOf(p.ID)
	}
	for {
		answer, err := s.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{s.cfg.Topic: offsets}})
		if err == nil {
			for _, p := range answer.Topics[s.cfg.Topic] {
				err = errors.Join(err, p.Error)
			}
		}
		if err == nil || !backoff(ctx, 1) {
			return err
		}
	}
}

// defaultTopicBytes is Kafka's own default of max.message.bytes, taken where the brokers do not let us read the topic's.
const defaultTopicBytes = 1_048_588

// readLimits reads the topic's settings and warns of those that cost data or fit badly. They may be unreadable: that needs a right of its
// own (DESCRIBE_CONFIGS).
func (s *Sink) readLimits(ctx context.Context, topic kafka.Topic) error {
	settings := map[string]string{}
	answer, err := s.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic, ResourceName: s.cfg.Topic,
		ConfigNames: []string{"max.message.bytes", "min.insync.replicas", "cleanup.policy", "retention.ms"},
	}}})
	if err == nil {
		for _, r := range answer.Resources {
			err = errors.Join(err, r.Error)
			for _, e := range r.ConfigEntries {
				settings[e.ConfigName] = e.ConfigValue
			}
		}
	}
	if errors.Is(err, kafka.UnknownTopicOrPartition) { // deleted, while the metadata are still remembered
		return fmt.Errorf("topic %s: %w", s.cfg.Topic, kafka.UnknownTopicOrPartition)
	}
	limit, parseErr := strconv.Atoi(settings["max.message.bytes"])
	if err != nil || parseErr != nil {
		limit = defaultTopicBytes
	}
	if limit < minMessageBytes {
		return fmt.Errorf("topic %s takes messages of %d bytes only; set its max.message.bytes to %d or more", s.cfg.Topic, limit, minMessageBytes)
	}
	s.limit.Store(int64(min(limit-requestOverhead, s.cfg.MaxMessageBytes)))
	replicas := len(topic.Partitions[0].Replicas)
	log := s.log.With("topic", s.cfg.Topic, "partitions", len(topic.Partitions), "replicas", replicas,
		"max_message_bytes", limit, "min_insync_replicas", settings["min.insync.replicas"], "retention_ms", settings["retention.ms"])
	log.Info("topic found")
	if limit < s.cfg.MaxMessageBytes {
		log.Warn("the topic takes smaller messages than max_message_bytes: larger batches are cut into parts; raise the topic's max.message.bytes")
	}
	if replicas > 1 && settings["min.insync.replicas"] == "1" {
		log.Warn("min.insync.replicas is 1: a broker that dies alone can take acknowledged flows with it; set the topic's to 2")
	}
	if strings.Contains(settings["cleanup.policy"], "compact") {
		log.Warn("the topic is compacted: its key is the exporter, so flows will be deleted; set cleanup.policy to delete")
	}
	return nil
}

// restoreTopic is ensureTopic for partitions that find the topic gone: one of them looks, the others go on trying.
func (s *Sink) restoreTopic(ctx context.Context) {
	if !s.restoring.TryLock() {
		return
	}
	defer s.restoring.Unlock()
	if _, err := s.ensureTopic(ctx); err != nil && ctx.Err() == nil {
		s.fault.report(err)
	}
}

// topicIsGone says that the brokers do not know the topic or the partition (any more).
func topicIsGone(err error) bool {
	return errors.Is(err, kafka.UnknownTopicOrPartition) || errors.Is(err, protocol.ErrNoTopic) || errors.Is(err, protocol.ErrNoPartition)
}

// explain says what a connection says: kafka-go wraps it in the names of its methods, or says only that time ran out.
func (s *Sink) explain(err error) error {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return fmt.Errorf("no broker of %s can be reached: %w", strings.Join(s.cfg.Brokers, ", "), dial)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for _, b := range s.cfg.Brokers {
		c, dialErr := net.DialTimeout("tcp", b, time.Second)
		if dialErr == nil {
			_ = c.Close()
			return fmt.Errorf("broker %s accepts connections but does not answer: %w", b, context.DeadlineExceeded)
		}
		err = dialErr
	}
	return fmt.Errorf("no broker of %s can be reached: %w", strings.Join(s.cfg.Brokers, ", "), err)
}
