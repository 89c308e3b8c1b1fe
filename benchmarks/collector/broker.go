package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

// startBroker becomes the parent of a Kafka broker made by deploy/dev/kafka.sh, whose data lies in dir.
func startBroker(script, dir string) (*child, string, error) {
	c, err := startChild("broker", script, "run", dir)
	if err != nil {
		return nil, "", err
	}
	// The first start on a machine fetches 43 MB of jars.
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err := c.alive(); err != nil {
			return nil, "", err
		}
		log, err := os.ReadFile(filepath.Join(dir, "kafka.log"))
		if err != nil || !strings.Contains(string(log), "Kafka Server started") {
			continue
		}
		address, err := os.ReadFile(filepath.Join(dir, "address"))
		return c, strings.TrimSpace(string(address)), err
	}
	c.stop(syscall.SIGTERM, 10*time.Second)
	return nil, "", errors.New("the broker does not start in time")
}

// topicMessages counts what the topic's partitions hold.
func topicMessages(brokers, topic string) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	first, _, _ := strings.Cut(brokers, ",")
	partitions, err := kafka.LookupPartitions(ctx, "tcp", first, topic)
	if err != nil {
		return 0, fmt.Errorf("look up topic %s: %w", topic, err)
	}
	var messages uint64
	for _, p := range partitions {
		conn, err := kafka.DialPartition(ctx, "tcp", first, p)
		if err != nil {
			return 0, fmt.Errorf("connect to partition %d: %w", p.ID, err)
		}
		low, high, err := conn.ReadOffsets()
		_ = conn.Close()
		if err != nil {
			return 0, fmt.Errorf("read the offsets of partition %d: %w", p.ID, err)
		}
		messages += uint64(high - low)
	}
	return messages, nil
}

// deleteTopic makes room: a configuration leaves hundreds of megabytes behind.
func deleteTopic(brokers, topic string) error {
	client := kafka.Client{Addr: kafka.TCP(strings.Split(brokers, ",")...), Timeout: 10 * time.Second}
	answer, err := client.DeleteTopics(context.Background(), &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return fmt.Errorf("delete topic %s: %w", topic, err)
	}
	return answer.Errors[topic]
}
