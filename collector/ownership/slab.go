package ownership

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/cpu"
)

const (
	slabBits = 10
	slabLen  = 1 << slabBits
	slabMask = slabLen - 1
)

// slab hands out records by 32-bit index, in chunks that never move, so that readers need no lock to follow an index while the
// slab grows. Index 0 is never handed out: it means "none". Only writers call alloc and release.
type slab[T any] struct {
	dir  atomic.Pointer[[]*[slabLen]T]
	none T
	_    cpu.CacheLinePad // what follows belongs to writers
	free []uint32
	next uint32
	live int
	refs []int32 // ranges that name a record; not in it: to count must not take its line from readers
}

func newSlab[T any]() *slab[T] {
	s := &slab[T]{next: 1, refs: make([]int32, 1)}
	dir := []*[slabLen]T{new([slabLen]T)}
	s.dir.Store(&dir)
	return s
}

// at gives a record; of an index that was never handed out, one that nobody wrote to: a reader may see any. To index a pointer to an array would read
// its first word, to see whether it is nil.
func (s *slab[T]) at(i uint32) *T {
	if dir := *s.dir.Load(); int(i>>slabBits) < len(dir) {
		return (*T)(unsafe.Add(unsafe.Pointer(dir[i>>slabBits]), uintptr(i&slabMask)*unsafe.Sizeof(s.none)))
	}
	return &s.none
}

func (s *slab[T]) alloc() uint32 {
	s.live++
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i
	}
	i := s.next
	s.next++
	s.refs = append(s.refs, 0)
	if dir := *s.dir.Load(); int(i>>slabBits) == len(dir) {
		// Appending writes behind the length that readers of the old header know, never into it.
		dir = append(dir, new([slabLen]T))
		s.dir.Store(&dir)
	}
	return i
}

func (s *slab[T]) release(i uint32) {
	s.live--
	s.free = append(s.free, i)
}
