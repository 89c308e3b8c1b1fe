// Package mounts reads which file systems this process has mounted, and where.
package mounts

import (
	"bytes"
	"iter"
	"os"
	"strings"
)

// Mount is one line of /proc/self/mountinfo (proc(5)).
type Mount struct {
	Root  string // what of the file system is mounted: a directory, or of nsfs the namespace as "net:[4026531840]"
	Point string // where
	Type  string // of the file system
}

// All yields the mounts, in the kernel's order; none where they cannot be read.
func All() iter.Seq[Mount] {
	return func(yield func(Mount) bool) {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return
		}
		for line := range bytes.Lines(data) {
			if m, ok := parse(string(line)); ok && !yield(m) {
				return
			}
		}
	}
}

// parse reads a line: the fields of the mount, any number of optional ones, a dash, and the fields of the file system.
func parse(line string) (Mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, types := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 5 || len(types) < 1 {
		return Mount{}, false
	}
	return Mount{fields[3], unescape.Replace(fields[4]), types[0]}, true
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// CgroupRoot returns where the cgroup v2 hierarchy is mounted, "" if it is not.
func CgroupRoot() string {
	for m := range All() {
		if m.Type == "cgroup2" {
			return m.Point
		}
	}
	return ""
}
