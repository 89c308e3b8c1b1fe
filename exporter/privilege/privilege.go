// Package privilege gives up what the process may do and does not need any more.
//
// Loading and attaching programs takes CAP_BPF and CAP_PERFMON; reading what they record takes nothing, but for CAP_BPF on kernels
// that ask for it at every use of bpf(2). So once capture is attached, Reduce leaves the capabilities whose work goes on (see the caller)
// and gives up the rest in every thread, for good: no program that somebody made us run could get them back.
package privilege

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Set is a set of capabilities, a bit each (capabilities(7)).
type Set uint64

// Of returns the set of capabilities by their numbers, unix.CAP_….
func Of(capabilities ...int) (s Set) {
	for _, c := range capabilities {
		s |= 1 << c
	}
	return s
}

// Held returns what the process holds: its permitted set.
func Held() (Set, error) {
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, fmt.Errorf("read own capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapPrm:"); ok {
			held, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return Set(held), err
		}
	}
	return 0, errors.New("read own capabilities: no CapPrm in /proc/thread-self/status")
}

// Reduce gives up everything but keep. Of trial, it keeps what works needs to go on: it is asked without them first. In a binary built with cgo
// it fails, because threads that Go does not know of would keep theirs.
func Reduce(keep, trial Set, works func() error) error {
	held, err := Held()
	if err != nil {
		return err
	}
	keep, trial = keep&held, trial&held
	if err := set(keep, keep|trial); err != nil {
		return err
	}
	if works() != nil {
		keep |= trial
	}
	if err := prctl(unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	if err := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	return set(keep, keep)
}

// set sets the effective and the permitted capabilities of all threads, and clears the inheritable ones.
func set(effective, permitted Set) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32)},
	}
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data)), 0)
	if errno != 0 {
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	return nil
}

func prctl(option, argument uintptr) error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, option, argument, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// String lists the capabilities by number, or "none".
func (s Set) String() string {
	var names []string
	for i := range 64 {
		if s&(1<<i) != 0 {
			names = append(names, name(i))
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}

// name of those that an exporter can have a use for; the others by number.
func name(capability int) string {
	names := map[int]string{
		unix.CAP_BPF: "bpf", unix.CAP_PERFMON: "perfmon", unix.CAP_NET_ADMIN: "net_admin", unix.CAP_NET_BROADCAST: "net_broadcast",
		unix.CAP_SYS_ADMIN: "sys_admin", unix.CAP_SYS_PTRACE: "sys_ptrace", unix.CAP_DAC_READ_SEARCH: "dac_read_search",
		unix.CAP_DAC_OVERRIDE: "dac_override",
	}
	if n, ok := names[capability]; ok {
		return n
	}
	return strconv.Itoa(capability)
}
