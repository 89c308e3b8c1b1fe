package feed

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// longTopic is a broker that gives one message a request, and notes how long after the message before it may take for that.
type longTopic struct {
	name     string
	messages int64
	before   time.Time
	least    time.Duration
}

// RoundTrip implements kafka.RoundTripper.
func (l *longTopic) RoundTrip(ctx context.Context, _ net.Addr, r kafka.Request) (kafka.Response, error) {
	if end, ok := ctx.Deadline(); ok {
		l.least = min(l.least, end.Sub(l.before))
	}
	switch r := r.(type) {
	case *metadata.Request:
		return &metadata.Response{Topics: []metadata.ResponseTopic{{Name: l.name, Partitions: []metadata.ResponsePartition{{}}}}}, nil
	case *listoffsets.Request:
		end := map[int64]int64{kafka.FirstOffset: 0, kafka.LastOffset: l.messages}[r.Topics[0].Partitions[0].Timestamp]
		answer := listoffsets.ResponsePartition{Timestamp: r.Topics[0].Partitions[0].Timestamp, Offset: end}
		return &listoffsets.Response{Topics: []listoffsets.ResponseTopic{{Topic: l.name, Partitions: []listoffsets.ResponsePartition{answer}}}}, nil
	case *fetch.Request:
		at := r.Topics[0].Partitions[0].FetchOffset
		one := protocol.NewRecordReader(protocol.Record{Offset: at, Key: protocol.NewBytes([]byte("k")), Value: protocol.NewBytes([]byte("v"))})
		return &fetch.Response{Topics: []fetch.ResponseTopic{{Topic: l.name, Partitions: []fetch.ResponsePartition{{
			HighWatermark: l.messages, RecordSet: protocol.RecordSet{Records: one},
		}}}}}, nil
	}
	return nil, fmt.Errorf("%T was not expected", r)
}

// A topic that takes longer to read than one request may is read all the same.
func TestALongTopicIsReadWhole(t *testing.T) {
	broker := &longTopic{name: "assignments", messages: 3, least: time.Hour}
	n := 0
	a := NewAssigned([]string{"127.0.0.1:9"}, broker, broker.name, func(string, []byte, time.Time) {
		n++
		time.Sleep(500 * time.Millisecond) // what a message costs
		broker.before = time.Now()
	}, func() {}, slog.New(slog.DiscardHandler))
	var next []int64
	if whole, err := a.round(t.Context(), &next); err != nil || !whole || n != 3 {
		t.Fatalf("%d messages, whole %t, %v", n, whole, err)
	}
	if broker.least < requestTimeout {
		t.Errorf("a request had %v: the messages before it were counted in", broker.least)
	}
}

// A topic that nobody has made is said to be what it is, and so is its coming.
func TestATopicThatIsNotThereYet(t *testing.T) {
	broker := &longTopic{name: "assignments"}
	var said bytes.Buffer
	whole := make(chan struct{}, 1)
	a := NewAssigned([]string{"127.0.0.1:9"}, &laterTopic{longTopic: broker}, broker.name, func(string, []byte, time.Time) {}, func() { whole <- struct{}{} },
		slog.New(slog.NewTextHandler(&said, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	<-whole
	<-whole
	cancel()
	<-ended
	for _, want := range []string{"the topic of assignments cannot be read at present", "the topic of assignments is read again"} {
		if n := strings.Count(said.String(), want); n != 1 {
			t.Errorf("%q is said %d times: %s", want, n, said.String())
		}
	}
}

// laterTopic fails its first request.
type laterTopic struct {
	*longTopic
	asked atomic.Int32
}

// RoundTrip implements kafka.RoundTripper.
func (l *laterTopic) RoundTrip(ctx context.Context, a net.Addr, r kafka.Request) (kafka.Response, error) {
	if l.asked.Add(1) == 1 {
		return nil, kafka.UnknownTopicOrPartition
	}
	return l.longTopic.RoundTrip(ctx, a, r)
}
