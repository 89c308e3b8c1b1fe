package spool

import (
	"bytes"
	"errors"
	"io"
)

// damage is a part of a segment that holds no whole record.
type damage struct {
	reason Reason // Torn at the end, Corrupt elsewhere
	off    int64
	bytes  int64
	record *record // whose header was whole; nil where not even that is known
}

// scan reads the headers of a segment of size bytes, in order. Bodies are not read. Behind a damaged header it looks for
// the next one, byte by byte, so that the damage costs nothing else.
func scan(f io.ReaderAt, size int64, nonce uint64, found func(record), damaged func(damage)) error {
	size = min(size, maxSegment)
	var header [recordBytes]byte
	last := uint64(0)
	for off := int64(recordsAt); off < size; {
		r, ok := record{}, false
		if size-off >= recordBytes {
			if _, err := f.ReadAt(header[:], off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			r, ok = decodeRecord(header[:], off, nonce)
		}
		switch {
		case !ok:
			next, err := resync(f, off+1, size, nonce)
			if err != nil {
				return err
			}
			reason := Corrupt
			if next == size {
				reason = Torn
			}
			damaged(damage{reason: reason, off: off, bytes: next - off})
			off = next
			continue
		case r.end() > size:
			damaged(damage{reason: Torn, off: off, bytes: size - off, record: &r})
		case r.seq <= last: // never written by us; [Spool.Ack] searches by order
			damaged(damage{reason: Corrupt, off: off, bytes: r.end() - off, record: &r})
		default:
			found(r)
			last = r.seq
		}
		off = r.end()
	}
	return nil
}

// resync returns where the next whole header begins, or size.
func resync(f io.ReaderAt, off, size int64, nonce uint64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size-off >= recordBytes {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n < recordBytes {
			break // the file became shorter
		}
		for i := 0; ; i++ {
			at := bytes.Index(buf[i:n], recordMagic[:])
			if at < 0 || i+at+recordBytes > n {
				break
			}
			i += at
			if _, ok := decodeRecord(buf[i:i+recordBytes], off+int64(i), nonce); ok {
				return off + int64(i), nil
			}
		}
		off += int64(n - recordBytes + 1) // a header may begin in the last bytes
	}
	return size, nil
}
