package budget

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// CPUs returns how many processors there are for this process: those of the host, or fewer where one of its cgroups (identity.OwnCgroups) has a limit
// (cpu.max).
func CPUs(cgroups []string) float64 { return cpusIn(cgroups, float64(runtime.NumCPU())) }

func cpusIn(cgroups []string, host float64) float64 {
	least := host
	for _, dir := range cgroups {
		quota, period, ok := strings.Cut(readLine(filepath.Join(dir, "cpu.max")), " ")
		q, qerr := strconv.ParseFloat(quota, 64) // "max" is no number
		p, perr := strconv.ParseFloat(period, 64)
		if ok && qerr == nil && perr == nil && q > 0 && p > 0 {
			least = min(least, q/p)
		}
	}
	return least
}

// MemoryBytes returns the least limit of memory of this process's cgroups (memory.max); 0 if there is none.
func MemoryBytes(cgroups []string) (least uint64) {
	for _, dir := range cgroups {
		n, err := strconv.ParseUint(readLine(filepath.Join(dir, "memory.max")), 10, 64)
		if err == nil && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

func readLine(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSpace(line)
}
