package ownership

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// advise asks the kernel for huge pages around a slice that look-ups read at random places: with pages of 4 KiB each look-up also waits for
// page tables, twice as long in a virtual machine. It asks before anything is written there, and for those that the slice has a part of only, too: the rest is
// the next slice's mostly. It is a hint: where the kernel has none, all stays as it is.
func advise[T any](s []T) {
	size := uintptr(len(s)) * unsafe.Sizeof(*new(T))
	if size < hugePage/2 {
		return
	}
	before := uintptr(unsafe.Pointer(&s[0])) & (hugePage - 1)
	whole := (before + size + hugePage - 1) &^ (hugePage - 1)
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(&s[0]), -int(before))), whole), unix.MADV_HUGEPAGE)
}
