package renames

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// batchRows bounds a batch that is made.
const batchRows = 4096

// rowsSQL reads the rows of a run as flows has them, each behind a byte: 1 if it has the name of this run, 0 if it has not yet. RowBinary
// (https://clickhouse.com/docs/interfaces/formats/RowBinary) is numbers as they lie in memory, and strings behind their length as a varint.
func rowsSQL() string {
	columns := []string{"f.version = r.version"}
	for _, name := range schema.Names() {
		columns = append(columns, "f."+name)
	}
	return "SELECT " + strings.Join(columns, ", ") + `
FROM (SELECT * FROM {database}.flows
    WHERE end_time_ns >= fromUnixTimestamp64Nano({from:Int64}) AND end_time_ns <= fromUnixTimestamp64Nano({to:Int64})
    AND (exporter_id, flow_id, record_seq) IN (SELECT exporter_id, flow_id, record_seq FROM {database}.renames WHERE job = {job:String} AND run = {run:UInt64})) AS f
INNER JOIN (SELECT exporter_id, flow_id, record_seq, version FROM {database}.renames WHERE job = {job:String} AND run = {run:UInt64}) AS r
    ON f.exporter_id = r.exporter_id AND f.flow_id = r.flow_id AND f.record_seq = r.record_seq
WHERE f.version <= r.version
ORDER BY f.exporter_id, f.batch_seq
FORMAT RowBinary`
}

// eachBatch reads rows and calls visit with batches of them, each the caller's. It returns how many rows those have, and how many have not got their name yet.
func eachBatch(body io.Reader, visit func(*flow.Batch)) (told, missing int, err error) {
	in := rowReader{r: bufio.NewReaderSize(body, 64<<10), fields: schema.Fields()}
	var g *gathering
	for {
		named, err := in.r.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = in.read()
		}
		if err != nil {
			return told, missing, err
		}
		if named == 0 {
			missing++
			continue
		}
		if g != nil && (g.batch.Rows >= batchRows || g.batch.ExporterID != in.exporter || g.batch.Seq != in.seq) {
			visit(g.seal())
			g = nil
		}
		if g == nil {
			g = gather(&in)
		}
		g.add(&in)
		told++
	}
	if g != nil {
		visit(g.seal())
	}
	return told, missing, nil
}

// rowReader reads one row after the other.
type rowReader struct {
	r      *bufio.Reader
	fields []schema.Field

	exporter, host, boot string
	seq, received        uint64
	u32                  [flow.NumU32]uint32 // of columns that are numbers
	u64                  [flow.NumU64]uint64
	text                 [flow.NumU32]string
	addr                 [flow.NumU32][16]byte
	buf                  []byte
}

func (in *rowReader) read() error {
	for i := range in.fields {
		if err := in.field(&in.fields[i]); err != nil {
			return fmt.Errorf("%s: %w", in.fields[i].Name, unexpected(err))
		}
	}
	return nil
}

// unexpected: an answer ends between rows, or it is broken off.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (in *rowReader) field(f *schema.Field) (err error) {
	switch f.Source {
	case schema.ExporterID:
		in.exporter, err = in.string(in.exporter)
	case schema.Host:
		in.host, err = in.string(in.host)
	case schema.BootID:
		in.boot, err = in.string(in.boot)
	case schema.BatchSeq:
		in.seq, err = in.number(8)
	case schema.ReceivedTime:
		in.received, err = in.number(8)
	case schema.Column64:
		in.u64[f.U64], err = in.number(8)
	case schema.Column32:
		err = in.column(f.U32)
	}
	return err
}

func (in *rowReader) column(f flow.U32) (err error) {
	spec := f.Spec()
	var v uint64
	switch {
	case spec.Type == flow.TypeString:
		in.text[f], err = in.string(in.text[f])
		return err
	case spec.Type == flow.TypeAddr:
		_, err = io.ReadFull(in.r, in.addr[f][:])
		return err
	case spec.Type == flow.TypeEnum, spec.Type == flow.TypeBool:
		v, err = in.number(1)
	case spec.Max <= 1<<16-1:
		v, err = in.number(2)
	default:
		v, err = in.number(4)
	}
	in.u32[f] = uint32(v)
	return err
}

func (in *rowReader) number(size int) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(in.r, b[:size])
	return binary.LittleEndian.Uint64(b[:]), err
}

// string reads one; last is what the row before had there, mostly the same.
func (in *rowReader) string(last string) (string, error) {
	n, err := binary.ReadUvarint(in.r)
	if err != nil {
		return "", err
	}
	if n > flow.MaxStringBytes {
		return "", fmt.Errorf("a string of %d bytes", n)
	}
	if uint64(cap(in.buf)) < n {
		in.buf = make([]byte, flow.MaxStringBytes)
	}
	if _, err := io.ReadFull(in.r, in.buf[:n]); err != nil {
		return "", err
	}
	if string(in.buf[:n]) == last {
		return last, nil
	}
	return string(in.buf[:n]), nil
}

// gathering is a batch in the making.
type gathering struct {
	batch   *flow.Batch
	strings map[string]uint32
	named   map[string]uint32 // strings of the attribution
	addrs   map[[16]byte]uint32
}

func gather(in *rowReader) *gathering {
	return &gathering{
		batch: &flow.Batch{
			Header:         flow.Header{ExporterID: in.exporter, Seq: in.seq, Host: in.host, BootID: in.boot},
			ReceivedTimeNs: int64(in.received), Strings: []string{""}, AttrStrings: []string{""}, Addrs: [][16]byte{{}},
		},
		strings: map[string]uint32{"": 0}, named: map[string]uint32{"": 0}, addrs: map[[16]byte]uint32{{}: 0},
	}
}

func (g *gathering) add(in *rowReader) {
	b := g.batch
	b.Rows++
	for f := range flow.NumU64 {
		b.U64[f] = append(b.U64[f], in.u64[f])
	}
	for f := range flow.NumU32 {
		v := in.u32[f]
		switch spec := f.Spec(); {
		case spec.Type == flow.TypeString && spec.Attribution:
			v = index(g.named, &b.AttrStrings, in.text[f])
		case spec.Type == flow.TypeString:
			v = index(g.strings, &b.Strings, in.text[f])
		case spec.Type == flow.TypeAddr:
			v = index(g.addrs, &b.Addrs, in.addr[f])
		}
		b.U32[f] = append(b.U32[f], v)
	}
}

// index finds a value in a dictionary, or adds it.
func index[T comparable](known map[T]uint32, dictionary *[]T, v T) uint32 {
	i, ok := known[v]
	if !ok {
		i = uint32(len(*dictionary))
		known[v] = i
		*dictionary = append(*dictionary, v)
	}
	return i
}

// seal leaves out the columns that are missing in all rows and makes the payload.
func (g *gathering) seal() *flow.Batch {
	b := g.batch
	for f := range flow.NumU64 {
		if all(b.U64[f], 0) {
			b.U64[f] = nil
		}
	}
	for f := range flow.NumU32 {
		if all(b.U32[f], f.Spec().Missing) {
			b.U32[f] = nil
		}
	}
	b.Payload = b.AppendColumns(nil, nil)
	b.ColumnsBytes = len(b.Payload)
	return b
}

func all[T comparable](column []T, v T) bool {
	for _, x := range column {
		if x != v {
			return false
		}
	}
	return true
}
