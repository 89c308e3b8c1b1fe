package identity

import (
	"bytes"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/netns"
)

const (
	maxNamespaces = 16_384
	maxProcesses  = 65_536
	// ownNetns is not /proc/self/ns/net: that is the main thread's, and Go cannot end a main thread that entered another
	// namespace. No goroutine runs on a thread that is not in ours, unless it has locked it.
	ownNetns = "/proc/thread-self/ns/net"
	ownNsid  = -1 // stands for the exporter's own namespace, which has no id in itself
)

// presence is what is known of namespaces, cgroups and addresses.
type presence struct {
	socket     *notifications // nil until Run
	own        uint32         // inode number of the exporter's own namespace
	all        bool           // the socket hears other namespaces too
	spaces     map[uint32]*space
	byNsid     map[int32]*space
	paths      map[string]uint32 // netns paths of entries: what they lead to
	places     map[string]place  // cgroup directories that say something
	selectors  selectors
	containers []Container       // that run
	procs      map[uint32]string // namespaces of processes at the last scan: a path that leads there
	scanned    time.Time         // when processes were scanned
	pause      time.Duration     // until the next scan
	dirty      bool              // addresses changed since the last refresh
	relist     bool              // notifications may have passed unrecognised
	bridges    bool              // addresses of the own namespace changed
}

// space is one network namespace and its addresses.
type space struct {
	inum   uint32
	nsid   int32
	addrs  map[ifaddr]struct{}
	events int // notifications so far
}

// ifaddr is an address on an interface.
type ifaddr struct {
	index uint32
	addr  [16]byte
}

func newPresence() presence {
	p := presence{
		spaces: map[uint32]*space{}, byNsid: map[int32]*space{}, paths: map[string]uint32{}, places: map[string]place{},
		procs: map[uint32]string{}, dirty: true,
	}
	if inum, ok := netnsOf(ownNetns); ok {
		p.own = inum
	}
	return p
}

// mount is one line of /proc/self/mountinfo.
type mount struct{ root, point, fsType string }

// mounts yields this process's mounts.
func mounts() iter.Seq[mount] {
	return func(yield func(mount) bool) {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return
		}
		for line := range bytes.Lines(data) {
			before, after, ok := strings.Cut(string(line), " - ")
			fields, types := strings.Fields(before), strings.Fields(after)
			if !ok || len(fields) < 5 || len(types) < 1 {
				continue
			}
			if !yield(mount{fields[3], unescape(fields[4]), types[0]}) {
				return
			}
		}
	}
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// inumOf reads "net:[4026531840]".
func inumOf(link string) (uint32, bool) {
	digits, ok := strings.CutPrefix(link, "net:[")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32)
	return uint32(n), err == nil
}

// netnsOf returns the inode number of the network namespace at a path, if that is one: while a name is being made it is
// a plain file for a moment.
func netnsOf(path string) (uint32, bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return 0, false
	}
	id, err := inode(path)
	return uint32(id), err == nil
}

// NamespacePath returns a file that stands for a network namespace: that of a process that was in it, a mounted one, or that of any
// process that is in it now; "" if there is none. Who opens it checks that it is the one meant.
func NamespacePath(netns, pid uint32) string {
	if pid != 0 {
		path := "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/ns/net"
		if inum, ok := netnsOf(path); ok && inum == netns {
			return path
		}
	}
	for m := range mounts() {
		if inum, ok := inumOf(m.root); ok && m.fsType == "nsfs" && inum == netns {
			return m.point
		}
	}
	path := ""
	eachProcess(func(at string, inum uint32) bool {
		if inum == netns {
			path = at
		}
		return path == ""
	})
	return path
}

// eachProcess calls f with the network namespace of every process until it answers false.
func eachProcess(f func(path string, inum uint32) bool) {
	dir, err := os.Open("/proc")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(maxProcesses)
	for _, name := range names {
		if name[0] < '1' || name[0] > '9' {
			continue
		}
		path := "/proc/" + name + "/ns/net"
		link, err := os.Readlink(path)
		if err != nil {
			continue
		}
		if inum, ok := inumOf(link); ok && !f(path, inum) {
			return
		}
	}
}

// findNamespaces looks for the network namespaces of this host: the mounted ones, which are the containers' and those of
// ip-netns, at each call; those of processes alone at intervals.
func (b *Book) findNamespaces() {
	p := &b.presence
	b.findPaths()
	if p.socket == nil {
		return
	}
	found := map[uint32]string{p.own: ownNetns}
	if p.all && b.claiming() {
		for m := range mounts() {
			if m.fsType != "nsfs" || len(found) >= maxNamespaces {
				continue
			}
			if inum, ok := inumOf(m.root); ok && found[inum] == "" {
				found[inum] = m.point
			}
		}
		b.scanProcesses(found)
		for inum, path := range p.procs {
			if found[inum] == "" && len(found) < maxNamespaces {
				found[inum] = path
			}
		}
	}
	for inum, s := range p.spaces {
		if found[inum] == "" {
			b.drop(s)
		}
	}
	for inum, path := range found {
		if p.spaces[inum] == nil {
			b.addSpace(inum, path)
		}
	}
}

