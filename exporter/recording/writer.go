package recording

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// Writer makes a recording. It is used by one goroutine at a time. After an error every call returns that error.
type Writer struct {
	out     *bufio.Writer
	err     error
	names   map[string]uint32
	next    uint32
	written int64
	frame   []byte // reused
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	head, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the header: %w", err)
	}
	if h.RecordBytes < 1 || h.RecordBytes > maxRecordBytes || len(head) > maxHeaderBytes {
		return nil, fmt.Errorf("a header of %d bytes, records of %d", len(head), h.RecordBytes)
	}
	writer := &Writer{out: bufio.NewWriterSize(w, 256<<10), names: make(map[string]uint32), next: 1}
	writer.put([]byte(magic))
	writer.put(binary.LittleEndian.AppendUint32(nil, uint32(len(head))))
	writer.put(head)
	return writer, writer.err
}

// Written returns how many bytes were written so far.
func (w *Writer) Written() int64 { return w.written }

// Anchor notes the distance of the clocks.
func (w *Writer) Anchor(anchor int64) error {
	w.put(binary.LittleEndian.AppendUint64(w.begin(Anchor), uint64(anchor)))
	return w.err
}

// Record notes a kernel record and its name; the name is written once and referred to.
func (w *Writer) Record(record, label []byte) error {
	id := w.nameID(label)
	w.put(append(binary.LittleEndian.AppendUint32(w.begin(Record), id), record...))
	return w.err
}

// Sweep notes the end of a walk.
func (w *Writer) Sweep() error {
	w.put(w.begin(Sweep))
	return w.err
}

// Close marks the end and writes what is buffered. It does not close the file.
func (w *Writer) Close() error {
	w.put(w.begin(end))
	if w.err == nil {
		w.err = w.out.Flush()
	}
	return w.err
}

// nameID is 0 for none.
func (w *Writer) nameID(label []byte) uint32 {
	if len(label) == 0 {
		return 0
	}
	if id, ok := w.names[string(label)]; ok {
		return id
	}
	if len(label) > maxNameBytes || w.next >= maxNames {
		return 0 // a record without its name is better than none
	}
	id := w.next
	w.next++
	w.names[string(label)] = id
	w.put(append(binary.LittleEndian.AppendUint32(w.begin(name), uint32(len(label))), label...))
	return id
}

func (w *Writer) begin(k Kind) []byte {
	w.frame = append(w.frame[:0], byte(k))
	return w.frame
}

// put keeps the first error.
func (w *Writer) put(b []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.out.Write(b)
		w.written += int64(n)
	}
}
