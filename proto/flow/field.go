package flow

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// U32 names a column of 32-bit values: counters, enums, ports, flags, and indexes into a dictionary.
type U32 uint8

// The 32-bit columns, in the order of DESIGN §4. The columns from Version on are attribution: a collector writes them.
const (
	RecordSeq U32 = iota
	Network
	Comm
	Netns
	Kind
	Role
	RoleSource
	CloseReason
	LastState
	SampleRate
	Connections
	Failures
	LocalAddr
	RemoteAddr
	OrigRemoteAddr
	NatLocalAddr
	LocalPort
	RemotePort
	OrigRemotePort
	NatLocalPort
	TxSegs
	RxSegs
	RetransSegs
	RetransSyn
	RetransClosing
	RetransBytes
	LostSegs
	ReordSeen
	DeliveredCe
	RstSent
	RstReceived
	Rto
	SrttUs
	MinRttUs
	RttvarUs
	ConnectUs
	BusyUs
	RwndLimitedUs
	SndbufLimitedUs
	SndCwnd
	Mss
	StartObserved
	Accepted
	Replay
	Errno
	Pid
	UID
	LocalWorkload
	LocalInstance
	LocalZone
	LocalRegion
	LocalRelease
	LocalEvidence
	LocalWhy

	Version
	RemoteWorkload
	RemoteInstance
	RemoteZone
	RemoteRegion
	RemoteRelease
	RemoteEvidence
	RemoteWhy
	PeerObserved
	RemoteLastWorkload
	RemoteLastInstance

	NumU32
)

// U64 names a column of 64-bit values. Times are ns since 1970, also where the wire carries differences.
type U64 uint8

// The 64-bit columns. RemoteLastSeenNs is attribution.
const (
	FlowID U64 = iota
	SockCookie
	CgroupID
	StartTimeNs
	IntervalStartNs
	EndTimeNs
	TxBytes
	RxBytes
	TxBytesBefore
	RxBytesBefore

	RemoteLastSeenNs

	NumU64
)

// Type says how a column's values are to be read.
type Type uint8

// The types of columns.
const (
	TypeUint   Type = iota // a number
	TypeString             // an index into Strings (payload columns) or AttrStrings (attribution columns)
	TypeAddr               // an index into Addrs
	TypeEnum               // a value of Spec.Enum
	TypeBool               // 0 or 1
	TypeTime               // ns since 1970
)

// Spec describes a column. Name is the same in proto, Kafka JSON, ClickHouse and docs.
type Spec struct {
	Name        string
	Number      protowire.Number // field number in Columns, or in Attribution if Attribution is set
	Type        Type
	Max         uint64 // the greatest valid value; for strings and addresses the dictionary's length decides
	Enum        Enum   // the names of a TypeEnum column
	Missing     uint32 // a row's value where the whole column is absent
	Attribution bool
}

func num(name string, n protowire.Number, most uint64) Spec {
	return Spec{Name: name, Number: n, Max: most}
}

func str(name string, n protowire.Number) Spec {
	return Spec{Name: name, Number: n, Type: TypeString, Max: math.MaxUint32}
}

func addr(name string, n protowire.Number) Spec {
	return Spec{Name: name, Number: n, Type: TypeAddr, Max: math.MaxUint32}
}

func enum(name string, n protowire.Number, e Enum) Spec {
	return Spec{Name: name, Number: n, Type: TypeEnum, Max: uint64(len(e) - 1), Enum: e}
}

func flag(name string, n protowire.Number) Spec {
	return Spec{Name: name, Number: n, Type: TypeBool, Max: 1}
}

func stamp(name string, n protowire.Number) Spec {
	return Spec{Name: name, Number: n, Type: TypeTime, Max: math.MaxInt64}
}

func one(s Spec) Spec {
	s.Missing = 1
	return s
}

func attr(s Spec) Spec {
	s.Attribution = true
	return s
}

const (
	max16 = math.MaxUint16
	max32 = math.MaxUint32
	max64 = math.MaxUint64
)

