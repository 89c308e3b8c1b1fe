package main

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Flow ids from firstFlowID to lastFlowID take four bytes as a varint, so that new ones fit where old ones were.
const (
	firstFlowID = 1 << 21
	lastFlowID  = 1<<28 - 1
	idBytes     = 4
)

// template is a sealed batch of which only the flow ids and the times change from one sending to the next. Building batches anew would
// cost the fleet more than the collector spends on them, on a machine that they share.
type template struct {
	columns  []byte
	rows     int
	idAt     int      // where the flow ids lie
	ids      []uint32 // flow ids, from 0, in the order of the rows
	timeAt   int      // where the first row's start time lies; the other times are differences
	timeLen  int
	timeBase int64 // it, when sealed at sealedAt
	sealedAt int64
}

const (
	flowIDField    = 3
	startTimeField = 18
)

func newTemplate(t *traffic, b *flow.Builder, host, rows int) (*template, error) {
	now := time.Now().UnixNano()
	for i := range rows {
		t.row(b, host, uint64(firstFlowID+i), now)
	}
	columns, _ := b.Seal(nil)
	p := &template{columns: columns, rows: rows, sealedAt: now}
	for rest := columns; len(rest) > 0; {
		n, kind, size := protowire.ConsumeTag(rest)
		if kind != protowire.BytesType {
			return nil, errors.New("a template has a field that is not bytes")
		}
		value, length := protowire.ConsumeBytes(rest[size:])
		at := len(columns) - len(rest) + size + length - len(value)
		switch n {
		case flowIDField:
			p.findIDs(at, value)
		case startTimeField:
			v, length := protowire.ConsumeVarint(value)
			p.timeAt, p.timeLen, p.timeBase = at, length, protowire.DecodeZigZag(v)
		}
		rest = rest[size+length:]
	}
	if len(p.ids) != rows || p.timeLen == 0 {
		return nil, fmt.Errorf("a template of %d rows has %d flow ids and a first time of %d bytes", rows, len(p.ids), p.timeLen)
	}
	return p, nil
}

func (p *template) findIDs(at int, value []byte) {
	p.idAt = at
	for len(value) > 0 {
		v, n := protowire.ConsumeVarint(value)
		if n != idBytes {
			return
		}
		p.ids = append(p.ids, uint32(v-firstFlowID))
		value = value[n:]
	}
}

// fresh writes the template with flow ids from first on, as if it were sealed at now, into dst.
func (p *template) fresh(dst []byte, first uint32, now int64) []byte {
	dst = append(dst[:0], p.columns...)
	to := dst[p.idAt:]
	for _, id := range p.ids {
		v := first + id
		_ = to[3]
		to[0], to[1], to[2], to[3] = byte(v)|0x80, byte(v>>7)|0x80, byte(v>>14)|0x80, byte(v>>21)
		to = to[idBytes:]
	}
	// The time's varint keeps its nine bytes until 2043.
	protowire.AppendVarint(dst[p.timeAt:p.timeAt], protowire.EncodeZigZag(p.timeBase+now-p.sealedAt))
	return dst
}

// packer turns templates into wire batches, each used until the next.
type packer struct {
	sealer  *flow.Sealer // nil without compression
	columns []byte
	payload []byte
}

func newPacker(zstd bool) (*packer, error) {
	if !zstd {
		return &packer{}, nil
	}
	sealer, err := flow.NewSealer()
	return &packer{sealer: sealer}, err
}

func (p *packer) batch(t *template, first uint32, now int64) *flowv1.Batch {
	p.columns = t.fresh(p.columns, first, now)
	b := &flowv1.Batch{Rows: uint32(t.rows), ColumnsBytes: uint32(len(p.columns)), Payload: p.columns, SealedTimeNs: now}
	if p.sealer != nil {
		p.payload = p.sealer.Compress(p.payload[:0], p.columns)
		b.Payload, b.Codec = p.payload, flowv1.Codec_CODEC_ZSTD
	}
	return b
}
