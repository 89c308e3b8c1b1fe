package clickhouse

import (
	"slices"
	"strings"

	"github.com/ClickHouse/ch-go/proto"

	"tributary/collector/schema"
	"tributary/proto/flow"
)

// column is one column of a block under construction.
type column interface {
	fill(b *flow.Batch)    // appends one value for each row of the batch
	input() proto.ColInput // the values as ch-go encodes them
	reset()
}

// typed gives values the exact type of the table's column, so that the server has nothing to convert.
type typed struct {
	proto.ColInput
	name proto.ColumnType
}

// Type is what the block says about the column.
func (t typed) Type() proto.ColumnType { return t.name }

// newColumn returns the column of a field, and the bytes that a row takes in it.
func newColumn(f schema.Field, s *scratch) (column, int) {
	name := proto.ColumnType(f.Type)
	switch f.Source {
	case schema.ExporterID:
		return newText(s, func(b *flow.Batch) textSource { return textSource{value: b.ExporterID} }), 1
	case schema.Host:
		return newText(s, func(b *flow.Batch) textSource { return textSource{value: b.Host} }), 1
	case schema.BootID:
		return newText(s, func(b *flow.Batch) textSource { return textSource{value: b.BootID} }), 1
	case schema.BatchSeq:
		return &wide{name: name, from: func(b *flow.Batch) ([]uint64, uint64) { return nil, b.Seq }}, 8
	case schema.ReceivedTime:
		return &wide{name: name, from: func(b *flow.Batch) ([]uint64, uint64) { return nil, uint64(b.ReceivedTimeNs) }}, 8
	case schema.Column64:
		return &wide{name: name, from: func(b *flow.Batch) ([]uint64, uint64) { return b.U64[f.U64], 0 }}, 8
	}
	spec := f.U32.Spec()
	switch spec.Type {
	case flow.TypeString:
		return newText(s, func(b *flow.Batch) textSource {
			if spec.Attribution {
				return textSource{rows: b.U32[f.U32], dict: b.AttrStrings}
			}
			return textSource{rows: b.U32[f.U32], dict: b.Strings}
		}), 1
	case flow.TypeAddr:
		return &address{name: name, field: f.U32}, 16
	case flow.TypeEnum, flow.TypeBool:
		return &narrow[uint8]{name: name, field: f.U32, missing: uint8(spec.Missing), wrap: wrap8}, 1
	}
	if f.Type == "UInt16" {
		return &narrow[uint16]{name: name, field: f.U32, missing: uint16(spec.Missing), wrap: wrap16}, 2
	}
	return &narrow[uint32]{name: name, field: f.U32, missing: spec.Missing, wrap: wrap32}, 4
}

func wrap8(v []uint8) proto.ColInput   { return proto.ColUInt8(v) }
func wrap16(v []uint16) proto.ColInput { return proto.ColUInt16(v) }
func wrap32(v []uint32) proto.ColInput { return proto.ColUInt32(v) }

// narrow holds a column of 32-bit values of the batch in the width of the table's type. Enums and flags are checked where batches
// are decoded, so nothing is cut off.
type narrow[T uint8 | uint16 | uint32] struct {
	name    proto.ColumnType
	field   flow.U32
	missing T
	values  []T
	wrap    func([]T) proto.ColInput
}

func (c *narrow[T]) fill(b *flow.Batch) {
	var dst []T
	c.values, dst = extend(c.values, b.Rows)
	src := b.U32[c.field]
	if src == nil {
		set(dst, c.missing)
		return
	}
	for i, v := range src[:len(dst)] {
		dst[i] = T(v)
	}
}

func (c *narrow[T]) input() proto.ColInput { return typed{c.wrap(c.values), c.name} }
func (c *narrow[T]) reset()                { c.values = c.values[:0] }

// wide holds numbers and times of 64 bits; DateTime64(9) travels as the same bits.
type wide struct {
	name   proto.ColumnType
	values []uint64
	from   func(*flow.Batch) (rows []uint64, otherwise uint64)
}

func (c *wide) fill(b *flow.Batch) {
	var dst []uint64
	c.values, dst = extend(c.values, b.Rows)
	src, otherwise := c.from(b)
	if src == nil {
		set(dst, otherwise)
		return
	}
	copy(dst, src)
}

func (c *wide) input() proto.ColInput { return typed{proto.ColUInt64(c.values), c.name} }
func (c *wide) reset()                { c.values = c.values[:0] }

