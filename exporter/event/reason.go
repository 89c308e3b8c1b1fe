package event

// Errors of a socket that decide the close reason (include/uapi/asm-generic/errno.h).
const (
	errPerm         = 1
	errInval        = 22
	errAcces        = 13
	errPipe         = 32
	errNoNet        = 64
	errNoProtoOpt   = 92
	errNetDown      = 100
	errNetUnreach   = 101
	errConnAborted  = 103
	errConnReset    = 104
	errTimedOut     = 110
	errConnRefused  = 111
	errHostDown     = 112
	errHostUnreach  = 113
	errAddrNotAvail = 99
)

// errno is the error of the end. A program that gives up while its SYN is unanswered leaves none; what an ICMP message said by then
// is the reason that the kernel would have given after its last try (tcp_write_err).
func (r *Record) errno() uint16 {
	if r.SkErr == 0 && TCPState(r.LastState) == StateSynSent {
		return r.SkErrSoft
	}
	return r.SkErr
}

// closeReason classifies the end of a connection by its error, its last state and
// who sent the first FIN. The kernel sets the error before the transition to CLOSE
// (tcp_reset, tcp_write_err); the kernel program says where we reset it ourselves.
func (r *Record) closeReason() CloseReason {
	if r.Flags&FlagRstSent != 0 {
		return CloseRstLocal
	}
	if TCPState(r.LastState) == StateClose && (r.SkErr == errInval || r.SkErr == errAddrNotAvail) {
		return CloseUnreachable // a blackhole route (fib_props), or no source address for the way (ip6_dst_lookup)
	}
	if reason, ok := reasonOfError(r.errno()); ok {
		if reason == CloseTimeout && r.Flags&FlagKeepalive != 0 {
			return CloseKeepalive
		}
		if reason == CloseRefused && Kind(r.Kind) == KindClosed {
			// "port unreachable" for an established connection
			return CloseUnreachable
		}
		return reason
	}
	if r.Flags&FlagRstReceived != 0 {
		return CloseRstRemote
	}
	if r.errno() != 0 {
		return CloseUnknown
	}
	switch TCPState(r.LastState) {
	case StateSynSent:
		if r.LocalPort == 0 && r.TxSegs == 0 {
			return CloseNoPort
		}
		return CloseAborted
	case StateEstablished, StateCloseWait:
		return CloseRstLocal
	case StateSynRecv:
		if Kind(r.Kind) == KindFailed {
			return CloseAborted
		}
		return CloseRstLocal
	}
	return r.reasonOfFin()
}

// rstSent says whether the kernel sends a reset at this end: not when an administrator destroys what has no connection yet, or has both FINs
// (tcp_abort).
func (r *Record) rstSent(reason CloseReason) bool {
	switch reason {
	case CloseRstLocal, CloseKeepalive:
		return true
	case CloseAborted:
		switch TCPState(r.LastState) {
		case StateEstablished, StateSynRecv, StateFinWait1, StateFinWait2, StateCloseWait:
			return r.SkErr == errConnAborted
		}
	}
	return false
}

func reasonOfError(errno uint16) (CloseReason, bool) {
	switch errno {
	case errConnRefused:
		return CloseRefused, true
	case errConnReset, errPipe:
		return CloseRstRemote, true
	case errTimedOut:
		return CloseTimeout, true
	case errNoNet, errNoProtoOpt, errNetDown, errNetUnreach, errHostDown, errHostUnreach:
		return CloseUnreachable, true
	case errAddrNotAvail:
		return CloseNoPort, true
	case errPerm, errAcces:
		return ClosePolicy, true
	case errConnAborted:
		return CloseAborted, true
	}
	return CloseUnknown, false
}

// reasonOfFin: a closing state without an error. LAST_ACK is only reached after the
// peer's FIN, so it tells the side even where the first FIN was not observed.
func (r *Record) reasonOfFin() CloseReason {
	switch {
	case r.FirstFin == FinLocal:
		return CloseFinLocal
	case r.FirstFin == FinRemote || TCPState(r.LastState) == StateLastAck:
		return CloseFinRemote
	case TCPState(r.LastState) == StateFinWait2:
		return CloseFinLocal
	}
	return CloseUnknown
}
