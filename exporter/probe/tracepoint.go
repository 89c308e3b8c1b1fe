package probe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// perfEvent is a program attached to a classic tracepoint; it ends with the descriptor.
type perfEvent int

// Close detaches the program.
func (e perfEvent) Close() error { return unix.Close(int(e)) }

// attachTracepoint attaches a program to a classic tracepoint of every CPU.
func attachTracepoint(group, name string, prog *ebpf.Program) (perfEvent, error) {
	id, err := tracepointID(path.Join("events", group, name, "id"))
	if err != nil {
		return -1, fmt.Errorf("find the tracepoint %s: %w", name, err)
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Sample_type: unix.PERF_SAMPLE_RAW, Sample: 1, Wakeup: 1}
	// One CPU is enough: a tracepoint runs the programs of all its events wherever it is hit.
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open the tracepoint %s: %w", name, err)
	}
	err = unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_SET_BPF, prog.FD())
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.PERF_EVENT_IOC_ENABLE, 0)
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("attach to the tracepoint %s: %w", name, err), unix.Close(fd))
	}
	return perfEvent(fd), nil
}

// tracepointID reads a file of tracefs, where it is mounted, or else through a mount that nobody but this function sees.
func tracepointID(file string) (uint64, error) {
	for _, root := range []string{"/sys/kernel/tracing", "/sys/kernel/debug/tracing"} {
		if text, err := os.ReadFile(path.Join(root, file)); err == nil {
			return parseID(text)
		}
	}
	mount, err := mountTracefs()
	if err != nil {
		return 0, fmt.Errorf("tracefs is not mounted, and cannot be: %w", err)
	}
	defer func() { _ = unix.Close(mount) }() // only read
	fd, err := unix.Openat(mount, file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	f := os.NewFile(uintptr(fd), file)
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(f)
	if err != nil {
		return 0, err
	}
	return parseID(text)
}

func parseID(text []byte) (uint64, error) {
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}

// mountTracefs returns a mount that is attached nowhere and ends with its descriptor (fsmount(2)). It takes CAP_SYS_ADMIN.
func mountTracefs() (int, error) {
	fs, err := unix.Fsopen("tracefs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(fs) }() // the mount goes on without it
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
}
