package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/segmentio/kafka-go"

	"tributary/proto/flow"
)

// Headers of a message. All values are decimal or plain text.
const (
	HeaderExporterID = "exporter_id" // also the key
	HeaderBatchSeq   = "batch_seq"
	HeaderVersion    = "version" // the highest version of a row in the message
	// HeaderPart and HeaderParts are 0 and 1 unless a batch was too large for one message (protobuf only).
	HeaderPart  = "part"
	HeaderParts = "parts"
	HeaderRows  = "rows" // protobuf only
	// HeaderDigest is the xxHash64 of the value, in hex: two messages with equal headers are the same message, written twice. (Two
	// renames of one batch may have the same version and differ in their rows.) Protobuf only.
	HeaderDigest = "digest"
	// HeaderRow is the row key, exporter_id/flow_id/record_seq (json only).
	HeaderRow = "row"
)

// errTooLarge says that a message does not fit the topic, however it is cut.
var errTooLarge = errors.New("larger than the topic's max.message.bytes")

// message is one Kafka message, made once and sent unchanged however often it is tried.
type message struct {
	key     []byte
	value   []byte
	headers []kafka.Header
	time    time.Time
}

// size bounds what the message takes in a request: key and varints included.
func (m *message) size() int {
	n := len(m.value) + len(m.key) + 32
	for i := range m.headers {
		n += len(m.headers[i].Key) + len(m.headers[i].Value) + 8
	}
	return n
}

// encoder makes messages of batches. It belongs to one goroutine; its memory may be reused once the messages are written.
type encoder struct {
	json        *jsonEncoder // nil: protobuf
	key         []byte       // of the batch at hand
	now         time.Time    // of the batch at hand
	attribution []byte       // scratch
	buf         []byte       // values of messages, one after the other
	messages    []message
	lent        bool // kafka-go may still be reading buf, after a failed request
}

// keptBytes bounds the memory that a partition keeps between requests.
const keptBytes = 2 << 20

// reset forgets the messages and keeps their memory, unless it is lent or large.
func (e *encoder) reset() {
	clear(e.messages)
	e.messages, e.buf = e.messages[:0], e.buf[:0]
	if e.lent || cap(e.buf) > keptBytes {
		e.messages, e.buf, e.lent = nil, nil, false
	}
}

// encode appends the batch's messages, none larger than limit, with the time now.
func (e *encoder) encode(b *flow.Batch, now time.Time, limit int) error {
	e.key, e.now = []byte(b.ExporterID), now
	if e.json != nil {
		return e.encodeJSON(b, limit)
	}
	before, buf := len(e.messages), len(e.buf)
	if err := e.encodePart(b, limit, 0, 1); err == nil || !errors.Is(err, errTooLarge) {
		return err
	}
	// A part's dictionaries do not shrink with its rows, so cutting has an end.
	for parts := 2; parts <= 64 && parts <= b.Rows; parts *= 2 {
		clear(e.messages[before:])
		e.messages, e.buf = e.messages[:before], e.buf[:buf]
		if err := e.encodeParts(b, limit, parts); err == nil || !errors.Is(err, errTooLarge) {
			return err
		}
	}
	return fmt.Errorf("batch %d of %s, %d rows, %d bytes: %w", b.Seq, b.ExporterID, b.Rows, len(b.Payload), errTooLarge)
}

func (e *encoder) encodeParts(b *flow.Batch, limit, parts int) error {
	rows := make([]int, 0, b.Rows/parts+1)
	for part := range parts {
		rows = rows[:0]
		for row := b.Rows * part / parts; row < b.Rows*(part+1)/parts; row++ {
			rows = append(rows, row)
		}
		if err := e.encodePart(b.Select(rows), limit, part, parts); err != nil {
			return err
		}
	}
	return nil
}

func (e *encoder) encodePart(b *flow.Batch, limit, part, parts int) error {
	e.attribution = b.AppendAttribution(e.attribution[:0])
	if len(b.Payload)+len(e.attribution) > limit {
		return errTooLarge
	}
	start := len(e.buf)
	var err error
	if e.buf, err = b.AppendAttributed(e.buf, e.attribution); err != nil {
		return err
	}
	value := e.buf[start:len(e.buf):len(e.buf)]
	m := message{key: e.key, value: value, time: e.now, headers: []kafka.Header{
		{Key: HeaderExporterID, Value: e.key},
		number(HeaderBatchSeq, b.Seq),
		number(HeaderVersion, uint64(highestVersion(b))),
		number(HeaderPart, uint64(part)),
		number(HeaderParts, uint64(parts)),
		number(HeaderRows, uint64(b.Rows)),
		{Key: HeaderDigest, Value: strconv.AppendUint(nil, xxhash.Sum64(value), 16)},
	}}
	if m.size() > limit {
		return errTooLarge
	}
	e.messages = append(e.messages, m)
	return nil
}

func number(name string, v uint64) kafka.Header {
	return kafka.Header{Key: name, Value: strconv.AppendUint(nil, v, 10)}
}

func highestVersion(b *flow.Batch) uint32 {
	var most uint32
	for _, v := range b.U32[flow.Version] {
		most = max(most, v)
	}
	return most
}
