package query

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// partFormat is numbers as they lie in memory, and texts and maps behind their length as a varint, all of it behind the names and types of the columns
// (https://clickhouse.com/docs/interfaces/formats/RowBinaryWithNamesAndTypes). The histograms of a map of 2,000 edges are 60,000 pairs: to read
// those as JSON takes the program tens of milliseconds. ch-go reads the format Native, but makes room for whatever length is written before it reads what
// is there: one wrong byte would end the program.
const partFormat = "RowBinaryWithNamesAndTypes"

// part returns the rows of a statement of schema.ReadEdges or schema.MapOf.
func (c *Client) part(ctx context.Context, statement string, params map[string]string) ([]partRow, error) {
	answer, err := c.store.Do(ctx, question{statement: statement, format: partFormat, params: params}.readOnly())
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return readParts(answer.Body)
}

// partColumn is a column of a part: its type, and how it gets into a row.
type partColumn struct {
	typ  string
	read func(*binaryReader, *partRow)
}

func textColumn(of func(*partRow) *string) partColumn {
	return partColumn{"String", func(in *binaryReader, r *partRow) { *of(r) = in.text() }}
}

func numberColumn(of func(*partRow) *uint64) partColumn {
	return partColumn{"UInt64", func(in *binaryReader, r *partRow) { *of(r) = in.number(8) }}
}

func timeColumn(of func(*partRow) *string) partColumn {
	return partColumn{"DateTime64(3, 'UTC')", func(in *binaryReader, r *partRow) {
		*of(r) = time.UnixMilli(int64(in.number(8))).UTC().Format("2006-01-02T15:04:05.000Z")
	}}
}

func histogramColumn(of func(*partRow) *histogram) partColumn {
	return partColumn{"Map(UInt8, UInt64)", func(in *binaryReader, r *partRow) {
		for range in.length() {
			*of(r) = append(*of(r), samples{uint8(in.number(1)), in.number(8)})
		}
	}}
}

// partColumns are all columns that a part may have.
func partColumns() map[string]partColumn {
	return map[string]partColumn{
		"client_workload": textColumn(func(r *partRow) *string { return &r.ClientWorkload }),
		"client_why":      textColumn(func(r *partRow) *string { return &r.ClientWhy }),
		"server_workload": textColumn(func(r *partRow) *string { return &r.ServerWorkload }),
		"server_why":      textColumn(func(r *partRow) *string { return &r.ServerWhy }),
		"server_port":     {"UInt16", func(in *binaryReader, r *partRow) { r.ServerPort = uint16(in.number(2)) }},
		"connections":     numberColumn(func(r *partRow) *uint64 { return &r.Connections }),
		"closed":          numberColumn(func(r *partRow) *uint64 { return &r.Closed }),
		"resets":          numberColumn(func(r *partRow) *uint64 { return &r.Resets }),
		"open":            numberColumn(func(r *partRow) *uint64 { return &r.Open }),
		"unanswered":      numberColumn(func(r *partRow) *uint64 { return &r.Unanswered }),
		"failures":        numberColumn(func(r *partRow) *uint64 { return &r.Failures }),
		"failures_by_reason": {"Map(String, UInt64)", func(in *binaryReader, r *partRow) {
			r.FailuresByReason = map[string]uint64{}
			for range in.length() {
				reason := in.text()
				r.FailuresByReason[reason] = in.number(8)
			}
		}},
		"bytes_to_server":      numberColumn(func(r *partRow) *uint64 { return &r.BytesToServer }),
		"bytes_to_client":      numberColumn(func(r *partRow) *uint64 { return &r.BytesToClient }),
		"retrans_segs":         numberColumn(func(r *partRow) *uint64 { return &r.RetransSegs }),
		"first_seen":           timeColumn(func(r *partRow) *string { return &r.FirstSeen }),
		"last_seen":            timeColumn(func(r *partRow) *string { return &r.LastSeen }),
		"rtt_us_histogram":     histogramColumn(func(r *partRow) *histogram { return &r.rtt }),
		"connect_us_histogram": histogramColumn(func(r *partRow) *histogram { return &r.connect }),
		"client_only":          numberColumn(func(r *partRow) *uint64 { return &r.ClientOnly }),
		"server_only":          numberColumn(func(r *partRow) *uint64 { return &r.ServerOnly }),
		"both":                 numberColumn(func(r *partRow) *uint64 { return &r.Both }),
	}
}

