package netns

import (
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"

	"tributary/exporter/mounts"
)

const (
	maxNamespaces = 16_384  // in All; a host has a few hundred
	maxProcesses  = 4 << 20 // the kernel's own bound (PID_MAX_LIMIT)
)

// Namespace is a network namespace and a path that leads to it.
type Namespace struct {
	Inum uint32
	Path string
}

// All returns the network namespaces that a process lives in or that are mounted somewhere, the own one first; with only, just that one. One
// that is kept by an open file or by its sockets alone is not found.
func All(only uint32) ([]Namespace, error) {
	own, ok := Inum(Own)
	if !ok {
		return nil, fmt.Errorf("find the network namespaces: %s cannot be read", Own)
	}
	var all []Namespace
	seen := map[uint32]bool{}
	add := func(inum uint32, path string) {
		if !seen[inum] && (only == 0 || only == inum) && len(all) < maxNamespaces {
			seen[inum] = true
			all = append(all, Namespace{inum, path})
		}
	}
	add(own, Own)
	for inum, path := range OfProcesses() {
		add(inum, path)
	}
	for inum, path := range Mounted() {
		add(inum, path)
	}
	return all, nil
}

// Mounted yields the inode numbers of the network namespaces that are mounted somewhere (ip netns, container runtimes), each with a path that leads to it. One with
// several mounts comes several times.
func Mounted() iter.Seq2[uint32, string] {
	return func(yield func(uint32, string) bool) {
		for m := range mounts.All() {
			inum, ok := parse(m.Root)
			if !ok || m.Type != "nsfs" {
				continue
			}
			if at, ok := Inum(m.Point); !ok || at != inum {
				continue // another mount hides it
			}
			if !yield(inum, m.Point) {
				return
			}
		}
	}
}

// OfProcesses yields the inode number of the network namespace of every process that may be looked at, and a path that leads to it.
func OfProcesses() iter.Seq2[uint32, string] {
	return func(yield func(uint32, string) bool) {
		dir, err := os.Open("/proc")
		if err != nil {
			return
		}
		defer dir.Close()
		names, _ := dir.Readdirnames(maxProcesses) // what was read before an error counts
		for _, name := range names {
			if name[0] < '1' || name[0] > '9' {
				continue
			}
			path := "/proc/" + name + "/ns/net"
			link, err := os.Readlink(path)
			if err != nil {
				continue
			}
			if inum, ok := parse(link); ok && !yield(inum, path) {
				return
			}
		}
	}
}

// Path returns a path that leads to a network namespace: that of a process that was in it, a mounted one, or that of any
// process that is in it now; "" if there is none.
func Path(inum, pid uint32) string {
	if pid != 0 {
		path := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/ns/net"
		if at, ok := Inum(path); ok && at == inum {
			return path
		}
	}
	for _, find := range []iter.Seq2[uint32, string]{Mounted(), OfProcesses()} {
		for at, path := range find {
			if at == inum {
				return path
			}
		}
	}
	return ""
}

// parse reads "net:[4026531840]".
func parse(link string) (uint32, bool) {
	digits, ok := strings.CutPrefix(link, "net:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32)
	return uint32(n), err == nil
}
