package probe

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace and a file that stands for it.
type namespace struct {
	inum uint32
	path string
	own  bool
}

// Namespaces returns the network namespaces in scope, and for each a file that stands for it; only limits them to one. Who opens
// a file checks that it is the one meant.
func Namespaces(only uint32) (map[uint32]string, error) {
	found, err := findNamespaces(only)
	if err != nil {
		return nil, fmt.Errorf("find the network namespaces: %w", err)
	}
	paths := make(map[uint32]string, len(found))
	for _, space := range found {
		paths[space.inum] = space.path
	}
	return paths, nil
}

// maxNamespaces bounds the inventory; a host has a few hundred.
const maxNamespaces = 16384

// OwnNamespace is the file that stands for this process's. Not /proc/self: that is the main thread's namespace, and it need not be this thread's.
const OwnNamespace = "/proc/thread-self/ns/net"

// findNamespaces lists the network namespaces that a process lives in or that are mounted
// somewhere (ip netns, container runtimes), the own one first; with only, just that one. One
// that is kept by an open file or by its sockets alone is not found.
func findNamespaces(only uint32) ([]namespace, error) {
	inum, ok := namespaceOf(OwnNamespace)
	if !ok {
		return nil, fmt.Errorf("%s cannot be read", OwnNamespace)
	}
	set := namespaceSet{only: only, seen: map[uint32]bool{}}
	set.add(namespace{inum: inum, path: OwnNamespace, own: true})
	processes, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, path := range processes {
		if inum, ok := namespaceOf(path); ok {
			set.add(namespace{inum: inum, path: path})
		}
	}
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = mounts.Close() }() // only read
	for _, path := range namespaceMounts(mounts) {
		if inum, ok := namespaceOf(path); ok {
			set.add(namespace{inum: inum, path: path})
		}
	}
	return set.list, nil
}

type namespaceSet struct {
	only uint32
	seen map[uint32]bool
	list []namespace
}

func (s *namespaceSet) add(n namespace) {
	if s.seen[n.inum] || s.only != 0 && s.only != n.inum || len(s.list) >= maxNamespaces {
		return
	}
	s.seen[n.inum] = true
	s.list = append(s.list, n)
}

// namespaceOf fails for a process that is gone or that may not be looked at.
func namespaceOf(path string) (inum uint32, ok bool) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, false
	}
	return uint32(stat.Ino), true
}

// namespaceMounts returns the mount points of network namespaces (proc(5), mountinfo: the
// fourth field is "net:[4026531840]", the fifth the mount point).
func namespaceMounts(mountinfo io.Reader) []string {
	var paths []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 5 && strings.HasPrefix(fields[3], "net:[") {
			paths = append(paths, unescape(fields[4]))
		}
	}
	return paths
}

// unescape undoes mountinfo's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
