package kafka

import (
	"fmt"

	"tributary/proto/flow"
)

// Decoder reads protobuf messages of the topic: the consumer's side. It is not safe for concurrent use.
//
// A consumer sees a row more than once when a reply was lost, when an exporter sent its batch again, and when a row was named later. It
// keeps, per (exporter_id, flow_id, record_seq), the row with the highest version; ClickHouse does so with ReplacingMergeTree(version).
type Decoder struct {
	opener *flow.Opener
}

// NewDecoder returns a decoder, whose memory is used again for each message.
func NewDecoder() (*Decoder, error) {
	opener, err := flow.NewOpener()
	if err != nil {
		return nil, err
	}
	return &Decoder{opener: opener}, nil
}

// Decode reads a message's value into b: rows, local and remote ends. It checks everything as a collector checks what an exporter sends,
// so a consumer may trust indexes and lengths of a batch that comes without an error. b keeps parts of value, which must not change.
func (d *Decoder) Decode(value []byte, b *flow.Batch) error {
	if err := d.opener.OpenAttributed(value, b); err != nil {
		return fmt.Errorf("kafka message: %w", err)
	}
	return nil
}
