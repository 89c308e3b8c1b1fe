package probe

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Why capture is impossible on this host; test with errors.Is.
var (
	ErrNoBTF      = errors.New("this kernel has no BTF type information (/sys/kernel/btf/vmlinux): use a kernel built with CONFIG_DEBUG_INFO_BTF")
	ErrPrivilege  = errors.New("capture needs root or the capabilities CAP_BPF and CAP_PERFMON")
	ErrOldKernel  = errors.New("this kernel is too old: capture needs Linux 5.15 or later")
	ErrNotAllowed = errors.New("this kernel does not allow tracing programs (lockdown, or BPF switched off)")
)

// The lowest kernel that is tried: atomic fetch instructions, socket cookies in
// tracing programs and the current task's type are all there since 5.12.
const minMajor, minMinor = 5, 15

// Check says whether this host allows capture: nil, or one of the errors above with
// what was found. It loads tiny programs but attaches nothing.
func Check() error {
	if err := checkVersion(); err != nil {
		return err
	}
	if err := checkCapabilities(); err != nil {
		return err
	}
	if err := checkTypes(); err != nil {
		return err
	}
	if err := features.HaveMapType(ebpf.RingBuf); err != nil {
		return notAllowed(fmt.Errorf("ring buffer: %w", err))
	}
	return nil
}

func checkVersion() error {
	if release := KernelRelease(); !newEnough(release) {
		return fmt.Errorf("%w; this is %s", ErrOldKernel, release)
	}
	return nil
}

// KernelRelease is the running kernel, such as "6.1.0-50-cloud-amd64"; "" cannot be parsed, like any other that is not understood.
func KernelRelease() string {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return ""
	}
	return unix.ByteSliceToString(uts.Release[:])
}

// newEnough compares "5.15.0-97-generic" with the minimum; what cannot be parsed
// is taken as new, because loading will tell.
func newEnough(release string) bool {
	parts := strings.SplitN(release, ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return true
	}
	digits := strings.IndexFunc(parts[1]+"-", func(r rune) bool { return r < '0' || r > '9' })
	minor, err := strconv.Atoi(parts[1][:digits])
	if err != nil {
		return true
	}
	return major > minMajor || major == minMajor && minor >= minMinor
}

func checkCapabilities() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	effective, err := effectiveCapabilities(string(status))
	if err != nil {
		return err
	}
	has := func(c uint) bool { return effective&(1<<c) != 0 }
	if has(unix.CAP_SYS_ADMIN) || has(unix.CAP_BPF) && has(unix.CAP_PERFMON) {
		return nil
	}
	return fmt.Errorf("%w; this process (uid %d) has neither", ErrPrivilege, os.Geteuid())
}

func effectiveCapabilities(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("read own capabilities: no CapEff in /proc/self/status")
}

func checkTypes() error {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoBTF, err)
	}
	for _, name := range []string{"inet_sock_set_state", "tcp_receive_reset"} {
		if _, err := spec.AnyTypeByName("btf_trace_" + name); err != nil {
			return fmt.Errorf("%w: no tracepoint %s: %w", ErrOldKernel, name, err)
		}
	}
	return nil
}

// explain gives an error of loading or attaching its sentence.
func explain(err error) error {
	if errors.Is(err, unix.EPERM) { // the verifier answers EACCES
		return notAllowed(err)
	}
	return err
}

// notAllowed says who does not allow it: root of a user namespace has every capability, and none of them counts outside.
func notAllowed(err error) error {
	if inUserNamespace() {
		return fmt.Errorf("%w of the host; this process has those of a user namespace: %w", ErrPrivilege, err)
	}
	return fmt.Errorf("%w: %w", ErrNotAllowed, err)
}

// inUserNamespace reports whether this process is in another user namespace than the host's, whose number is fixed (PROC_USER_INIT_INO).
func inUserNamespace() bool {
	const hosts = 0xeffffffd
	var stat unix.Stat_t
	err := unix.Stat("/proc/self/ns/user", &stat)
	return err == nil && stat.Ino != hosts
}
