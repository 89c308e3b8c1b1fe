package event

// Kind says what a record stands for.
type Kind uint8

// The kinds of records (DESIGN §4). The kernel makes the first three.
const (
	KindActive Kind = 1 // a reading of a connection that goes on
	KindClosed Kind = 2 // the end of a connection that was established
	KindFailed Kind = 3 // the end of one that never was
	KindRollup Kind = 4 // many connections in one row; made in user space only
)

// Role is the side of the connection that the socket plays.
type Role uint8

// The roles.
const (
	RoleUnknown Role = 0
	RoleClient  Role = 1
	RoleServer  Role = 2
)

// RoleSource says how the role is known.
type RoleSource uint8

// The sources of a role.
const (
	RoleObserved RoleSource = 0 // from the handshake's state transitions
	RoleGuessed  RoleSource = 1
)

// CloseReason says why a connection ended.
type CloseReason uint8

// The close reasons, in the order of DESIGN §4.
const (
	CloseUnknown     CloseReason = 0
	CloseFinLocal    CloseReason = 1 // our side sent the first FIN
	CloseFinRemote   CloseReason = 2 // the peer sent the first FIN
	CloseRstLocal    CloseReason = 3 // our side reset it
	CloseRstRemote   CloseReason = 4 // the peer reset it
	CloseTimeout     CloseReason = 5 // retransmissions went unanswered
	CloseRefused     CloseReason = 6 // a connect was answered by a reset or "port unreachable"
	CloseUnreachable CloseReason = 7 // ICMP or ARP said that there is no way
	CloseNoPort      CloseReason = 8 // no free local port
	ClosePolicy      CloseReason = 9 // a local policy forbade it
	CloseKeepalive   CloseReason = 10
	CloseAborted     CloseReason = 11 // given up before it was established, or destroyed by an administrator
)

// TCPState is a TCP state with the kernel's number; 0 is unknown.
type TCPState uint8

// The TCP states (include/net/tcp_states.h).
const (
	StateUnknown     TCPState = 0
	StateEstablished TCPState = 1
	StateSynSent     TCPState = 2
	StateSynRecv     TCPState = 3
	StateFinWait1    TCPState = 4
	StateFinWait2    TCPState = 5
	StateTimeWait    TCPState = 6
	StateClose       TCPState = 7
	StateCloseWait   TCPState = 8
	StateLastAck     TCPState = 9
	StateListen      TCPState = 10
	StateClosing     TCPState = 11
	StateNewSynRecv  TCPState = 12
)

// Event is one record of one end of one TCP connection: what DESIGN §4 takes from
// the kernel. It holds no pointers. Times are nanoseconds of CLOCK_BOOTTIME.
//
// After Decode the counters are running totals of the connection; after
// Tracker.Apply they are what was added since the connection's previous record,
// and FlowID, RecordSeq and IntervalStart are set.
type Event struct {
	Kind        Kind
	Role        Role
	RoleSource  RoleSource
	CloseReason CloseReason // CloseUnknown in active records
	LastState   TCPState    // the state now (active), or before CLOSE
	// StartObserved: the first transition was seen. Without it the role is guessed or
	// unknown and what came before capture stands in TxBytesBefore and RxBytesBefore only.
	StartObserved bool
	// Found: older than capture and found by the inventory at start; counters go on from
	// there. An end with neither Found nor StartObserved was never followed.
	Found    bool
	Accepted bool // a server's connection that the program has taken from its queue
	// Reported: the kernel may have handed out an active record of this connection
	// before this one. Only Tracker needs it.
	Reported bool

	FlowID    uint64 // counts up from 1 in a run of the exporter; one number a connection
	RecordSeq uint32 // 0 for the first record of a connection
	// SampleRate is how many connections the record stands for where it was sampled; 0 is 1. exporter/filter knows it.
	SampleRate uint32

	Sock   uint64 // the kernel's address of the socket; with Opened the key of a connection
	Opened uint64 // when the kernel program first saw it; 0 if it never did

	Start         uint64 // client: its first SYN; server: ESTABLISHED less the SYN-ACK's round trip
	IntervalStart uint64 // the end of the connection's previous record, else Start
	End           uint64 // the moment the counters were read

	LocalAddr  [16]byte // IPv4 is mapped (::ffff:a.b.c.d)
	RemoteAddr [16]byte
	LocalPort  uint16
	RemotePort uint16
	// OrigRemoteAddr and OrigRemotePort are what the program asked for where the connection goes elsewhere; 0 where it does not.
	OrigRemoteAddr [16]byte
	OrigRemotePort uint16
	Errno          uint16 // the socket's error at its end, e.g. 111 ECONNREFUSED; 0 is none

	SockCookie  uint64
	NetnsCookie uint64 // unique for this boot
	NetnsInum   uint32 // inode number of the network namespace, as in /proc/PID/ns/net; can be used again
	// CgroupID is the cgroup v2 id (the directory's inode number) of the process that
	// owns the connection: who opened it, or for a server who closed it, else who
	// called listen. 0 or 1 (the root) are no evidence.
	CgroupID uint64
	// SockCgroupID is the cgroup the socket was made in. A server's inherits it from
	// whoever made the listener.
	SockCgroupID uint64
	PID          uint32 // process id (tgid) in the initial namespace, of the process of CgroupID; 0 unknown
	UID          uint32 // of the same process; meaningful only if PID is not 0
	Comm         [16]byte

	TxBytes       uint64 // payload handed to the network once: no retransmissions, SYN or FIN
	RxBytes       uint64 // payload received in order, without the FIN
	TxBytesBefore uint64 // found where the start was not observed, in the first record only; never to be summed
	RxBytesBefore uint64
	RetransBytes  uint64

	TxSegs         uint32
	RxSegs         uint32
	RetransSegs    uint32 // all retransmitted segments, those of the next two included
	RetransSyn     uint32 // before ESTABLISHED: SYN (client) or SYN-ACK (server)
	RetransClosing uint32 // after the first FIN of either side
	LostSegs       uint32
	ReordSeen      uint32
	DeliveredCE    uint32
	RstSent        uint32
	RstReceived    uint32
	RTO            uint32 // retransmission timeouts; 0 on kernels that do not count them

	BusyUs          uint64 // with data to send or unacknowledged, the next two included; precision is a jiffy
	RwndLimitedUs   uint64 // of this, held up by the peer's receive window
	SndbufLimitedUs uint64 // of this, held up by the own send buffer

	// Gauges: the latest reading, never deltas.
	SrttUs    uint32 // smoothed RTT, taken at the first FIN where there was one
	MinRttUs  uint32
	RttvarUs  uint32
	ConnectUs uint32 // SYN_SENT to ESTABLISHED; 0 of a server, and where the start was not observed
	SndCwnd   uint32
	MSS       uint32
}

// CommString returns the program's name as printable ASCII: it ends at the first
// zero byte, and bytes that are not printable become '?', because a process may
// call itself anything.
func (e *Event) CommString() string {
	var buf [len(e.Comm)]byte
	n := 0
	for _, c := range e.Comm {
		if c == 0 {
			break
		}
		if c < 0x20 || c > 0x7e {
			c = '?'
		}
		buf[n] = c
		n++
	}
	return string(buf[:n])
}