// readParts reads a whole answer.
func readParts(body io.Reader) ([]partRow, error) {
	in := &binaryReader{in: bufio.NewReaderSize(body, 64<<10), known: map[string]string{}}
	columns, err := in.columns()
	if err != nil {
		return nil, err
	}
	var rows []partRow
	for !in.ended() {
		var row partRow
		for _, c := range columns {
			c.read(in, &row)
		}
		rows = append(rows, row)
	}
	if in.err != nil {
		return nil, fmt.Errorf("understand the answer: %w", in.err)
	}
	return rows, nil
}

// Bounds of what an answer may say.
const (
	maxTextBytes   = 64 << 10
	maxPartColumns = 100
	maxMapPairs    = 1 << 16
)

var errBinary = errors.New("a text, a map or a row is too long")

// binaryReader reads an answer; after an error, which it keeps, all is zero.
type binaryReader struct {
	in    *bufio.Reader
	err   error
	known map[string]string // texts that were read: names come again and again
	buf   []byte
}

// columns reads what the answer begins with.
func (in *binaryReader) columns() ([]partColumn, error) {
	n := in.lengthTo(maxPartColumns)
	names, columns := make([]string, n), make([]partColumn, n)
	for i := range names {
		names[i] = in.text()
	}
	known := partColumns()
	for i, name := range names {
		typ := in.text()
		if columns[i] = known[name]; in.err == nil && columns[i].typ != plainType(typ) {
			return nil, fmt.Errorf("understand the answer: column %q has type %s", name, typ)
		}
	}
	if in.err != nil || n == 0 {
		return nil, fmt.Errorf("understand the answer: %w", errors.Join(in.err, io.ErrUnexpectedEOF))
	}
	return columns, nil
}

// plainType is what a type looks like in a row: how it is kept or merged makes no difference.
func plainType(typ string) string {
	for _, outer := range []string{"LowCardinality(", "SimpleAggregateFunction(min, ", "SimpleAggregateFunction(max, "} {
		if inner, ok := strings.CutPrefix(typ, outer); ok {
			return strings.TrimSuffix(inner, ")")
		}
	}
	return typ
}

// ended tells whether the answer ends here, between two rows, or could not be read.
func (in *binaryReader) ended() bool {
	if in.err != nil {
		return true
	}
	_, err := in.in.Peek(1)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	}
	return err != nil
}

// bytes returns the next n bytes, until the next call.
func (in *binaryReader) bytes(n int) []byte {
	in.buf = slices.Grow(in.buf[:0], max(n, 8))[:max(n, 8)]
	clear(in.buf[:8])
	if in.err == nil {
		_, in.err = io.ReadFull(in.in, in.buf[:n])
	}
	if in.err != nil {
		clear(in.buf)
		if errors.Is(in.err, io.EOF) {
			in.err = io.ErrUnexpectedEOF
		}
	}
	return in.buf
}

// number reads an unsigned number of so many bytes, at most 8.
func (in *binaryReader) number(bytes int) uint64 { return binary.LittleEndian.Uint64(in.bytes(bytes)) }

func (in *binaryReader) length() uint64 { return in.lengthTo(maxMapPairs) }

func (in *binaryReader) lengthTo(most uint64) uint64 {
	if in.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(in.in)
	switch {
	case errors.Is(err, io.EOF):
		in.err = io.ErrUnexpectedEOF
	case err != nil:
		in.err = err
	case n > most:
		in.err = errBinary
	default:
		return n
	}
	return 0
}

func (in *binaryReader) text() string {
	n := int(in.lengthTo(maxTextBytes))
	b := in.bytes(n)[:n]
	if known, ok := in.known[string(b)]; ok {
		return known
	}
	text := string(b)
	in.known[text] = text
	return text
}