type address struct {
	name   proto.ColumnType
	field  flow.U32
	values []proto.IPv6
}

func (c *address) fill(b *flow.Batch) {
	var dst []proto.IPv6
	c.values, dst = extend(c.values, b.Rows)
	src := b.U32[c.field]
	if src == nil {
		clear(dst)
		return
	}
	dict := b.Addrs
	for i, v := range src[:len(dst)] {
		dst[i] = dict[v]
	}
}

func (c *address) input() proto.ColInput { return typed{proto.ColIPv6(c.values), c.name} }
func (c *address) reset()                { c.values = c.values[:0] }

// scratch is memory that all text columns of a block use in turn.
type scratch struct{ keys []uint32 }

// textSource is a batch's part of a text column: indexes into a dictionary, or one value for all rows.
type textSource struct {
	rows  []uint32
	dict  []string
	value string
}

// text is a LowCardinality(String) column: a dictionary of its own for the block and one key a row. A batch's dictionary is
// translated once, not row by row. Keys are as narrow as the dictionary allows. Entry 0 is always "".
type text struct {
	from    func(*flow.Batch) textSource
	scratch *scratch
	known   map[string]uint32
	values  proto.ColLowCardinalityRaw
	dict    proto.ColStr
}

func newText(s *scratch, from func(*flow.Batch) textSource) *text {
	c := &text{from: from, scratch: s, known: make(map[string]uint32)}
	c.values.Index = &c.dict
	c.reset()
	return c
}

func (c *text) fill(b *flow.Batch) {
	src := c.from(b)
	if src.rows == nil {
		c.repeat(c.key(src.value), b.Rows)
		return
	}
	keys := slices.Grow(c.scratch.keys[:0], len(src.dict))[:len(src.dict)]
	c.scratch.keys = keys
	clear(keys)
	for _, v := range src.rows {
		if keys[v] == 0 && v != 0 {
			keys[v] = c.key(src.dict[v])
		}
	}
	switch c.values.Key {
	case proto.KeyUInt8:
		translate(&c.values.Keys8, src.rows, keys)
	case proto.KeyUInt16:
		translate(&c.values.Keys16, src.rows, keys)
	default:
		translate(&c.values.Keys32, src.rows, keys)
	}
}

func translate[C ~[]T, T uint8 | uint16 | uint32](to *C, rows, keys []uint32) {
	var dst []T
	*to, dst = extend(*to, len(rows))
	for i, v := range rows {
		dst[i] = T(keys[v])
	}
}

func (c *text) repeat(key uint32, n int) {
	switch c.values.Key {
	case proto.KeyUInt8:
		repeat(&c.values.Keys8, uint8(key), n)
	case proto.KeyUInt16:
		repeat(&c.values.Keys16, uint16(key), n)
	default:
		repeat(&c.values.Keys32, key, n)
	}
}

func repeat[C ~[]T, T uint8 | uint16 | uint32](to *C, v T, n int) {
	var dst []T
	*to, dst = extend(*to, n)
	set(dst, v)
}

// key returns the string's number in the block's dictionary, and widens the keys when it no longer fits.
func (c *text) key(s string) uint32 {
	if k, ok := c.known[s]; ok {
		return k
	}
	k := uint32(len(c.known))
	c.known[strings.Clone(s)] = k // s may share a whole batch's memory
	c.dict.Append(s)
	switch {
	case k == 1<<8:
		c.values.Key = proto.KeyUInt16
		widen(&c.values.Keys16, c.values.Keys8)
	case k == 1<<16:
		c.values.Key = proto.KeyUInt32
		widen(&c.values.Keys32, c.values.Keys16)
	}
	return k
}

func widen[C ~[]T, T uint16 | uint32, S uint8 | uint16](to *C, from []S) {
	var dst []T
	*to, dst = extend((*to)[:0], len(from))
	for i, v := range from {
		dst[i] = T(v)
	}
}

func (c *text) input() proto.ColInput { return &c.values }

func (c *text) reset() {
	c.values.Reset()
	c.values.Key = proto.KeyUInt8
	clear(c.known)
	c.known[""] = 0
	c.dict.Append("")
}

// extend makes room for n more values and returns the whole and the new part, whose content is undefined.
func extend[C ~[]T, T any](values C, n int) (whole C, part []T) {
	size := len(values)
	whole = slices.Grow(values, n)[:size+n]
	return whole, whole[size:]
}

func set[T any](dst []T, v T) {
	for i := range dst {
		dst[i] = v
	}
}
