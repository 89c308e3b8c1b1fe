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
	start := uintptr(unsafe.Pointer(&s[0]))
	first := start &^ (hugePage - 1)
	whole := (start - first + size + hugePage - 1) &^ (hugePage - 1)
	// by number: a Go slice may not reach beyond what was allocated
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, first, whole, unix.MADV_HUGEPAGE)
}
