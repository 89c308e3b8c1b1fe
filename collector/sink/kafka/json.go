package kafka

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/segmentio/kafka-go"

	"tributary/proto/flow"
)

// jsonEncoder writes rows as JSON objects. Dictionary entries are quoted once a batch, field names once.
type jsonEncoder struct {
	names32 [flow.NumU32][]byte // ,"name":
	names64 [flow.NumU64][]byte
	specs   [flow.NumU32]flow.Spec

	strings     [][]byte
	attrStrings [][]byte
	addrs       [][]byte
	quoted      []byte // memory behind the three
	header      []byte // the fields that all rows of a batch share
}

func newJSONEncoder() *jsonEncoder {
	j := new(jsonEncoder)
	for f := range j.names32 {
		j.specs[f] = flow.U32(f).Spec()
		j.names32[f] = []byte(`,"` + j.specs[f].Name + `":`)
	}
	for f := range j.names64 {
		j.names64[f] = []byte(`,"` + flow.U64(f).Spec().Name + `":`)
	}
	return j
}

// usualRowBytes is what a row takes, to ask for memory once. Less or more is only slower.
const usualRowBytes = 1800

// encodeJSON appends one message a row. A row has a few kilobytes at most, so the limit only guards against a topic made for less.
func (e *encoder) encodeJSON(b *flow.Batch, limit int) error {
	e.json.prepare(b)
	e.buf = slices.Grow(e.buf, b.Rows*usualRowBytes)
	seq := number(HeaderBatchSeq, b.Seq)
	for row := range b.Rows {
		start := len(e.buf)
		e.buf = e.json.appendRow(e.buf, b, row)
		rowKey := append(make([]byte, 0, len(e.key)+32), e.key...)
		rowKey = strconv.AppendUint(append(rowKey, '/'), b.Get64(flow.FlowID, row), 10)
		rowKey = strconv.AppendUint(append(rowKey, '/'), uint64(b.Get32(flow.RecordSeq, row)), 10)
		m := message{key: e.key, value: e.buf[start:len(e.buf):len(e.buf)], time: e.now, headers: []kafka.Header{
			{Key: HeaderExporterID, Value: e.key},
			seq,
			number(HeaderVersion, uint64(b.Get32(flow.Version, row))),
			{Key: HeaderRow, Value: rowKey},
		}}
		if m.size() > limit {
			return fmt.Errorf("row %s: %w", rowKey, errTooLarge)
		}
		e.messages = append(e.messages, m)
	}
	return nil
}

func (j *jsonEncoder) prepare(b *flow.Batch) {
	j.quoted = j.quoted[:0]
	j.strings = j.quoteAll(j.strings[:0], b.Strings)
	j.attrStrings = j.quoteAll(j.attrStrings[:0], b.AttrStrings)
	j.addrs = j.addrs[:0]
	for _, a := range b.Addrs {
		start := len(j.quoted)
		j.quoted = append(j.quoted, '"')
		j.quoted = netip.AddrFrom16(a).Unmap().AppendTo(j.quoted)
		j.quoted = append(j.quoted, '"')
		j.addrs = append(j.addrs, j.quoted[start:len(j.quoted):len(j.quoted)])
	}
	h := append(j.header[:0], `{"exporter_id":`...)
	h = appendQuoted(h, b.ExporterID)
	h = appendQuoted(append(h, `,"host":`...), b.Host)
	h = appendQuoted(append(h, `,"boot_id":`...), b.BootID)
	h = strconv.AppendUint(append(h, `,"batch_seq":`...), b.Seq, 10)
	j.header = strconv.AppendInt(append(h, `,"received_time_ns":`...), b.ReceivedTimeNs, 10)
}

func (j *jsonEncoder) quoteAll(dst [][]byte, dict []string) [][]byte {
	for _, s := range dict {
		start := len(j.quoted)
		j.quoted = appendQuoted(j.quoted, s)
		dst = append(dst, j.quoted[start:len(j.quoted):len(j.quoted)])
	}
	return dst
}

// appendRow appends one object with every field of the record, missing ones with their defaults: a consumer needs no table of them.
func (j *jsonEncoder) appendRow(dst []byte, b *flow.Batch, row int) []byte {
	dst = append(dst, j.header...)
	for f, name := range j.names64 {
		dst = append(dst, name...)
		dst = strconv.AppendUint(dst, b.Get64(flow.U64(f), row), 10)
	}
	for f, name := range j.names32 {
		dst = append(dst, name...)
		dst = j.appendValue(dst, &j.specs[f], b.U32[f] != nil, b.Get32(flow.U32(f), row))
	}
	return append(dst, '}')
}

func (j *jsonEncoder) appendValue(dst []byte, spec *flow.Spec, present bool, v uint32) []byte {
	switch {
	case spec.Type == flow.TypeString && !present:
		return append(dst, `""`...)
	case spec.Type == flow.TypeString && spec.Attribution:
		return append(dst, j.attrStrings[v]...)
	case spec.Type == flow.TypeString:
		return append(dst, j.strings[v]...)
	case spec.Type == flow.TypeAddr && !present:
		return append(dst, `"::"`...)
	case spec.Type == flow.TypeAddr:
		return append(dst, j.addrs[v]...)
	case spec.Type == flow.TypeEnum:
		return append(append(append(dst, '"'), spec.Enum.Name(v)...), '"')
	case spec.Type == flow.TypeBool:
		return strconv.AppendBool(dst, v != 0)
	}
	return strconv.AppendUint(dst, uint64(v), 10)
}

// appendQuoted appends s as a JSON string. Strings of a batch are valid UTF-8 without control characters (proto/flow checks that), so
// only two characters need care.
func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}
