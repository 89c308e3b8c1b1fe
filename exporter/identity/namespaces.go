package identity

import (
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/netns"
)

const (
	maxNamespaces = 16_384
	ownNsid       = -1 // stands for the exporter's own namespace, which has no id in itself
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
	if inum, ok := netns.Inum(netns.Own); ok {
		p.own = inum
	}
	return p
}

// findNamespaces looks for the network namespaces of this host: the mounted ones, which are the containers' and those of
// ip-netns, at each call; those of processes alone at intervals.
func (b *Book) findNamespaces() {
	p := &b.presence
	b.findPaths()
	if p.socket == nil {
		return
	}
	found := map[uint32]string{p.own: netns.Own}
	if p.all && b.claiming() {
		for inum, path := range netns.Mounted() {
			if found[inum] == "" && len(found) < maxNamespaces {
				found[inum] = path
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
				lookup = netns.Own
			}
			if inum, ok := netns.Inum(lookup); ok {
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
	for inum, path := range netns.OfProcesses() {
		if mounted[inum] == "" {
			p.procs[inum] = path
		}
	}
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
	f, err := os.Open(netns.Own)
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
