package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Layout of a file, little-endian:
//
//	head slot:  magic [8], version u32, length u32, CRC32C of version, length and text u32, text (JSON) [length], zeros to 1024
//	head slot:  the same again, so that one damaged block does not cost the segment
//	record:     magic u32, body length u32, body CRC32C u32, rows u32, batch_seq u64, age of the segment in ms u32,
//	            CRC32C of nonce u64, place u64 and the 28 bytes before u32, body
//
// Magic, version, length and checksum of a slot mean the same in every version.
const (
	slotBytes   = 1024
	slotText    = 20 // where the text begins
	recordsAt   = 2 * slotBytes
	recordBytes = 32 // of a header
	version     = 1

	maxBody    = 16 << 20 // four times what a collector accepts
	maxSegment = 64 << 20 // what is read of a file; ours are smaller
	maxNumber  = 1 << 62  // of a file; above it a name is not ours
)

var (
	slotMagic   = [8]byte{'t', 'r', 'b', 's', 'p', 'o', 'o', 'l'}
	recordMagic = [4]byte{0xb7, 'T', 'r', 0x9d}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// head says who wrote a file, and when.
type head struct {
	Run       string `json:"exporter_id"`
	Host      string `json:"host"`
	BootID    string `json:"boot_id"`
	CreatedNs int64  `json:"created_ns"` // wall clock
	BootNs    int64  `json:"boot_ns"`    // since the start of the host
	Nonce     uint64 `json:"nonce"`
	Reason    string `json:"reason,omitempty"` // why a collector rejected it
}

var (
	errHead  = errors.New("no readable head")
	errNewer = errors.New("written by a newer version")
)

func encodeSlot(h head) ([]byte, error) {
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	if len(text) > slotBytes-slotText {
		return nil, fmt.Errorf("run, host and boot id do not fit the head of a spool segment (%d bytes)", len(text))
	}
	slot := make([]byte, slotBytes)
	copy(slot, slotMagic[:])
	binary.LittleEndian.PutUint32(slot[8:], version)
	binary.LittleEndian.PutUint32(slot[12:], uint32(len(text)))
	copy(slot[slotText:], text)
	binary.LittleEndian.PutUint32(slot[16:], slotSum(slot, len(text)))
	return slot, nil
}

func slotSum(slot []byte, length int) uint32 {
	return crc32.Update(crc32.Checksum(slot[8:16], castagnoli), castagnoli, slot[slotText:slotText+length])
}

func decodeSlot(slot []byte) (h head, err error) {
	length := int(binary.LittleEndian.Uint32(slot[12:]))
	if !bytes.Equal(slot[:8], slotMagic[:]) || uint(length) > slotBytes-slotText {
		return h, errHead
	}
	if binary.LittleEndian.Uint32(slot[16:]) != slotSum(slot, length) {
		return h, errHead
	}
	if v := binary.LittleEndian.Uint32(slot[8:]); v != version {
		return h, fmt.Errorf("%w: format %d, this program knows %d", errNewer, v, version)
	}
	if err := json.Unmarshal(slot[slotText:slotText+length], &h); err != nil {
		return h, fmt.Errorf("%w: %w", errHead, err)
	}
	return h, nil
}

// readHead returns the head from whichever slot is whole.
func readHead(f io.ReaderAt) (head, error) {
	var slots [recordsAt]byte
	n, err := f.ReadAt(slots[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return head{}, err
	}
	clear(slots[n:])
	h, err := decodeSlot(slots[:slotBytes])
	if errors.Is(err, errHead) {
		return decodeSlot(slots[slotBytes:])
	}
	return h, err
}

// record is what the header of one record says.
type record struct {
	seq   uint64
	off   int64 // of the header
	size  uint32
	sum   uint32
	rows  uint32
	ageMs uint32 // of the segment when it was written
}

func (r *record) end() int64 { return r.off + recordBytes + int64(r.size) }

func encodeRecord(r record, nonce uint64) (b [recordBytes]byte) {
	copy(b[:], recordMagic[:])
	binary.LittleEndian.PutUint32(b[4:], r.size)
	binary.LittleEndian.PutUint32(b[8:], r.sum)
	binary.LittleEndian.PutUint32(b[12:], r.rows)
	binary.LittleEndian.PutUint64(b[16:], r.seq)
	binary.LittleEndian.PutUint32(b[24:], r.ageMs)
	binary.LittleEndian.PutUint32(b[28:], recordSum(b[:], r.off, nonce))
	return b
}

func recordSum(b []byte, off int64, nonce uint64) uint32 {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], nonce)
	binary.LittleEndian.PutUint64(place[8:], uint64(off))
	return crc32.Update(crc32.Checksum(place[:], castagnoli), castagnoli, b[:28])
}

// decodeRecord reads a header that stood at off; false if it is none.
func decodeRecord(b []byte, off int64, nonce uint64) (record, bool) {
	if !bytes.Equal(b[:4], recordMagic[:]) || binary.LittleEndian.Uint32(b[28:]) != recordSum(b, off, nonce) {
		return record{}, false
	}
	r := record{
		off: off, size: binary.LittleEndian.Uint32(b[4:]), sum: binary.LittleEndian.Uint32(b[8:]),
		rows: binary.LittleEndian.Uint32(b[12:]), seq: binary.LittleEndian.Uint64(b[16:]), ageMs: binary.LittleEndian.Uint32(b[24:]),
	}
	return r, r.size <= maxBody
}

// readBody reads the record whose header said r, and checks every byte of it.
func readBody(f io.ReaderAt, r record, nonce uint64) ([]byte, error) {
	b := make([]byte, recordBytes+int(r.size))
	if n, err := f.ReadAt(b, r.off); n < len(b) {
		return nil, err
	}
	again, ok := decodeRecord(b, r.off, nonce)
	if !ok || again.size != r.size || again.seq != r.seq || crc32.Checksum(b[recordBytes:], castagnoli) != again.sum {
		return nil, errDamaged
	}
	return b[recordBytes:], nil
}

var errDamaged = errors.New("checksum does not match")

// Kinds of files, by the end of the name.
const (
	kindSegment  = ".seg"
	kindRejected = ".rejected"
	kindCorrupt  = ".corrupt"
	kindAcked    = ".acked"   // a segment that is acknowledged and kept for a while
	kindRolling  = ".rolling" // what will take the place of the segment of this number
)

func fileName(number uint64, kind string) string { return fmt.Sprintf("%016x%s", number, kind) }

// parseName tells whether a file is one of ours.
func parseName(name string) (number uint64, kind string, ok bool) {
	digits, rest, found := strings.Cut(name, ".")
	if !found || len(digits) != 16 || strings.ToLower(digits) != digits {
		return 0, "", false
	}
	number, err := strconv.ParseUint(digits, 16, 64)
	kind = "." + rest
	return number, kind, err == nil && number < maxNumber && slices.Contains([]string{kindSegment, kindRejected, kindCorrupt, kindAcked, kindRolling}, kind)
}
