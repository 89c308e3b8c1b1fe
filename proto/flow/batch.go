package flow

import "errors"

// Limits of a batch. Decode refuses what is larger; a Builder never makes it.
const (
	MaxRows         = 1 << 16 // rows of a batch
	MaxPayloadBytes = 4 << 20 // a payload as it travels
	MaxColumnsBytes = 32 << 20
	MaxStrings      = 1 << 16 // entries of a dictionary
	MaxAddrs        = 1 << 17
	MaxStringBytes  = 512 // one entry of a dictionary
	MaxCounters     = 256
)

// ErrTooLarge is wrapped by every refusal that is about size.
var ErrTooLarge = errors.New("too large")

// ErrMalformed is wrapped by every refusal that is about content.
var ErrMalformed = errors.New("malformed batch")

// Counter is one cumulative counter of the exporter's run.
type Counter struct {
	Name  string
	Value uint64
}

// Grant says for whom a sender may speak.
type Grant interface {
	// Allows says whether the workload may have had the address by the word of the sender.
	Allows(network string, addr [16]byte, workload string) bool
}

// Header is what a batch says about all its rows.
type Header struct {
	ExporterID   string
	Seq          uint64 // batch_seq, from 1
	Host         string
	BootID       string
	SealedTimeNs int64
	Counters     []Counter
}

// Batch is rows as a struct of arrays. A column that is missing in all rows is a nil slice; others have Rows entries.
// A Batch is reused: Reset keeps the memory. It is not safe for concurrent writers.
type Batch struct {
	Header
	Rows int

	Strings     []string   // dictionary of the payload's string columns; entry 0 is ""
	Addrs       [][16]byte // dictionary of the address columns, IPv4 mapped; entry 0 is ::
	AttrStrings []string   // dictionary of the attribution's string columns; entry 0 is ""

	U32 [NumU32][]uint32
	U64 [NumU64][]uint64

	ReceivedTimeNs int64 // attribution: when the collector took the batch in
	Grant          Grant // attribution: for whose local ends the sender may speak; nil: for all

	// Payload is the sealed Columns message as it travels, compressed by Codec; it is never written to.
	Payload      []byte
	Codec        Codec
	ColumnsBytes int // size of the payload after decompression

	spare32 [NumU32][]uint32
	spare64 [NumU64][]uint64
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.Header = Header{Counters: b.Counters[:0]}
	b.Rows, b.ReceivedTimeNs, b.ColumnsBytes = 0, 0, 0
	b.Payload, b.Codec, b.Grant = nil, CodecNone, nil
	b.Strings, b.Addrs, b.AttrStrings = b.Strings[:0], b.Addrs[:0], b.AttrStrings[:0]
	for f, col := range b.U32 {
		if col != nil {
			b.spare32[f], b.U32[f] = col, nil
		}
	}
	for f, col := range b.U64 {
		if col != nil {
			b.spare64[f], b.U64[f] = col, nil
		}
	}
}

// Make32 makes the column present with one zero entry a row and returns it.
func (b *Batch) Make32(f U32) []uint32 {
	col := b.take32(f)
	clear(col)
	return col
}

// Make64 makes the column present with one zero entry a row and returns it.
func (b *Batch) Make64(f U64) []uint64 {
	col := b.take64(f)
	clear(col)
	return col
}

// take32 makes the column present without clearing it.
func (b *Batch) take32(f U32) []uint32 {
	col := b.U32[f]
	if col == nil {
		col = b.spare32[f]
		b.spare32[f] = nil
	}
	if cap(col) < b.Rows {
		col = make([]uint32, b.Rows)
	}
	b.U32[f] = col[:b.Rows]
	return b.U32[f]
}

func (b *Batch) take64(f U64) []uint64 {
	col := b.U64[f]
	if col == nil {
		col = b.spare64[f]
		b.spare64[f] = nil
	}
	if cap(col) < b.Rows {
		col = make([]uint64, b.Rows)
	}
	b.U64[f] = col[:b.Rows]
	return b.U64[f]
}

// Get32 returns a row's value, the column's default where the column is missing.
func (b *Batch) Get32(f U32, row int) uint32 {
	if col := b.U32[f]; col != nil {
		return col[row]
	}
	return u32Specs[f].Missing
}

// Get64 returns a row's value, 0 where the column is missing.
func (b *Batch) Get64(f U64, row int) uint64 {
	if col := b.U64[f]; col != nil {
		return col[row]
	}
	return 0
}

// Text returns a row's string of a TypeString column, "" where it is missing.
func (b *Batch) Text(f U32, row int) string {
	col := b.U32[f]
	if col == nil {
		return ""
	}
	if u32Specs[f].Attribution {
		return b.AttrStrings[col[row]]
	}
	return b.Strings[col[row]]
}

// Addr returns a row's address of a TypeAddr column, :: where it is missing.
func (b *Batch) Addr(f U32, row int) [16]byte {
	if col := b.U32[f]; col != nil {
		return b.Addrs[col[row]]
	}
	return [16]byte{}
}

// MemoryBytes returns what the batch's columns and payload hold, for rooms that keep batches within a bound.
func (b *Batch) MemoryBytes() int {
	n := len(b.Payload) + 16*len(b.Addrs)
	for _, s := range b.Strings {
		n += len(s) + 16
	}
	for f := range b.U32 {
		n += 4 * (cap(b.U32[f]) + cap(b.spare32[f]))
	}
	for f := range b.U64 {
		n += 8 * (cap(b.U64[f]) + cap(b.spare64[f]))
	}
	return n
}

// Select returns a new batch of the named rows, in that order, sealed anew without compression: same header, same row keys. It is
// how rows that are named later travel on.
func (b *Batch) Select(rows []int) *Batch {
	s := &Batch{Header: b.Header, Rows: len(rows), ReceivedTimeNs: b.ReceivedTimeNs}
	s.Counters = nil
	s.Strings = append(s.Strings, b.Strings...)
	s.Addrs = append(s.Addrs, b.Addrs...)
	s.AttrStrings = append(s.AttrStrings, b.AttrStrings...)
	for f, from := range b.U32 {
		if from == nil {
			continue
		}
		to := s.take32(U32(f))
		for i, row := range rows {
			to[i] = from[row]
		}
	}
	for f, from := range b.U64 {
		if from == nil {
			continue
		}
		to := s.take64(U64(f))
		for i, row := range rows {
			to[i] = from[row]
		}
	}
	s.Payload = s.AppendColumns(nil, nil)
	s.ColumnsBytes = len(s.Payload)
	return s
}
