// Package datagram is the form in which a small batch travels in one UDP datagram: a header in clear, and a tributary.flow.v1.Batch sealed with
// AES-128-GCM under a key that a collector has handed out on the Control stream. Both programs share it. It is pure: it sends and counts nothing.
//
// What it promises: a datagram has at most [MaxBytes], so that it is never fragmented; one that [Key.Open] opens was sealed by whoever has the
// key, header included. Whether it came before, or too late, is for its reader to know.
//
// The batch in it says neither exporter_id, host and boot_id, which the collector knows from whom it gave the key to, nor counters, which travel as
// Health. An empty one carries no rows: it shows that datagrams arrive.
//
// Layout, big-endian:
//
//	'T' u8, version u8, rows u16, epoch u32, key_id u64, seq u64, sealed batch, tag [16]
//
// The last 12 bytes of the header are the nonce: one key serves one run of one exporter, whose seq never repeats.
package datagram

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes.
const (
	// MaxBytes is the payload of a UDP datagram that every path carries whole: the least MTU of IPv6 less headers and room for tunnels.
	MaxBytes      = 1200
	KeyBytes      = 16
	MaxBatchBytes = MaxBytes - headerBytes - tagBytes

	headerBytes = 24
	nonceAt     = 12
	tagBytes    = 16
)

const (
	magic   = 'T'
	version = 1
)

// Why a datagram is not opened.
var (
	ErrTruncated = errors.New("shorter than a datagram can be")
	ErrOversized = errors.New("longer than a datagram may be")
	ErrVersion   = errors.New("not a datagram of this version")
	ErrForged    = errors.New("not sealed with this key")
)

// Header is what a datagram says in clear. It can be believed once the datagram is open.
type Header struct {
	Rows  uint16 // of the batch
	Epoch uint32 // in which it was sent; see DatagramMark
	KeyID uint64
	Seq   uint64 // counts up from 1 in a run of an exporter, over all its keys
}

// Parse reads the header.
func Parse(b []byte) (Header, error) {
	switch {
	case len(b) > MaxBytes:
		return Header{}, ErrOversized
	case len(b) < headerBytes+tagBytes:
		return Header{}, ErrTruncated
	case b[0] != magic || b[1] != version:
		return Header{}, ErrVersion
	}
	return Header{
		Rows: binary.BigEndian.Uint16(b[2:]), Epoch: binary.BigEndian.Uint32(b[4:]),
		KeyID: binary.BigEndian.Uint64(b[8:]), Seq: binary.BigEndian.Uint64(b[16:]),
	}, nil
}

// Key seals and opens. It is safe for concurrent use.
type Key struct {
	aead cipher.AEAD
}

// NewKey returns the key of KeyBytes secret bytes.
func NewKey(secret []byte) (*Key, error) {
	if len(secret) != KeyBytes {
		return nil, fmt.Errorf("a key of %d bytes, not %d", len(secret), KeyBytes)
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &Key{aead}, err
}

// Seal appends a datagram to dst. Two with the same Seq must never be sealed.
func (k *Key) Seal(dst []byte, h Header, batch []byte) ([]byte, error) {
	if len(batch) > MaxBatchBytes {
		return dst, fmt.Errorf("%w: a batch of %d bytes, at most %d fit", ErrOversized, len(batch), MaxBatchBytes)
	}
	start := len(dst)
	dst = append(dst, magic, version)
	dst = binary.BigEndian.AppendUint16(dst, h.Rows)
	dst = binary.BigEndian.AppendUint32(dst, h.Epoch)
	dst = binary.BigEndian.AppendUint64(dst, h.KeyID)
	dst = binary.BigEndian.AppendUint64(dst, h.Seq)
	clear := dst[start:]
	return k.aead.Seal(dst, clear[nonceAt:], batch, clear), nil
}

// Open opens a datagram that Parse accepted, in place, and returns the batch in it.
func (k *Key) Open(b []byte) ([]byte, error) {
	batch, err := k.aead.Open(b[headerBytes:headerBytes], b[nonceAt:headerBytes], b[headerBytes:], b[:headerBytes])
	if err != nil {
		return nil, ErrForged
	}
	return batch, nil
}