// findPaths resolves the paths of entries.
func (b *Book) findPaths() {
	p := &b.presence
	paths := map[string]uint32{}
	for i := range b.owners {
		if path := b.owners[i].entry.Netns; path != "" {
			lookup := path
			if path == "/proc/self/ns/net" {
				lookup = ownNetns
			}
			if inum, ok := netnsOf(lookup); ok {
				paths[path] = inum
			}
		}
	}
	for path, inum := range p.paths {
		if paths[path] != inum {
			b.gone[key{kind: byNetns, id: uint64(inum)}] = true
		}
	}
	p.paths = paths
}

// scanProcesses looks at the namespace of every process, so rarely that it costs at most half a percent of a core. It is done at once
// where a namespace has lost its mount: only a process can still be in it.
func (b *Book) scanProcesses(mounted map[uint32]string) {
	p := &b.presence
	lost := false
	for inum := range p.spaces {
		lost = lost || mounted[inum] == "" && p.procs[inum] == ""
	}
	if !lost && time.Since(p.scanned) < p.pause {
		return
	}
	began := time.Now()
	clear(p.procs)
	eachProcess(func(path string, inum uint32) bool {
		if mounted[inum] == "" {
			p.procs[inum] = path
		}
		return true
	})
	p.scanned = time.Now()
	p.pause = max(5*time.Second, 200*p.scanned.Sub(began))
}

// claiming reports whether there is anything that addresses could be claimed for.
func (b *Book) claiming() bool {
	return len(b.owners) > 0 || b.opts.Workload != "" || len(b.presence.containers) > 0
}

// addSpace begins to listen to a namespace and lists its addresses.
func (b *Book) addSpace(inum uint32, path string) {
	p := &b.presence
	s := &space{inum: inum, nsid: ownNsid, addrs: map[ifaddr]struct{}{}}
	if inum != p.own {
		nsid, err := nsidOf(inum, path)
		if err != nil {
			b.log.Debug("network namespace cannot be watched", "path", path, "error", err)
			return
		}
		s.nsid = nsid
	}
	b.receive() // what is queued under this id may be an older namespace's
	if old := p.byNsid[s.nsid]; old != nil {
		b.drop(old)
	}
	p.spaces[inum], p.byNsid[s.nsid] = s, s
	if inum == p.own {
		b.findOwnNsid()
	}
	if err := b.list(s); err != nil {
		b.drop(s)
		b.log.Warn("the addresses of a network namespace cannot be listed", "path", path, "error", err)
	}
}

// drop forgets a namespace; its addresses are not present any more.
func (b *Book) drop(s *space) {
	p := &b.presence
	if p.spaces[s.inum] == s {
		delete(p.spaces, s.inum)
	}
	if p.byNsid[s.nsid] == s {
		delete(p.byNsid, s.nsid)
	}
	p.dirty = true
}

// findOwnNsid makes notifications known that name our own namespace by an id: somebody may have given it one in itself.
func (b *Book) findOwnNsid() {
	p := &b.presence
	own := p.spaces[p.own]
	f, err := os.Open(ownNetns)
	if own == nil || err != nil {
		return
	}
	defer f.Close()
	if id, err := netlink.GetNetNsIdByFd(int(f.Fd())); err == nil && id >= 0 && p.byNsid[int32(id)] != own {
		p.byNsid[int32(id)] = own
		own.events++ // a list that is being made may have missed something
		p.relist = true
	}
}

// nsidOf returns the id by which our own namespace knows another one, and gives it one if it has none (as ip-netns does).
func nsidOf(inum uint32, path string) (int32, error) {
	f, err := netns.Open(path, inum)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if id, err := netlink.GetNetNsIdByFd(int(f.Fd())); err == nil && id >= 0 {
		return int32(id), nil
	}
	if err := netlink.SetNetNsIdByFd(int(f.Fd()), -1); err != nil {
		if id, again := netlink.GetNetNsIdByFd(int(f.Fd())); again == nil && id >= 0 {
			return int32(id), nil // somebody else gave it one meanwhile
		}
		return 0, err
	}
	id, err := netlink.GetNetNsIdByFd(int(f.Fd()))
	if err == nil && id < 0 {
		err = unix.ENOENT
	}
	return int32(id), err
}
