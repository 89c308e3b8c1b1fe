package feed

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// schema is the version of OwnershipMessage that is written and read.
const schema = 1

const (
	// partBytes is where a large set of claims is cut: brokers take messages of 1 MB by default.
	partBytes = 256 << 10
	// requestBytes bounds the messages of one request.
	requestBytes = 900 << 10
	// marksPerMessage keeps a message of watermarks under partBytes.
	marksPerMessage = 2000
)

// write sends what waits for one partition, every flushEvery, in order, until ctx ends. An empty message says that nothing was left behind.
func (f *Feed) write(ctx context.Context, partition int) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		missed := f.flush(ctx, partition, false)
		for _, id := range missed {
			f.book.RepeatOne(id, f.now().UnixNano())
		}
	}
}

// due takes what waits for a partition, as messages, and returns the exporters whose whole sets are due.
func (f *Feed) due(partition int, leaving bool) (messages []message, missed []string) {
	now := f.now().UnixNano()
	order, marks, missed := f.out.take(partition)
	for _, c := range order {
		messages = f.encodeChanges(messages, c.m, now)
	}
	for first := 0; first == 0 || first < len(marks); first += marksPerMessage {
		part := marks[first:min(first+marksPerMessage, len(marks))]
		messages = f.encode(messages, f.cfg.Node, &flowv1.OwnershipMessage{
			Schema: schema, Node: f.cfg.Node, PublishedNs: now,
			Body: &flowv1.OwnershipMessage_Watermarks{Watermarks: &flowv1.Watermarks{Exporters: part, Leaving: leaving}},
		})
	}
	return messages, missed
}

// flush writes what waits for a partition, until that is done or ctx ends, and returns the exporters whose whole sets are due.
func (f *Feed) flush(ctx context.Context, partition int, leaving bool) (missed []string) {
	messages, missed := f.due(partition, leaving)
	for len(messages) > 0 {
		n, size := 0, 0
		for n < len(messages) && (n == 0 || size+len(messages[n].value) <= requestBytes) {
			size += len(messages[n].value) + 100
			n++
		}
		if !f.produce(ctx, partition, messages[:n]) {
			break
		}
		messages = messages[n:]
	}
	return missed
}

type message struct{ key, value []byte }

func (f *Feed) encode(out []message, key string, m *flowv1.OwnershipMessage) []message {
	value, err := proto.Marshal(m)
	if err != nil { // a name that is not UTF-8 was refused long before
		f.metrics.given.Inc()
		return out
	}
	return append(out, message{[]byte(key), value})
}

// encodeChanges makes messages of one exporter's steps, each small enough.
func (f *Feed) encodeChanges(out []message, m *flowv1.ExporterChanges, now int64) []message {
	var steps []*flowv1.OwnershipStep
	size := 0
	emit := func() {
		if len(steps) == 0 {
			return
		}
		out = f.encode(out, m.GetExporterId(), &flowv1.OwnershipMessage{
			Schema: schema, Node: f.cfg.Node, PublishedNs: now, Body: &flowv1.OwnershipMessage_Changes{Changes: &flowv1.ExporterChanges{
				ExporterId: m.GetExporterId(), Host: m.GetHost(), Stream: m.GetStream(), Steps: steps,
			}},
		})
		steps, size = nil, 0
	}
	for _, step := range m.GetSteps() {
		for _, part := range cut(step) {
			n := proto.Size(part)
			if size+n > partBytes {
				emit()
			}
			steps = append(steps, part)
			size += n
		}
	}
	emit()
	return out
}

// cut makes parts of a step that is too large for a message: first claims, then releases, then the end of the whole set.
func cut(step *flowv1.OwnershipStep) []*flowv1.OwnershipStep {
	m := step.GetOwnership()
	if m == nil || proto.Size(step) <= partBytes {
		return []*flowv1.OwnershipStep{step}
	}
	var parts []*flowv1.OwnershipStep
	part, size := &flowv1.Ownership{}, 0
	next := func(n int) {
		if size += n + 8; size > partBytes {
			parts = append(parts, partOf(step, part))
			part, size = &flowv1.Ownership{}, n+8
		}
	}
	for _, c := range m.GetClaims() {
		next(proto.Size(c))
		part.Claims = append(part.Claims, c)
	}
	for _, r := range m.GetReleases() {
		next(proto.Size(r))
		part.Releases = append(part.Releases, r)
	}
	part.Full = m.GetFull()
	return append(parts, partOf(step, part))
}

func partOf(step *flowv1.OwnershipStep, part *flowv1.Ownership) *flowv1.OwnershipStep {
	return &flowv1.OwnershipStep{ReceivedNs: step.GetReceivedNs(), RepeatedSet: step.GetRepeatedSet(), Identity: step.GetIdentity(), Ownership: part}
}

// produce writes messages until Kafka has them or ctx ends. A request whose answer was lost is sent again: what is read twice changes nothing.
func (f *Feed) produce(ctx context.Context, partition int, messages []message) bool {
	for n := 1; ; n++ {
		records := make([]kafka.Record, len(messages))
		bytes := 0
		for i, m := range messages {
			records[i] = kafka.Record{Time: time.Now(), Key: kafka.NewBytes(m.key), Value: kafka.NewBytes(m.value)}
			bytes += len(m.value)
		}
		answer, err := f.client.Produce(ctx, &kafka.ProduceRequest{
			Topic: f.cfg.Topic, Partition: partition, RequiredAcks: kafka.RequireAll, Records: kafka.NewRecordReader(records...), Compression: kafka.Zstd,
		})
		if err == nil {
			err = answer.Error
		}
		if err == nil {
			f.metrics.written.Add(float64(len(messages)))
			f.metrics.writtenBytes.Add(float64(bytes))
			f.clear()
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		f.metrics.retries.Inc()
		f.report(err)
		if !pause(ctx, n) {
			return false
		}
	}
}

// goodbye writes what is left and says that this node stops.
func (f *Feed) goodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	done := make(chan struct{}, len(f.readers))
	for i := range f.readers {
		go func() {
			f.flush(ctx, i, true)
			done <- struct{}{}
		}()
	}
	for range f.readers {
		<-done
	}
}
