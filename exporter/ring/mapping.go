package ring

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout of a BPF ring buffer for user space (kernel/bpf/ringbuf.c): a page with the
// consumer's position, a page with the producer's, then the data, mapped twice in a
// row so that no record is torn at the end. A record is a header of 8 bytes (length
// with two flag bits, then a field of the kernel's) and its bytes, rounded up to 8.
const (
	headerSize = 8
	flagBusy   = 1 << 31
	flagGone   = 1 << 30
	// commitEvery is how many bytes are consumed before the kernel is told.
	commitEvery = 16 << 10
)

type sampleState int

const (
	sampleEnd sampleState = iota
	sampleBusy
	sampleDiscarded
	sampleReady
)

// mapping is the ring in our address space.
type mapping struct {
	consumer []byte // one page, writable
	ring     []byte // producer's page and the data twice, read-only
	data     []byte
	mask     uint64
	position uint64 // what we have consumed
	told     uint64 // what the kernel knows of that
}

func mapRing(fd, size int) (*mapping, error) {
	page := os.Getpagesize()
	if size < page || size&(size-1) != 0 {
		return nil, fmt.Errorf("ring size %d is no power of two of at least a page", size)
	}
	var err error
	m := &mapping{mask: uint64(size - 1)}
	if m.consumer, err = unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		m.close()
		return nil, fmt.Errorf("map ring consumer page: %w", err)
	}
	if m.ring, err = unix.Mmap(fd, int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		m.close()
		return nil, fmt.Errorf("map ring data: %w", err)
	}
	m.data = m.ring[page:]
	m.position = atomic.LoadUint64(m.consumerWord())
	m.told = m.position
	return m, nil
}

func (m *mapping) consumerWord() *uint64 { return (*uint64)(unsafe.Pointer(&m.consumer[0])) }

// producer returns the position up to which records are reserved.
func (m *mapping) producer() uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&m.ring[0])))
}

// waiting returns how many bytes lie between the current position and the end.
func (m *mapping) waiting() uint64 { return m.producer() - m.position }

// next returns the record at the current position if it lies before limit. A ready
// one must be consumed by advance; a discarded one is already.
func (m *mapping) next(limit uint64) ([]byte, sampleState) {
	if m.position >= limit {
		return nil, sampleEnd
	}
	at := m.position & m.mask
	header := atomic.LoadUint32((*uint32)(unsafe.Pointer(&m.data[at])))
	if header&flagBusy != 0 {
		return nil, sampleBusy
	}
	n := int(header &^ (flagBusy | flagGone))
	if header&flagGone != 0 {
		m.advance(n)
		return nil, sampleDiscarded
	}
	start := int(at) + headerSize
	return m.data[start : start+n : start+n], sampleReady
}

// advance consumes a record of n bytes and tells the kernel from time to time: each
// telling takes the cache line that producers look at.
func (m *mapping) advance(n int) {
	m.position += uint64(n+headerSize+7) &^ 7
	if m.position-m.told >= commitEvery {
		m.commit()
	}
}

// commit gives the consumed part back to the kernel.
func (m *mapping) commit() {
	if m.told != m.position {
		m.told = m.position
		atomic.StoreUint64(m.consumerWord(), m.position)
	}
}

func (m *mapping) close() {
	if m.ring != nil {
		unix.Munmap(m.ring)
	}
	if m.consumer != nil {
		unix.Munmap(m.consumer)
	}
	m.ring, m.consumer, m.data = nil, nil, nil
}