var u32Specs = [NumU32]Spec{
	RecordSeq:       num("record_seq", 4, max32),
	Network:         str("network", 7),
	Comm:            str("comm", 8),
	Netns:           str("netns", 9),
	Kind:            enum("kind", 10, KindNames),
	Role:            enum("role", 11, RoleNames),
	RoleSource:      enum("role_source", 12, RoleSourceNames),
	CloseReason:     enum("close_reason", 13, CloseReasonNames),
	LastState:       enum("last_state", 14, LastStateNames),
	SampleRate:      one(num("sample_rate", 15, max32)),
	Connections:     one(num("connections", 16, max32)),
	Failures:        num("failures", 17, max32),
	LocalAddr:       addr("local_addr", 21),
	RemoteAddr:      addr("remote_addr", 22),
	OrigRemoteAddr:  addr("orig_remote_addr", 23),
	NatLocalAddr:    addr("nat_local_addr", 65),
	LocalPort:       num("local_port", 24, max16),
	RemotePort:      num("remote_port", 25, max16),
	OrigRemotePort:  num("orig_remote_port", 26, max16),
	NatLocalPort:    num("nat_local_port", 66, max16),
	TxSegs:          num("tx_segs", 31, max32),
	RxSegs:          num("rx_segs", 32, max32),
	RetransSegs:     num("retrans_segs", 33, max32),
	RetransSyn:      num("retrans_syn", 34, max32),
	RetransClosing:  num("retrans_closing", 35, max32),
	RetransBytes:    num("retrans_bytes", 36, max32),
	LostSegs:        num("lost_segs", 37, max32),
	ReordSeen:       num("reord_seen", 38, max32),
	DeliveredCe:     num("delivered_ce", 39, max32),
	RstSent:         num("rst_sent", 40, max32),
	RstReceived:     num("rst_received", 41, max32),
	Rto:             num("rto", 42, max32),
	SrttUs:          num("srtt_us", 43, max32),
	MinRttUs:        num("min_rtt_us", 44, max32),
	RttvarUs:        num("rttvar_us", 45, max32),
	ConnectUs:       num("connect_us", 46, max32),
	BusyUs:          num("busy_us", 47, max32),
	RwndLimitedUs:   num("rwnd_limited_us", 48, max32),
	SndbufLimitedUs: num("sndbuf_limited_us", 49, max32),
	SndCwnd:         num("snd_cwnd", 50, max32),
	Mss:             num("mss", 51, max32),
	StartObserved:   flag("start_observed", 52),
	Accepted:        flag("accepted", 53),
	Replay:          flag("replay", 54),
	Errno:           num("errno", 55, max16),
	Pid:             num("pid", 56, max32),
	UID:             num("uid", 57, max32),
	LocalWorkload:   str("local_workload", 58),
	LocalInstance:   str("local_instance", 59),
	LocalZone:       str("local_zone", 60),
	LocalRegion:     str("local_region", 61),
	LocalRelease:    str("local_release", 62),
	LocalEvidence:   enum("local_evidence", 63, EvidenceNames),
	LocalWhy:        enum("local_why", 64, WhyNames),

	Version:            attr(num("version", 3, max32)),
	RemoteWorkload:     attr(str("remote_workload", 4)),
	RemoteInstance:     attr(str("remote_instance", 5)),
	RemoteZone:         attr(str("remote_zone", 6)),
	RemoteRegion:       attr(str("remote_region", 7)),
	RemoteRelease:      attr(str("remote_release", 8)),
	RemoteEvidence:     attr(enum("remote_evidence", 9, EvidenceNames)),
	RemoteWhy:          attr(enum("remote_why", 10, WhyNames)),
	PeerObserved:       attr(enum("peer_observed", 11, PeerObservedNames)),
	RemoteLastWorkload: attr(str("remote_last_workload", 12)),
	RemoteLastInstance: attr(str("remote_last_instance", 13)),
}

var u64Specs = [NumU64]Spec{
	FlowID:           num("flow_id", 3, max64),
	SockCookie:       num("sock_cookie", 5, max64),
	CgroupID:         num("cgroup_id", 6, max64),
	StartTimeNs:      stamp("start_time_ns", 18),
	IntervalStartNs:  stamp("interval_start_ns", 19),
	EndTimeNs:        stamp("end_time_ns", 20),
	TxBytes:          num("tx_bytes", 27, max64),
	RxBytes:          num("rx_bytes", 28, max64),
	TxBytesBefore:    num("tx_bytes_before", 29, max64),
	RxBytesBefore:    num("rx_bytes_before", 30, max64),
	RemoteLastSeenNs: attr(stamp("remote_last_seen_ns", 14)),
}

// Spec returns the column's description.
func (f U32) Spec() Spec { return u32Specs[f] }

// Spec returns the column's description.
func (f U64) Spec() Spec { return u64Specs[f] }
