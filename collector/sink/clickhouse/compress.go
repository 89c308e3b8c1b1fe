package clickhouse

import (
	"fmt"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/klauspost/compress/zstd"
)

// compressor turns a block into a body. The result is valid until the next call.
type compressor interface {
	compress(raw []byte) ([]byte, error)
}

func newCompressor(c Compression) (compressor, error) {
	switch c {
	case CompressionLZ4:
		return &framed{writer: compress.NewWriter(compress.LevelZero, compress.LZ4)}, nil
	case CompressionZSTD:
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("zstd encoder: %w", err)
		}
		return &whole{enc: enc}, nil
	}
	return plain{}, nil
}

type plain struct{}

func (plain) compress(raw []byte) ([]byte, error) { return raw, nil }

type whole struct {
	enc *zstd.Encoder
	out []byte
}

func (w *whole) compress(raw []byte) ([]byte, error) {
	w.out = w.enc.EncodeAll(raw, w.out[:0])
	return w.out, nil
}

// framed writes ClickHouse's own frames of compressed data. They are small, so that the writer's buffer, which it makes anew for each,
// is small too.
type framed struct {
	writer *compress.Writer
	out    []byte
}

const frameBytes = 256 << 10

func (f *framed) compress(raw []byte) ([]byte, error) {
	f.out = f.out[:0]
	for len(raw) > 0 {
		n := min(len(raw), frameBytes)
		if err := f.writer.Compress(raw[:n]); err != nil {
			return nil, fmt.Errorf("compress a block: %w", err)
		}
		f.out = append(f.out, f.writer.Data...)
		raw = raw[n:]
	}
	return f.out, nil
}
