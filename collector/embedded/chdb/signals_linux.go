package chdb

import (
	"fmt"
	"syscall"
	"unsafe"
)

// lastSignal is the highest signal number on Linux (SIGRTMAX).
const lastSignal = 64

// kernelSigaction has the size of the kernel's struct sigaction on linux/amd64 and linux/arm64 (handler, flags, restorer,
// 64-bit mask). It is only carried from one system call to the next, so its fields do not matter.
type kernelSigaction [4]uint64

// keepSignalHandlers runs f and puts back every signal handler that f replaced.
func keepSignalHandlers(f func()) error {
	var saved [lastSignal + 1]kernelSigaction
	for sig := 1; sig <= lastSignal; sig++ {
		if unchangeable(sig) {
			continue
		}
		if err := sigaction(sig, nil, &saved[sig]); err != nil {
			return fmt.Errorf("save handler of signal %d: %w", sig, err)
		}
	}
	f()
	for sig := 1; sig <= lastSignal; sig++ {
		if unchangeable(sig) {
			continue
		}
		if err := sigaction(sig, &saved[sig], nil); err != nil {
			return fmt.Errorf("restore handler of signal %d: %w", sig, err)
		}
	}
	return nil
}

func unchangeable(sig int) bool {
	return sig == int(syscall.SIGKILL) || sig == int(syscall.SIGSTOP)
}

func sigaction(sig int, set, old *kernelSigaction) error {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
