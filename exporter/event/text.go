package event

import (
	"fmt"
	"net/netip"
)

var (
	kindNames   = [...]string{"unknown", "active", "closed", "failed", "rollup"}
	roleNames   = [...]string{"unknown", "client", "server"}
	reasonNames = [...]string{
		"unknown", "fin_local", "fin_remote", "rst_local", "rst_remote", "timeout", "refused",
		"unreachable", "no_port", "policy", "keepalive", "aborted",
	}
	stateNames = [...]string{
		"unknown", "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait",
		"close", "close_wait", "last_ack", "listen", "closing", "new_syn_recv",
	}
)

func name(names []string, i int) string {
	if i < len(names) {
		return names[i]
	}
	return names[0]
}

// String returns the name of DESIGN §4.
func (k Kind) String() string { return name(kindNames[:], int(k)) }

// String returns the name of DESIGN §4.
func (r Role) String() string { return name(roleNames[:], int(r)) }

// String returns the name of DESIGN §4.
func (c CloseReason) String() string { return name(reasonNames[:], int(c)) }

// String returns the name of DESIGN §4.
func (s TCPState) String() string { return name(stateNames[:], int(s)) }

// String describes the event in one line, for people.
func (e *Event) String() string {
	local := netip.AddrPortFrom(netip.AddrFrom16(e.LocalAddr).Unmap(), e.LocalPort)
	remote := netip.AddrPortFrom(netip.AddrFrom16(e.RemoteAddr).Unmap(), e.RemotePort)
	return fmt.Sprintf("flow %d.%d %s %s %s → %s (%s, errno %d, last %s) tx %d rx %d pid %d %q netns %d",
		e.FlowID, e.RecordSeq, e.Kind, e.Role, local, remote, e.CloseReason, e.Errno, e.LastState,
		e.TxBytes, e.RxBytes, e.PID, e.CommString(), e.NetnsInum)
}
