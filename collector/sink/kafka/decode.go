package kafka

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
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
	header, attribution, err := split(value)
	if err != nil {
		return fmt.Errorf("kafka message: %w: %w", flow.ErrMalformed, err)
	}
	var m flowv1.Batch
	if err := proto.Unmarshal(header, &m); err != nil {
		return fmt.Errorf("kafka message: %w: %w", flow.ErrMalformed, err)
	}
	if err := d.opener.Open(&m, b); err != nil {
		return fmt.Errorf("kafka message: %w", err)
	}
	if err := b.DecodeAttribution(attribution); err != nil {
		return fmt.Errorf("kafka message: %w", err)
	}
	return nil
}

// split finds the two messages in an AttributedBatch. The attribution goes to its columns without an object in between.
func split(value []byte) (batch, attribution []byte, err error) {
	for len(value) > 0 {
		n, t, size := protowire.ConsumeTag(value)
		if size < 0 {
			return nil, nil, protowire.ParseError(size)
		}
		value = value[size:]
		if size = protowire.ConsumeFieldValue(n, t, value); size < 0 {
			return nil, nil, protowire.ParseError(size)
		}
		content, _ := protowire.ConsumeBytes(value)
		value = value[size:]
		switch {
		case t != protowire.BytesType: // a field of a later version
		case n == attributedBatch && batch == nil:
			batch = content
		case n == attributedAttribution && attribution == nil:
			attribution = content
		case n == attributedBatch, n == attributedAttribution:
			return nil, nil, errors.New("a field that may come once comes twice")
		}
	}
	return batch, attribution, nil
}
