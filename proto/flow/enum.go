package flow

// The numbers of all enums are those of flow.proto and of ClickHouse's Enum8; the names are those of docs/record.md.

// Values of the column kind.
const (
	KindUnknown uint32 = iota
	KindActive
	KindClosed
	KindFailed
	KindRollup
)

// Values of the column role.
const (
	RoleUnknown uint32 = iota
	RoleClient
	RoleServer
)

// Values of the column role_source.
const (
	RoleObserved uint32 = iota
	RoleGuessed
)

// Values of the column close_reason.
const (
	CloseUnknown uint32 = iota
	CloseFinLocal
	CloseFinRemote
	CloseRstLocal
	CloseRstRemote
	CloseTimeout
	CloseRefused
	CloseUnreachable
	CloseNoPort
	ClosePolicy
	CloseKeepalive
	CloseAborted
)

// Values of the columns local_evidence and remote_evidence.
const (
	EvidenceNone uint32 = iota
	EvidenceSocket
	EvidenceCgroup
	EvidenceNetns
	EvidencePort
	EvidenceAddress
	EvidenceCertificate
	EvidenceUnit
	EvidenceProgram
	EvidenceClaim
	EvidenceMirror
	EvidenceAssignment
	EvidenceStatic
)

// Values of the columns local_why and remote_why.
const (
	WhyNamed uint32 = iota
	WhyNoEvidence
	WhyGap
	WhyConflict
	WhySharedAddress
	WhyExternal
	WhyPending
	WhyLate
	WhyClock
	WhyRefusedClaim
	WhyPeerRegionDown
)

// Values of the column peer_observed.
const (
	PeerUnknown uint32 = iota
	PeerNo
	PeerYes
)

// Enum is the list of an enum's names; the index is the value.
type Enum []string

// The enums of DESIGN §4.
var (
	KindNames        = Enum{"unknown", "active", "closed", "failed", "rollup"}
	RoleNames        = Enum{"unknown", "client", "server"}
	RoleSourceNames  = Enum{"observed", "guessed"}
	CloseReasonNames = Enum{
		"unknown", "fin_local", "fin_remote", "rst_local", "rst_remote", "timeout", "refused", "unreachable", "no_port",
		"policy", "keepalive", "aborted",
	}
	// LastStateNames follow include/net/tcp_states.h of Linux.
	LastStateNames = Enum{
		"unknown", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close", "close_wait",
		"last_ack", "listen", "closing", "new_syn_recv",
	}
	EvidenceNames = Enum{
		"none", "socket", "cgroup", "netns", "port", "address", "certificate", "unit", "program", "claim", "mirror",
		"assignment", "static",
	}
	WhyNames = Enum{
		"named", "no_evidence", "gap", "conflict", "shared_address", "external", "pending", "late", "clock",
		"refused_claim", "peer_region_down",
	}
	PeerObservedNames = Enum{"unknown", "no", "yes"}
)

// Name returns the name of v, or "" if the enum has no such value.
func (e Enum) Name(v uint32) string {
	if int(v) >= len(e) {
		return ""
	}
	return e[v]
}
