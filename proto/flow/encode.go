package flow

import (
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// field numbers of the dictionaries and the one scalar of the two messages
const (
	numStrings      protowire.Number = 1
	numAddrs        protowire.Number = 2
	numReceivedTime protowire.Number = 2 // in Attribution
)

// AppendColumns appends the batch's payload columns as a Columns message. order gives the sequence of rows; nil keeps it.
func (b *Batch) AppendColumns(dst []byte, order []uint32) []byte {
	dst = appendStrings(dst, b.Strings)
	if len(b.Addrs) > 0 {
		dst = protowire.AppendTag(dst, numAddrs, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(16*len(b.Addrs)))
		for i := range b.Addrs {
			dst = append(dst, b.Addrs[i][:]...)
		}
	}
	return b.appendFields(dst, order, false)
}

// AppendAttribution appends the batch's attribution columns as an Attribution message.
func (b *Batch) AppendAttribution(dst []byte) []byte {
	dst = appendStrings(dst, b.AttrStrings)
	if b.ReceivedTimeNs != 0 {
		dst = protowire.AppendTag(dst, numReceivedTime, protowire.VarintType)
		dst = protowire.AppendVarint(dst, protowire.EncodeZigZag(b.ReceivedTimeNs))
	}
	return b.appendFields(dst, nil, true)
}

func appendStrings(dst []byte, dict []string) []byte {
	for _, s := range dict {
		dst = protowire.AppendTag(dst, numStrings, protowire.BytesType)
		dst = protowire.AppendString(dst, s)
	}
	return dst
}

func (b *Batch) appendFields(dst []byte, order []uint32, attribution bool) []byte {
	for f := range b.U32 {
		if col := b.U32[f]; col != nil && u32Specs[f].Attribution == attribution {
			dst = appendPacked(dst, u32Specs[f].Number, col, order)
		}
	}
	for f := range b.U64 {
		col := b.U64[f]
		if col == nil || u64Specs[f].Attribution != attribution {
			continue
		}
		switch U64(f) {
		case StartTimeNs:
			dst = b.appendStarts(dst, col, order)
		case IntervalStartNs:
			dst = b.appendDifference(dst, U64(f), StartTimeNs, order)
		case EndTimeNs:
			dst = b.appendDifference(dst, U64(f), IntervalStartNs, order)
		default:
			dst = appendPacked(dst, u64Specs[f].Number, col, order)
		}
	}
	return dst
}

// lengthBytes is the room kept for a packed field's length, written after its content: a varint padded to five bytes is valid
// protobuf (https://protobuf.dev/programming-guides/encoding) and spares encoding everything twice.
const lengthBytes = 5

func openPacked(dst []byte, n protowire.Number) ([]byte, int) {
	dst = protowire.AppendTag(dst, n, protowire.BytesType)
	dst = append(dst, make([]byte, lengthBytes)...)
	return dst, len(dst)
}

func closePacked(dst []byte, start int) []byte {
	n := uint32(len(dst) - start)
	for i := 0; i < lengthBytes-1; i++ {
		dst[start-lengthBytes+i] = byte(n) | 0x80
		n >>= 7
	}
	dst[start-1] = byte(n)
	return dst
}

func appendPacked[T uint32 | uint64](dst []byte, n protowire.Number, col []T, order []uint32) []byte {
	dst, start := openPacked(dst, n)
	dst = slices.Grow(dst, len(col)*binary.MaxVarintLen64)
	to, used := dst[start:cap(dst)], 0
	for i := range col {
		v := uint64(col[at(order, i)])
		for ; v >= 0x80; v >>= 7 {
			to[used] = byte(v) | 0x80
			used++
		}
		to[used] = byte(v)
		used++
	}
	return closePacked(dst[:start+used], start)
}

func appendVarint(dst []byte, v uint64) []byte {
	if v < 0x80 {
		return append(dst, byte(v))
	}
	return protowire.AppendVarint(dst, v)
}

func (b *Batch) appendStarts(dst []byte, col []uint64, order []uint32) []byte {
	dst, start := openPacked(dst, u64Specs[StartTimeNs].Number)
	var before uint64
	for i := range col {
		row := at(order, i)
		dst = appendVarint(dst, protowire.EncodeZigZag(int64(col[row]-before)))
		before = col[row]
	}
	return closePacked(dst, start)
}

func (b *Batch) appendDifference(dst []byte, f, base U64, order []uint32) []byte {
	dst, start := openPacked(dst, u64Specs[f].Number)
	for i := range b.U64[f] {
		row := at(order, i)
		dst = appendVarint(dst, protowire.EncodeZigZag(int64(b.U64[f][row]-b.Get64(base, row))))
	}
	return closePacked(dst, start)
}

func at(order []uint32, i int) int {
	if order == nil {
		return i
	}
	return int(order[i])
}
