package flow

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"tributary/proto/flowv1"
)

// Codec says how a payload is compressed; the numbers are flowv1.Codec's.
type Codec uint8

// The codecs.
const (
	CodecNone Codec = iota
	CodecZstd
)

// Sealer compresses payloads. It is not safe for concurrent use.
type Sealer struct {
	enc *zstd.Encoder
}

// NewSealer returns a sealer that compresses with zstd at its fastest level. One goroutine, a small window: an exporter is a guest.
func NewSealer() (*Sealer, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	return &Sealer{enc: enc}, nil
}

// Compress appends the compressed columns to dst and returns it.
func (s *Sealer) Compress(dst, columns []byte) []byte { return s.enc.EncodeAll(columns, dst) }

// Opener decompresses and decodes batches into reused memory. It is not safe for concurrent use.
type Opener struct {
	dec *zstd.Decoder
	buf []byte
}

// NewOpener returns an opener that never allocates more than MaxColumnsBytes for a batch.
func NewOpener() (*Opener, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxColumnsBytes), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Opener{dec: dec}, nil
}

// Open reads a wire batch into b and validates header and rows. b keeps m.Payload, which must not be changed afterwards.
func (o *Opener) Open(m *flowv1.Batch, b *Batch) error {
	b.Reset()
	if err := checkHeader(m); err != nil {
		return err
	}
	columns := m.GetPayload()
	switch m.GetCodec() {
	case flowv1.Codec_CODEC_NONE:
		if int(m.GetColumnsBytes()) != len(columns) {
			return fmt.Errorf("%w: %d bytes of columns announced, %d sent", ErrMalformed, m.GetColumnsBytes(), len(columns))
		}
	case flowv1.Codec_CODEC_ZSTD:
		var err error
		if o.buf, err = o.decompress(columns, int(m.GetColumnsBytes())); err != nil {
			return err
		}
		columns = o.buf
	default:
		return fmt.Errorf("%w: unknown codec %d", ErrMalformed, m.GetCodec())
	}
	if err := b.DecodeColumns(columns, int(m.GetRows())); err != nil {
		return err
	}
	b.setHeader(m)
	return nil
}

// decompress refuses a frame that holds more than it announced before it is unpacked beyond that.
func (o *Opener) decompress(frame []byte, size int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return nil, fmt.Errorf("%w: zstd header: %w", ErrMalformed, err)
	}
	if h.HasFCS && h.FrameContentSize != uint64(size) {
		return nil, fmt.Errorf("%w: %d bytes of columns announced, the zstd frame says %d", ErrMalformed, size, h.FrameContentSize)
	}
	out, err := o.dec.DecodeAll(frame, o.buf[:0])
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrMalformed, err)
	}
	if len(out) != size {
		return nil, fmt.Errorf("%w: %d bytes of columns announced, %d unpacked", ErrMalformed, size, len(out))
	}
	return out, nil
}

// MaxNameBytes bounds exporter_id, host and boot_id.
const MaxNameBytes = 256

func checkHeader(m *flowv1.Batch) error {
	switch {
	case m.GetRows() > MaxRows:
		return fmt.Errorf("%w: %d rows, at most %d are allowed", ErrTooLarge, m.GetRows(), MaxRows)
	case len(m.GetPayload()) > MaxPayloadBytes:
		return fmt.Errorf("%w: a payload of %d bytes, at most %d are allowed", ErrTooLarge, len(m.GetPayload()), MaxPayloadBytes)
	case m.GetColumnsBytes() > MaxColumnsBytes:
		return fmt.Errorf("%w: %d bytes of columns, at most %d are allowed", ErrTooLarge, m.GetColumnsBytes(), MaxColumnsBytes)
	case len(m.GetCounters()) > MaxCounters:
		return fmt.Errorf("%w: %d counters, at most %d are allowed", ErrTooLarge, len(m.GetCounters()), MaxCounters)
	case m.GetBatchSeq() == 0:
		return fmt.Errorf("%w: batch_seq is 0", ErrMalformed)
	case m.GetExporterId() == "":
		return fmt.Errorf("%w: exporter_id is empty", ErrMalformed)
	}
	for _, s := range []string{m.GetExporterId(), m.GetHost(), m.GetBootId()} {
		if len(s) > MaxNameBytes || !plainText([]byte(s)) {
			return fmt.Errorf("%w: a name in the header is too long or has control characters", ErrMalformed)
		}
	}
	for _, c := range m.GetCounters() {
		if len(c.GetName()) > MaxNameBytes || !plainText([]byte(c.GetName())) {
			return fmt.Errorf("%w: a counter's name is too long or has control characters", ErrMalformed)
		}
	}
	return nil
}

func (b *Batch) setHeader(m *flowv1.Batch) {
	b.ExporterID, b.Seq = m.GetExporterId(), m.GetBatchSeq()
	b.Host, b.BootID = m.GetHost(), m.GetBootId()
	b.SealedTimeNs = m.GetSealedTimeNs()
	for _, c := range m.GetCounters() {
		b.Counters = append(b.Counters, Counter{Name: c.GetName(), Value: c.GetValue()})
	}
	b.Payload, b.Codec, b.ColumnsBytes = m.GetPayload(), Codec(m.GetCodec()), int(m.GetColumnsBytes())
}

// Wire returns the batch's header and sealed payload as the message that travels. It shares the payload's memory.
func (b *Batch) Wire() *flowv1.Batch {
	m := &flowv1.Batch{
		ExporterId: b.ExporterID, BatchSeq: b.Seq, Rows: uint32(b.Rows), Codec: flowv1.Codec(b.Codec),
		ColumnsBytes: uint32(b.ColumnsBytes), Payload: b.Payload, Host: b.Host, BootId: b.BootID, SealedTimeNs: b.SealedTimeNs,
	}
	for _, c := range b.Counters {
		m.Counters = append(m.Counters, &flowv1.Counter{Name: c.Name, Value: c.Value})
	}
	return m
}
