package event

import (
	"errors"
	"fmt"
	"unsafe"
)

// Record is the kernel's record byte for byte: struct flow_record of bpf/record.h,
// which explains every field. A test in exporter/probe compares the two by BTF.
type Record struct {
	Sock           uint64
	OpenedNs       uint64
	StartNs        uint64
	EndNs          uint64
	SockCookie     uint64
	NetnsCookie    uint64
	CgroupID       uint64
	SockCgroupID   uint64
	TxBytes        uint64
	RxBytes        uint64
	RetransBytes   uint64
	TxSegs         uint32
	RxSegs         uint32
	RetransSegs    uint32
	RetransSyn     uint32
	RetransClosing uint32
	LostSegs       uint32
	ReordSeen      uint32
	DeliveredCE    uint32
	RTO            uint32
	SrttUs         uint32
	MinRttUs       uint32
	RttvarUs       uint32
	ConnectUs      uint32
	SndCwnd        uint32
	MSS            uint32
	BusyJiffies    uint32
	RwndJiffies    uint32
	SndbufJiffies  uint32
	TickUs         uint32
	NetnsInum      uint32
	PID            uint32
	UID            uint32
	LocalAddr      [16]uint8
	RemoteAddr     [16]uint8
	Comm           [16]uint8
	LocalPort      uint16
	RemotePort     uint16
	SkErr          uint16
	SkErrSoft      uint16
	Flags          uint16
	Kind           uint8
	Role           uint8
	LastState      uint8
	FirstFin       uint8
	AskedPort      uint16
	AskedAddr      [16]uint8
}

// RecordSize is the size of a kernel record in bytes.
const RecordSize = int(unsafe.Sizeof(Record{}))

// The flags of a record (enum flow_flag).
const (
	FlagStartObserved = 1 << iota
	FlagEstablished
	FlagAccepted
	FlagReported
	FlagRstReceived
	FlagKeepalive
	FlagRstSent
	FlagFound
	FlagRoleGuessed
	flagsEnd
)

// Who sent the first FIN (enum flow_fin).
const (
	FinNone = iota
	FinLocal
	FinRemote
	finEnd
)

// maxTime bounds times: a CLOCK_BOOTTIME of 100 years is no time of a running kernel.
const maxTime = 100 * 365 * 24 * 3600 * uint64(1e9)

// maxTickUs bounds a jiffy: no kernel ticks less than 10 times a second.
const maxTickUs = 100_000

// maxErrno is the kernel's MAX_ERRNO.
const maxErrno = 4095

// Why Decode refuses a record; test with errors.Is.
var (
	ErrSize     = errors.New("wrong record size")
	ErrKind     = errors.New("impossible kind")
	ErrRole     = errors.New("impossible role")
	ErrState    = errors.New("impossible TCP state")
	ErrFlags    = errors.New("impossible flags")
	ErrTime     = errors.New("impossible times")
	ErrErrno    = errors.New("impossible error number")
	ErrAsked    = errors.New("only a client asks for an address")
	ErrIdentity = errors.New("impossible socket identity")
	ErrCounters = errors.New("impossible counters")
)

// Decode reads one kernel record (RecordSize bytes in the machine's byte order)
// into e, overwriting all of it. The counters in e are the connection's running
// totals; Tracker.Apply makes deltas of them. On error e is undefined, and the
// error is one of the Err values above, wrapped.
func Decode(b []byte, e *Event) error {
	if len(b) != RecordSize {
		return fmt.Errorf("%w: %d bytes, want %d", ErrSize, len(b), RecordSize)
	}
	var r Record
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), RecordSize), b)
	if err := r.check(); err != nil {
		return err
	}
	r.fill(e)
	return nil
}

// Encode writes r as the kernel would; for tests and replays.
func (r *Record) Encode() []byte {
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(r)), RecordSize)...)
}

func (r *Record) check() error {
	switch {
	case Role(r.Role) != RoleClient && (r.AskedPort != 0 || r.AskedAddr != [16]uint8{}):
		return ErrAsked
	case Kind(r.Kind) < KindActive || Kind(r.Kind) > KindFailed:
		return fmt.Errorf("%w: %d", ErrKind, r.Kind)
	case Role(r.Role) > RoleServer:
		return fmt.Errorf("%w: %d", ErrRole, r.Role)
	case r.SkErr > maxErrno || r.SkErrSoft > maxErrno:
		return fmt.Errorf("%w: %d, %d", ErrErrno, r.SkErr, r.SkErrSoft)
	case r.FirstFin >= finEnd:
		return fmt.Errorf("%w: first FIN %d", ErrFlags, r.FirstFin)
	case r.Sock == 0:
		return ErrIdentity
	}
	if err := r.checkState(); err != nil {
		return err
	}
	if err := r.checkFlags(); err != nil {
		return err
	}
	if err := r.checkCounters(); err != nil {
		return err
	}
	return r.checkTimes()
}

func (r *Record) checkState() error {
	switch s := TCPState(r.LastState); s {
	case StateClose: // an attempt that never left it, or an end that only the walk found and of which nothing tells (concluded_state in bpf/walk.h)
		if Kind(r.Kind) != KindFailed && (Kind(r.Kind) != KindClosed || r.Flags&FlagReported == 0) {
			return fmt.Errorf("%w: %d", ErrState, s)
		}
	case StateUnknown: // of ends only exporter/sockdiag does not see it; it guesses all roles
		if Kind(r.Kind) == KindActive || r.Flags&FlagRoleGuessed == 0 {
			return fmt.Errorf("%w: %d", ErrState, s)
		}
	case StateListen, StateTimeWait, StateNewSynRecv:
		return fmt.Errorf("%w: %d", ErrState, s)
	default:
		if s > StateNewSynRecv {
			return fmt.Errorf("%w: %d", ErrState, s)
		}
	}
	return nil
}

