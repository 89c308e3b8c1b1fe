package flow

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"tributary/proto/flowv1"
)

// Field numbers of AttributedBatch, and of the payload in its Batch.
const (
	attributedBatch       = 1
	attributedAttribution = 2
	batchPayload          = 6
)

// AppendAttributed appends the batch as an AttributedBatch; attribution is what AppendAttribution made of it. The payload is copied once, from the
// batch to where it is kept or sent from; a generated Marshal would need a second copy.
func (b *Batch) AppendAttributed(dst, attribution []byte) ([]byte, error) {
	header := b.Wire()
	header.Payload = nil
	encoded, err := proto.Marshal(header)
	if err != nil {
		return dst, fmt.Errorf("encode batch header: %w", err)
	}
	payload := protowire.SizeTag(batchPayload) + protowire.SizeBytes(len(b.Payload))
	dst = protowire.AppendTag(dst, attributedBatch, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(encoded)+payload))
	dst = append(dst, encoded...)
	dst = protowire.AppendTag(dst, batchPayload, protowire.BytesType)
	dst = protowire.AppendBytes(dst, b.Payload)
	dst = protowire.AppendTag(dst, attributedAttribution, protowire.BytesType)
	return protowire.AppendBytes(dst, attribution), nil
}

// OpenAttributed reads an AttributedBatch into b: rows, local and remote ends, and checks everything as Open checks what an exporter sends. b keeps parts
// of value, which must not change.
func (o *Opener) OpenAttributed(value []byte, b *Batch) error {
	header, attribution, err := splitAttributed(value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var m flowv1.Batch
	if err := proto.Unmarshal(header, &m); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := o.Open(&m, b); err != nil {
		return err
	}
	return b.DecodeAttribution(attribution)
}

// splitAttributed finds the two messages in an AttributedBatch. The attribution goes to its columns without an object in between.
func splitAttributed(value []byte) (batch, attribution []byte, err error) {
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
