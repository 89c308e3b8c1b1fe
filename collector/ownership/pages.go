package ownership

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// advise asks the kernel for huge pages behind a slice that look-ups read at random places: with pages of 4 KiB each look-up also waits for
// page tables, twice as long in a virtual machine. It is a hint: where the kernel has none, or the slice has no whole one in it, all stays as it is.
func advise[T any](s []T) {
	if len(s) == 0 {
		return
	}
	first, size := uintptr(unsafe.Pointer(&s[0])), uintptr(len(s))*unsafe.Sizeof(s[0])
	skip := -first & (hugePage - 1)
	if skip >= size || size-skip < hugePage {
		return
	}
	whole := (size - skip) &^ (hugePage - 1)
	_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(&s[0]), skip)), whole), unix.MADV_HUGEPAGE)
}
