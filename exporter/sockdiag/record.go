package sockdiag

import (
	"math"

	"tributary/exporter/event"
)

// connection is one that is followed.
type connection struct {
	cookie, opened uint64
	found          bool // it is older than Start
	server         bool
	established    bool
	fin            uint8 // who sent the first FIN, as event.Record has it
	reported       bool
	due            uint64 // of its next active record
	listed         uint64 // the round in which it was listed last
	last           diag
}

// note takes in what a list says of it.
func (c *connection) note(d *diag, round uint64) {
	c.last, c.listed = *d, round
	c.established = c.established || d.established()
	if c.fin != event.FinNone {
		return
	}
	switch d.state {
	case event.StateFinWait1, event.StateFinWait2, event.StateClosing:
		c.fin = event.FinLocal
	case event.StateCloseWait, event.StateLastAck:
		c.fin = event.FinRemote
	}
}

// record is the connection's record of this moment.
func (c *connection) record(netns uint32, kind event.Kind, now uint64) *event.Record {
	d, i := &c.last, &c.last.info
	r := &event.Record{
		Sock: c.cookie, SockCookie: c.cookie, OpenedNs: c.opened, StartNs: c.opened, EndNs: now,
		NetnsInum: netns, SockCgroupID: d.cgroup, CgroupID: d.cgroup, UID: d.uid,
		LocalAddr: d.local, RemoteAddr: d.remote, LocalPort: d.localPort, RemotePort: d.remotePort,
		TxBytes: i.Bytes_sent - min(i.Bytes_sent, i.Bytes_retrans), RxBytes: i.Bytes_received, RetransBytes: i.Bytes_retrans,
		TxSegs: i.Segs_out, RxSegs: i.Segs_in, RetransSegs: i.Total_retrans, ReordSeen: i.Reord_seen, DeliveredCE: i.Delivered_ce,
		RTO: uint32(i.Total_rto), SrttUs: i.Rtt, MinRttUs: i.Min_rtt, RttvarUs: i.Rttvar, SndCwnd: i.Snd_cwnd, MSS: i.Snd_mss,
		TickUs: 1, BusyJiffies: micros(i.Busy_time), RwndJiffies: micros(i.Rwnd_limited), SndbufJiffies: micros(i.Sndbuf_limited),
		Flags: event.FlagRoleGuessed, Kind: uint8(kind), Role: uint8(event.RoleClient), LastState: uint8(d.state), FirstFin: c.fin,
	}
	if c.server {
		r.Role = uint8(event.RoleServer)
	}
	if kind != event.KindActive {
		r.LastState = uint8(event.StateUnknown) // that of the last list need not be the one it ended in
	}
	if c.found {
		r.Flags |= event.FlagFound
	} else {
		r.Flags |= event.FlagStartObserved
	}
	if c.established {
		r.Flags |= event.FlagEstablished
	}
	if c.reported {
		r.Flags |= event.FlagReported
	}
	return r
}

// micros is a duration as the record has it, in jiffies of a microsecond.
func micros(us uint64) uint32 { return uint32(min(us, math.MaxUint32)) }
