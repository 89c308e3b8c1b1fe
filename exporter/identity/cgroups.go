package identity

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"tributary/exporter/containers"
	"tributary/exporter/mounts"
)

// maxCgroups bounds one walk of the hierarchy.
const maxCgroups = 65_536

func inode(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Ino, nil
}

// errEnough ends a walk at its bound.
var errEnough = errors.New("too many cgroups")

// place is what a cgroup (v2) directory says of the sockets of its processes. Those that say nothing are kept too: a runtime may tell
// of a container when its cgroup is gone.
type place struct {
	cgroup    uint64 // its id
	entry     *entry // the innermost entry of the file at or above it, nil none
	container string // the innermost container at or above it, "" none
	pod       string // and its pod
}

// selectors are what the entries of the file and the runtimes' states say of cgroups.
type selectors struct {
	paths, units map[string]*entry
	containers   []*entry
	running      map[string]Container // by directory
}

func (b *Book) findSelectors() {
	s := selectors{paths: map[string]*entry{}, units: map[string]*entry{}, running: map[string]Container{}}
	for i := range b.owners {
		e := b.owners[i].entry
		if e.Cgroup != "" {
			s.paths[cgroupDir(b.names.root, e.Cgroup)] = e
		}
		if e.Unit != "" {
			s.units[e.Unit] = e
		}
		if e.Container != "" {
			s.containers = append(s.containers, e)
		}
	}
	b.presence.selectors = s
	b.findContainers()
}

// findContainers asks which containers run and places them; changed says that any is new.
func (b *Book) findContainers() (changed bool) {
	if b.opts.Containers == nil {
		return false
	}
	s := &b.presence.selectors
	before := len(s.running)
	s.running = map[string]Container{}
	b.presence.containers = b.opts.Containers.Running()
	for _, c := range b.presence.containers {
		if c.Cgroup == "" {
			continue
		}
		s.running[c.Cgroup] = c
		if b.presence.places[c.Cgroup].container == "" {
			changed = b.place(c.Cgroup) || changed
		}
	}
	return changed || len(s.running) != before
}

// findCgroups looks up the cgroups of all entries and containers, those below them included: a record carries the innermost one.
// Where entries name a cgroup and one above it, the inner one wins. dirs are the directories where a new cgroup would count.
func (b *Book) findCgroups() (dirs []string) {
	p := &b.presence
	old := p.places
	p.places = map[string]place{}
	b.findSelectors()
	s := &p.selectors
	if len(s.paths)+len(s.units)+len(s.containers) == 0 && b.opts.Containers == nil || b.names.root == "" {
		return nil
	}
	dirs = b.walkCgroups()
	for dir, was := range old {
		if p.places[dir].cgroup != was.cgroup {
			b.gone[key{kind: byCgroup, id: was.cgroup}] = true
		}
	}
	return dirs
}

// place notes what a directory says; false if that is nothing new. Its parent was placed before.
func (b *Book) place(dir string) bool {
	p := &b.presence
	was, known := p.places[dir]
	id, err := inode(dir)
	if err != nil {
		id = was.cgroup // gone: the last one of that name
	}
	if dir == b.names.root || id == 0 || len(p.places) >= maxCgroups && !known {
		return false
	}
	at := p.places[filepath.Dir(dir)]
	at.cgroup = id
	p.selectors.say(&at, dir)
	p.places[dir] = at
	return at != was && (at.entry != nil || at.container != "" || at.pod != "")
}

// say adds what the directory's own name says to what those above it said. Runtimes without systemd call a cgroup by the
// container's id, whatever that is, so an entry may name it by the beginning of any name but a unit's.
func (s *selectors) say(at *place, dir string) {
	name := filepath.Base(dir)
	if id, pod := containers.FromPath(name); id != "" || pod != "" {
		if at.container = id; pod != "" {
			at.pod = pod
		}
		at.entry = first(s.entryOf(id), at.entry)
	}
	if c, ok := s.running[dir]; ok {
		at.container, at.entry = c.ID, first(s.entryOf(c.ID), at.entry)
		if c.Pod != "" {
			at.pod = c.Pod
		}
	}
	if e := s.entryOf(name); e != nil && !strings.Contains(name, ".") {
		at.container, at.entry = name, e
	}
	at.entry = first(s.paths[dir], s.units[name], at.entry)
}

// entryOf returns the entry with the longest prefix of a container's id.
func (s *selectors) entryOf(id string) (found *entry) {
	for _, e := range s.containers {
		if e.isContainer(id) && (found == nil || len(e.Container) > len(found.Container)) {
			found = e
		}
	}
	return found
}

// cgroupMade places a cgroup that has just been made, and what was made in it meanwhile. It does not wait for the next walk: a
// short-lived container may be gone by then.
func (b *Book) cgroupMade(dir string, watch func(string)) {
	watch(dir) // before it is listed
	b.mu.Lock()
	if b.place(dir) {
		b.rebind(b.clock().wall)
	}
	b.mu.Unlock()
	inside, err := os.ReadDir(dir)
	if err != nil {
		return // gone already
	}
	for _, d := range inside {
		if d.IsDir() {
			b.cgroupMade(filepath.Join(dir, d.Name()), watch)
		}
	}
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
	if mounts.CgroupRoot() == "" {
		return errors.New("no cgroup v2 hierarchy is mounted: sockets are named by network namespace and address only")
	}
	return nil
}

// CgroupID returns the id of a cgroup (v2) by its path, written as in the identity file; "" is the one this process is in. The
// root is refused: it is no part of a host, but all of it.
func CgroupID(path string) (uint64, error) {
	root := mounts.CgroupRoot()
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

// OwnCgroups returns the directories of the cgroup (v2) that this process is in and of all above it, the innermost first; none where no hierarchy is mounted.
// In a container that sees only its own part of the hierarchy the path is "/", and the root is its own.
func OwnCgroups() []string {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	return cgroupsUp(mounts.CgroupRoot(), unifiedPath(string(data)))
}

func cgroupsUp(root, path string) (dirs []string) {
	if root == "" || path == "" {
		return nil
	}
	for path = filepath.Clean("/" + path); ; path = filepath.Dir(path) {
		dirs = append(dirs, filepath.Join(root, path))
		if path == "/" {
			return dirs
		}
	}
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

// walkCgroups visits the whole hierarchy once, parents before their children.
func (b *Book) walkCgroups() (dirs []string) {
	err := filepath.WalkDir(b.names.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // gone meanwhile, or a control file
		}
		if len(dirs) >= maxCgroups {
			return errEnough
		}
		b.place(path)
		dirs = append(dirs, path)
		return nil
	})
	if err != nil {
		b.log.Warn("not all cgroups were looked at: sockets in the rest are not named by cgroup", "error", err, "most", maxCgroups)
	}
	return dirs
}
