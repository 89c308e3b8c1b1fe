package identity

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxCgroups bounds one walk of the hierarchy.
const maxCgroups = 65_536

// cgroupRoot returns where the cgroup v2 hierarchy is mounted, "" if it is not.
func cgroupRoot() string {
	for m := range mounts() {
		if m.fsType == "cgroup2" {
			return m.point
		}
	}
	return ""
}

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// errEnough ends a walk at its bound.
var errEnough = errors.New("too many cgroups")

// findCgroups looks up the cgroups of all entries, those below them included: a record carries the innermost one. Where entries
// name a cgroup and one above it, the inner one wins. dirs are the directories where a new cgroup would count.
func (b *Book) findCgroups() (dirs []string) {
	p := &b.presence
	byPath, byUnit := map[string]*entry{}, map[string]*entry{}
	for i := range b.owners {
		e := b.owners[i].entry
		if e.Cgroup != "" {
			byPath[cgroupDir(b.names.root, e.Cgroup)] = e
		}
		if e.Unit != "" {
			byUnit[e.Unit] = e
		}
	}
	old := p.cgroups
	p.cgroups = map[*entry][]uint64{}
	if len(byPath)+len(byUnit) == 0 || b.names.root == "" {
		return nil
	}
	seen := map[uint64]bool{}
	dirs = b.walkCgroups(byPath, byUnit, seen)
	for _, ids := range old {
		for _, id := range ids {
			if !seen[id] {
				b.gone[key{kind: byCgroup, id: id}] = true
			}
		}
	}
	return dirs
}

// cgroupDir is the directory of a path below the root; a path with the mount point in front is fine too.
func cgroupDir(root, path string) string {
	if rest, ok := strings.CutPrefix(path, root+"/"); ok {
		path = rest
	}
	return filepath.Join(root, path)
}

// CheckCgroups says what is missing where no cgroup v2 hierarchy is mounted.
func CheckCgroups() error {
	if cgroupRoot() == "" {
		return errors.New("no cgroup v2 hierarchy is mounted: sockets are named by network namespace and address only")
	}
	return nil
}

// CgroupID returns the id of a cgroup (v2) by its path, written as in the identity file; "" is the one this process is in. The
// root is refused: it is no part of a host, but all of it.
func CgroupID(path string) (uint64, error) {
	root := cgroupRoot()
	if root == "" {
		return 0, errors.New("no cgroup v2 hierarchy is mounted")
	}
	if path == "" {
		data, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return 0, err
		}
		path = unifiedPath(string(data))
	}
	dir := cgroupDir(root, path)
	if dir == root {
		return 0, errors.New("this is the root cgroup, which is the whole host")
	}
	id, err := inode(dir)
	if err != nil {
		return 0, err
	}
	return id, nil
}

// unifiedPath is the cgroup v2 path in the text of a /proc/PID/cgroup, "" if there is none.
func unifiedPath(text string) string {
	for line := range strings.Lines(text) {
		if path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::"); v2 {
			return path
		}
	}
	return ""
}

// walkCgroups visits the whole hierarchy once: parents come before their children, so a child inherits.
func (b *Book) walkCgroups(byPath, byUnit map[string]*entry, seen map[uint64]bool) (dirs []string) {
	p := &b.presence
	owner := map[string]*entry{}
	root := b.names.root
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // gone meanwhile, or a control file
		}
		if len(seen) >= maxCgroups {
			return errEnough
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		id := info.Sys().(*syscall.Stat_t).Ino
		seen[id] = true
		e := byPath[path]
		if e == nil {
			e = byUnit[d.Name()]
		}
		if e == nil && path != root {
			e = owner[filepath.Dir(path)]
		}
		if e != nil {
			owner[path] = e
			p.cgroups[e] = append(p.cgroups[e], id)
		}
		dirs = append(dirs, path)
		return nil
	})
	if err != nil {
		b.log.Warn("not all cgroups were looked at: sockets in the rest are not named by cgroup", "error", err, "most", maxCgroups)
	}
	return dirs
}
