package identity

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sys/unix"

	"tributary/exporter/mounts"
	"tributary/proto/flow"
)

const (
	hostCacheSize = 4096
	// kernfsHandle is the kernel's FILEID_KERNFS: a cgroup's file handle is its 64-bit id.
	kernfsHandle = 0xfe
)

// hostNames names sockets of a plain host, <hostname>/<unit or program>. It resolves a cgroup once and remembers it: the
// process may be gone when the next record of its unit comes.
type hostNames struct {
	host     string
	root     string // mount point of the cgroup v2 hierarchy, "" none
	units    *lru.Cache[uint64, Owner]
	programs *lru.Cache[string, Owner]
}

func newHostNames(host string) (*hostNames, error) {
	h := &hostNames{host: host, root: mounts.CgroupRoot()}
	var err error
	if h.units, err = lru.New[uint64, Owner](hostCacheSize); err != nil {
		return nil, err
	}
	h.programs, err = lru.New[string, Owner](hostCacheSize)
	return h, err
}

// find returns the zero Owner if neither unit nor program is known.
func (h *hostNames) find(s *Socket) Owner {
	if s.CgroupID > 1 {
		owner, ok := h.units.Get(s.CgroupID)
		if !ok {
			if unit, known := h.unit(s); known {
				owner = h.owner(unit, flow.EvidenceUnit)
				h.units.Add(s.CgroupID, owner)
			}
		}
		if owner.Workload != "" {
			return owner
		}
	}
	if s.Comm == "" {
		return Owner{}
	}
	owner, ok := h.programs.Get(s.Comm)
	if !ok {
		owner = h.owner(s.Comm, flow.EvidenceProgram)
		h.programs.Add(s.Comm, owner)
	}
	return owner
}

// owner makes a name; "" makes the zero Owner, which is worth remembering too.
func (h *hostNames) owner(name string, evidence uint32) Owner {
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '/' {
			return '_'
		}
		return r
	}, name)
	if name == "" || len(name)+len(h.host) >= maxName {
		return Owner{}
	}
	return Owner{Workload: h.host + "/" + name, Instance: h.host, Evidence: evidence}
}

// unit returns the systemd unit of the socket's cgroup, "" if it is in none. known is false if the cgroup could not be found.
func (h *hostNames) unit(s *Socket) (unit string, known bool) {
	if path, ok := cgroupPath(h.root, s.CgroupID); ok {
		return unitOf(path), true
	}
	if s.Pid == 0 {
		return "", false
	}
	data, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(s.Pid), 10) + "/cgroup")
	if err != nil {
		return "", false
	}
	path := unifiedPath(string(data))
	// The number may be another process's by now, or the process has moved.
	if id, err := inode(filepath.Join(h.root, path)); path == "" || err != nil || id != s.CgroupID {
		return "", false
	}
	return unitOf(path), true
}

// unitOf returns the innermost service of a cgroup path without its suffix. Scopes are no evidence (a login session holds
// whatever its user starts), nor is the manager of a user's services.
func unitOf(path string) string {
	unit := ""
	for part := range strings.SplitSeq(path, "/") {
		if name, ok := strings.CutSuffix(part, ".service"); ok && !strings.HasPrefix(part, "user@") {
			unit = name
		} else if strings.HasSuffix(part, ".scope") {
			unit = ""
		}
	}
	return unit
}

// cgroupPath finds a cgroup's path below the root by its id, if it still exists.
func cgroupPath(root string, id uint64) (string, bool) {
	if root == "" {
		return "", false
	}
	mount, err := unix.Open(root, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_RDONLY, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(mount)
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(mount, handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", false
	}
	return strings.CutPrefix(path, strings.TrimSuffix(root, "/"))
}
