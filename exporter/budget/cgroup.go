package budget

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// CPUs returns how many processors there are for this process: those of the host, or fewer where its cgroup or one above that has a
// limit (cgroup v2, cpu.max).
func CPUs() float64 { return cpusIn("/sys/fs/cgroup", "/proc/self/cgroup", float64(runtime.NumCPU())) }

func cpusIn(root, own string, host float64) float64 {
	least := host
	for dir := range cgroupsUp(root, own) {
		quota, period, ok := strings.Cut(readLine(filepath.Join(dir, "cpu.max")), " ")
		q, qerr := strconv.ParseFloat(quota, 64) // "max" is no number
		p, perr := strconv.ParseFloat(period, 64)
		if ok && qerr == nil && perr == nil && q > 0 && p > 0 {
			least = min(least, q/p)
		}
	}
	return least
}

// MemoryBytes returns the least limit of memory of this process's cgroup and those above it (memory.max); 0 if there is none.
func MemoryBytes() uint64 { return memoryIn("/sys/fs/cgroup", "/proc/self/cgroup") }

func memoryIn(root, own string) (least uint64) {
	for dir := range cgroupsUp(root, own) {
		n, err := strconv.ParseUint(readLine(filepath.Join(dir, "memory.max")), 10, 64)
		if err == nil && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// cgroupsUp yields the directory of the process's cgroup (v2) and all above it. In a container that sees only its own part of the
// hierarchy the path is "/", and the root is its own.
func cgroupsUp(root, own string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		data, err := os.ReadFile(own)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(data)) {
			path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
			if !v2 {
				continue
			}
			for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
				if !yield(filepath.Join(root, path)) || path == "/" {
					return
				}
			}
		}
	}
}

func readLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}
