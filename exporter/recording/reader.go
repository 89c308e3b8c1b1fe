package recording

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Reader tells a recording again. It is used by one goroutine at a time.
type Reader struct {
	Header Header
	in     *bufio.Reader
	record []byte
	names  [][]byte
	ended  error
}

// NewReader reads the header; recordBytes is the size of the records that the caller understands.
func NewReader(r io.Reader, recordBytes int) (*Reader, error) {
	reader := &Reader{in: bufio.NewReaderSize(r, 256<<10), names: [][]byte{nil}}
	first, err := reader.take(len(magic))
	if err != nil {
		return nil, ErrFormat
	}
	if text := string(first); text != magic {
		if strings.HasPrefix(text, magic[:strings.LastIndexByte(magic, ' ')]) {
			return nil, ErrVersion
		}
		return nil, ErrFormat
	}
	size, err := reader.length(maxHeaderBytes)
	if err != nil {
		return nil, err
	}
	head, err := reader.take(size)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, &reader.Header); err != nil {
		return nil, fmt.Errorf("%w: its header: %w", ErrFormat, err)
	}
	if reader.Header.RecordBytes != recordBytes {
		return nil, fmt.Errorf("%w (%q): its records have %d bytes, ours %d", ErrVersion, reader.Header.Version, reader.Header.RecordBytes, recordBytes)
	}
	reader.record = make([]byte, recordBytes)
	return reader, nil
}

// Next returns the next frame. It returns io.EOF after the last one, ErrCut where the recording breaks off, and ErrFormat where it
// makes no sense; and the same ever after.
func (r *Reader) Next() (Frame, error) {
	for r.ended == nil {
		f, err := r.next()
		if err != nil {
			r.ended = err
			break
		}
		if f.Kind != name {
			return f, nil
		}
	}
	return Frame{}, r.ended
}

func (r *Reader) next() (Frame, error) {
	kind, err := r.take(1)
	if err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: Kind(kind[0])}
	switch f.Kind {
	case Sweep:
		return f, nil
	case Anchor:
		b, err := r.take(8)
		if err != nil {
			return f, err
		}
		f.Anchor = int64(binary.LittleEndian.Uint64(b))
		return f, nil
	case name:
		return f, r.takeName()
	case Record:
		id, err := r.length(len(r.names) - 1)
		if err != nil {
			return f, err
		}
		if _, err := io.ReadFull(r.in, r.record); err != nil {
			return f, cut(err)
		}
		f.Record, f.Name = r.record, r.names[id]
		return f, nil
	case end:
		if _, err := r.in.ReadByte(); err == nil {
			return f, fmt.Errorf("%w: it goes on behind its end; of several recordings in one file only the first was read", ErrFormat)
		}
		return f, io.EOF
	}
	return f, fmt.Errorf("%w: a frame of kind %#x", ErrFormat, kind[0])
}

func (r *Reader) takeName() error {
	size, err := r.length(maxNameBytes)
	if err != nil {
		return err
	}
	if len(r.names) >= maxNames {
		return fmt.Errorf("%w: more than %d names", ErrFormat, maxNames)
	}
	b, err := r.take(size)
	r.names = append(r.names, b)
	return err
}

// length reads a number that must not be above most.
func (r *Reader) length(most int) (int, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b)
	if int64(n) > int64(most) {
		return 0, fmt.Errorf("%w: a length of %d where %d is the most", ErrFormat, n, most)
	}
	return int(n), nil
}

func (r *Reader) take(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return nil, cut(err)
	}
	return b, nil
}

// cut tells the end of a file, which comes too early everywhere, from an error of reading.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return fmt.Errorf("read the recording: %w", err)
}
