package identity

// Socket is what is known of the local end of one connection.
type Socket struct {
	NetnsIno uint32   // inode number of its network namespace; 0 unknown
	CgroupID uint64   // cgroup v2 id of the process that owns it; 0 and 1 (the root) are no evidence
	Addr     [16]byte // local address, IPv4 mapped
	Port     uint16   // local port
	StartNs  int64    // when the connection began, wall clock: tables are looked up as they were then
	Comm     string   // program name, "" unknown
	Pid      uint32   // 0 unknown; the process may be gone
	Role     uint8    // event.Role; no evidence so far
}

// Owner is a name and how it is known. An unnamed end is the zero Owner, but for zone and region, which are the host's.
type Owner struct {
	Workload string // namespace/name
	Instance string
	Zone     string
	Region   string
	Release  string
	Evidence uint32 // flow.Evidence…
	Derived  bool   // nobody gave the instance; it is made of workload and host and never bridges a gap
}

// Key is what is claimed: an address in an address space, or a part of its ports.
type Key struct {
	Network  string
	Addr     [16]byte // IPv4 mapped
	PortFrom uint16   // 0 and 0: all ports
	PortTo   uint16   // inclusive
}

// Claim opens a range: the address is the owner's from FromNs (wall clock) on.
type Claim struct {
	Key
	Owner
	FromNs int64
}

// Reason says why a claim ended.
type Reason uint8

// The reasons.
const (
	Moved   Reason = iota // the address is another owner's now
	Gone                  // it vanished from the interface, or was out of sight for a while
	Stopped               // the identity file does not name it any more
	Shared                // it stands for connections of others too
	reasons
)

var reasonNames = [reasons]string{"moved", "gone", "stopped", "shared"}

// String returns the name of the reason.
func (r Reason) String() string { return reasonNames[r] }

// Release closes the range that Claim opened, at AtNs (wall clock): the last moment it is known to have held.
type Release struct {
	Claim
	AtNs   int64
	Reason Reason
}

// Change is one step: everything that one look at the kernel or the file changed. The releases come first.
type Change struct {
	Releases []Release
	Claims   []Claim
}