func (r *Record) checkFlags() error {
	observed := r.Flags&FlagStartObserved != 0
	found := r.Flags&FlagFound != 0
	established := r.Flags&FlagEstablished != 0
	switch {
	case r.Flags >= flagsEnd:
	case observed && found:
	case (observed || found) != (r.OpenedNs != 0):
	case Kind(r.Kind) == KindClosed && !established:
	case Kind(r.Kind) == KindFailed && established:
	case Kind(r.Kind) == KindActive && (r.OpenedNs == 0 || r.Flags&FlagReported == 0):
	case r.OpenedNs != 0 && Role(r.Role) == RoleUnknown:
	case r.Flags&FlagRoleGuessed != 0 && Role(r.Role) == RoleUnknown:
	default:
		return nil
	}
	return fmt.Errorf("%w: %#x with kind %d and role %d", ErrFlags, r.Flags, r.Kind, r.Role)
}

func (r *Record) checkCounters() error {
	if r.RetransSyn > r.RetransSegs || r.RetransClosing > r.RetransSegs {
		return fmt.Errorf("%w: %d retransmissions, of these %d and %d", ErrCounters, r.RetransSegs, r.RetransSyn, r.RetransClosing)
	}
	if r.TickUs > maxTickUs {
		return fmt.Errorf("%w: a jiffy of %d us", ErrCounters, r.TickUs)
	}
	return nil
}

func (r *Record) checkTimes() error {
	switch {
	case r.EndNs == 0 || r.EndNs > maxTime:
	case r.StartNs > r.EndNs:
	case r.OpenedNs > r.EndNs:
	default:
		return nil
	}
	return fmt.Errorf("%w: opened %d, start %d, end %d", ErrTime, r.OpenedNs, r.StartNs, r.EndNs)
}

func (r *Record) fill(e *Event) {
	*e = Event{
		Kind: Kind(r.Kind), Role: Role(r.Role), LastState: TCPState(r.LastState),
		StartObserved: r.Flags&FlagStartObserved != 0,
		Found:         r.Flags&FlagFound != 0,
		Accepted:      r.Flags&FlagAccepted != 0,
		Reported:      r.Flags&FlagReported != 0,
		Sock:          r.Sock, Opened: r.OpenedNs,
		Start: r.StartNs, IntervalStart: r.StartNs, End: r.EndNs,
		LocalAddr: r.LocalAddr, RemoteAddr: r.RemoteAddr,
		LocalPort: r.LocalPort, RemotePort: r.RemotePort, OrigRemoteAddr: r.AskedAddr, OrigRemotePort: r.AskedPort,
		SockCookie: r.SockCookie, NetnsCookie: r.NetnsCookie, NetnsInum: r.NetnsInum,
		CgroupID: r.CgroupID, SockCgroupID: r.SockCgroupID,
		PID: r.PID, UID: r.UID, Comm: r.Comm,
		TxBytes: r.TxBytes, RxBytes: r.RxBytes, RetransBytes: r.RetransBytes,
		TxSegs: r.TxSegs, RxSegs: r.RxSegs,
		RetransSegs: r.RetransSegs, RetransSyn: r.RetransSyn, RetransClosing: r.RetransClosing,
		LostSegs: r.LostSegs, ReordSeen: r.ReordSeen, DeliveredCE: r.DeliveredCE, RTO: r.RTO,
		SrttUs: r.SrttUs, MinRttUs: minRtt(r.MinRttUs), RttvarUs: r.RttvarUs,
		SndCwnd: r.SndCwnd, MSS: r.MSS,
		BusyUs: uint64(r.BusyJiffies) * uint64(r.TickUs), RwndLimitedUs: uint64(r.RwndJiffies) * uint64(r.TickUs),
		SndbufLimitedUs: uint64(r.SndbufJiffies) * uint64(r.TickUs),
	}
	if r.Flags&FlagRoleGuessed != 0 {
		e.RoleSource = RoleGuessed
	}
	if e.Role == RoleClient && e.StartObserved { // of a server it is the round trip of its SYN-ACK; of one that was found it begins too late
		e.ConnectUs = r.ConnectUs
	}
	if r.Flags&FlagRstReceived != 0 {
		e.RstReceived = 1
	}
	if e.Kind != KindActive {
		e.Errno = r.errno()
		e.CloseReason = r.closeReason()
		if r.rstSent(e.CloseReason) {
			e.RstSent = 1
		}
	}
	if !e.StartObserved && !e.Found {
		e.moveBefore()
	}
}

// moveBefore puts what cannot be told from the time before capture where it is never summed.
func (e *Event) moveBefore() {
	e.TxBytesBefore, e.TxBytes = e.TxBytes, 0
	e.RxBytesBefore, e.RxBytes = e.RxBytes, 0
	e.RetransBytes = 0
	e.TxSegs, e.RxSegs = 0, 0
	e.RetransSegs, e.RetransSyn, e.RetransClosing = 0, 0, 0
	e.LostSegs, e.ReordSeen, e.DeliveredCE, e.RTO = 0, 0, 0, 0
	e.BusyUs, e.RwndLimitedUs, e.SndbufLimitedUs = 0, 0, 0
}

// minRtt turns the kernel's "not measured" (all ones, tcp_init_sock) into 0.
func minRtt(us uint32) uint32 {
	if us == ^uint32(0) {
		return 0
	}
	return us
}
