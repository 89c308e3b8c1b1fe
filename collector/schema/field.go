package schema

import (
	"fmt"
	"slices"
	"strings"

	"tributary/proto/flow"
)

// Source says where a field's values come from.
type Source uint8

// The sources.
const (
	Column32     Source = iota // a column of 32-bit values of the batch: Field.U32
	Column64                   // a column of 64-bit values of the batch: Field.U64
	ExporterID                 // from here on: one value for all rows of a batch
	Host                       //
	BootID                     //
	BatchSeq                   //
	ReceivedTime               //
)

// Field is one column of the record: the same name in proto, Kafka JSON, ClickHouse and docs.
type Field struct {
	Name    string
	Type    string // ClickHouse's type as its DESCRIBE prints it
	Codec   string // ClickHouse's column codec
	Default string // ClickHouse's DEFAULT expression where the missing value is not the type's own; else ""
	Source  Source
	U32     flow.U32 // if Source is Column32
	U64     flow.U64 // if Source is Column64
	Doc     string   // meaning and unit
	Origin  string   // who knows it: the kernel's name for it, or the room
}

// Missing returns how a value that is not known is written, as docs and queries show it.
func (f Field) Missing() string {
	switch {
	case f.Default != "":
		return f.Default
	case f.Source == Column32 && f.U32.Spec().Type == flow.TypeEnum:
		return f.U32.Spec().Enum.Name(0)
	case f.Type == typeText:
		return "''"
	case f.Type == typeAddr:
		return "::"
	case f.Type == typeBool:
		return "false"
	case f.Type == typeTime:
		return "1970-01-01"
	}
	return "0"
}

// Fields returns the columns in their order. The slice is the caller's.
func Fields() []Field {
	return slices.Concat(identityFields(), kindFields(), timeFields(), addressFields(), trafficFields(), timingFields(), processFields(),
		endFields(), ownerFields())
}

// Names returns the names of the columns in their order.
func Names() []string {
	fields := Fields()
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.Name
	}
	return names
}

// ClickHouse types of the columns.
const (
	typeText = "LowCardinality(String)"
	typeAddr = "IPv6"
	typeBool = "Bool"
	typeTime = "DateTime64(9)"
)

// Codecs. ZSTD(1) halves what LZ4 leaves (references: 33 against 56 bytes a flow); values that count up are stored as differences.
const (
	codecPlain = "ZSTD(1)"
	codecDelta = "Delta, ZSTD(1)"
	codecSmall = "T64, ZSTD(1)" // drops the high bits that no value of a granule uses
)

func column(f flow.U32, origin, doc string) Field {
	s := f.Spec()
	c := Field{Name: s.Name, Source: Column32, U32: f, Doc: doc, Origin: origin, Codec: codecPlain}
	switch s.Type {
	case flow.TypeString:
		c.Type = typeText
	case flow.TypeAddr:
		c.Type = typeAddr
	case flow.TypeBool:
		c.Type = typeBool
	case flow.TypeEnum:
		c.Type = enum8(s.Enum)
	default:
		c.Type, c.Codec = "UInt32", codecSmall
		if s.Max <= 1<<16-1 {
			c.Type = "UInt16"
		}
		if s.Missing != 0 {
			c.Default = fmt.Sprint(s.Missing)
		}
	}
	return c
}

func wide(f flow.U64, origin, doc string) Field {
	s := f.Spec()
	c := Field{Name: s.Name, Type: "UInt64", Source: Column64, U64: f, Doc: doc, Origin: origin, Codec: codecSmall}
	if s.Type == flow.TypeTime {
		c.Type, c.Codec = typeTime, codecPlain
	}
	return c
}

func header(s Source, name, typ, codec, origin, doc string) Field {
	return Field{Name: name, Type: typ, Codec: codec, Source: s, Origin: origin, Doc: doc}
}

func coded(f Field, codec string) Field {
	f.Codec = codec
	return f
}

// enum8 writes the names and numbers as ClickHouse's DESCRIBE does.
func enum8(e flow.Enum) string {
	parts := make([]string, len(e))
	for i, name := range e {
		parts[i] = fmt.Sprintf("'%s' = %d", name, i)
	}
	return "Enum8(" + strings.Join(parts, ", ") + ")"
}
