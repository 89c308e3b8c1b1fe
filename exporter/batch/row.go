package batch

import (
	"math"
	"net/netip"
	"strconv"

	"tributary/exporter/event"
	"tributary/proto/flow"
)

// addIdentity writes who: the flow, its process, the local name, both addresses.
func (b *Batcher) addIdentity(e *event.Event, local *Local) {
	w := b.builder
	w.Set64(flow.FlowID, e.FlowID)
	w.Set32(flow.RecordSeq, e.RecordSeq)
	if e.SampleRate > 1 {
		w.Set32(flow.SampleRate, e.SampleRate)
	}
	w.Set64(flow.SockCookie, e.SockCookie)
	w.Set64(flow.CgroupID, e.CgroupID)
	w.Set32(flow.Pid, e.PID)
	w.Set32(flow.UID, e.UID)
	w.SetText(flow.Comm, local.Comm)
	if e.NetnsInum != 0 {
		w.SetText(flow.Netns, b.netnsText(e.NetnsInum))
	}

	w.SetAddr(flow.LocalAddr, e.LocalAddr)
	w.Set32(flow.LocalPort, uint32(e.LocalPort))
	addRemote(w, e, local.Peer)
	if local.Nat.IsValid() {
		w.SetAddr(flow.NatLocalAddr, local.Nat.Addr().As16())
		w.Set32(flow.NatLocalPort, uint32(local.Nat.Port()))
	}

	w.SetText(flow.Network, local.Network)
	w.Set32(flow.LocalEvidence, local.Evidence)
	w.Set32(flow.LocalWhy, local.Why)
	if local.Workload == "" && local.Why == flow.WhyNamed {
		w.Set32(flow.LocalWhy, flow.WhyNoEvidence)
	}
	w.SetText(flow.LocalWorkload, local.Workload)
	w.SetText(flow.LocalInstance, local.Instance)
	w.SetText(flow.LocalZone, local.Zone)
	w.SetText(flow.LocalRegion, local.Region)
	w.SetText(flow.LocalRelease, local.Release)
}

// addRemote writes where the connection goes, and what was asked for: by the program, or by its socket where the way leads elsewhere.
func addRemote(w *flow.Builder, e *event.Event, peer netip.AddrPort) {
	remote, port, orig, origPort := e.RemoteAddr, e.RemotePort, e.OrigRemoteAddr, e.OrigRemotePort
	if peer.IsValid() {
		if orig == [16]byte{} {
			orig, origPort = remote, port
		}
		remote, port = peer.Addr().As16(), peer.Port()
	}
	w.SetAddr(flow.RemoteAddr, remote)
	w.Set32(flow.RemotePort, uint32(port))
	w.SetAddr(flow.OrigRemoteAddr, orig)
	w.Set32(flow.OrigRemotePort, uint32(origPort))
}

// maxNetns bounds the kept texts. A host has fewer network namespaces alive at a time; beyond it they are made again.
const maxNetns = 4096

// netnsText keeps the text of each inode number, so that rows that repeat it allocate nothing.
func (b *Batcher) netnsText(inum uint32) string {
	s, ok := b.netns[inum]
	if !ok {
		if len(b.netns) >= maxNetns {
			clear(b.netns)
		}
		s = strconv.FormatUint(uint64(inum), 10)
		b.netns[inum] = s
	}
	return s
}

// addMoments writes what happened and when. The numbers of event's enums are those of flow's.
func addMoments(w *flow.Builder, e *event.Event, at Times) {
	w.Set64(flow.StartTimeNs, uint64(at.Start))
	w.Set64(flow.IntervalStartNs, uint64(at.IntervalStart))
	w.Set64(flow.EndTimeNs, uint64(at.End))
	w.Set32(flow.Kind, uint32(e.Kind))
	w.Set32(flow.Role, uint32(e.Role))
	w.Set32(flow.RoleSource, uint32(e.RoleSource))
	w.Set32(flow.CloseReason, uint32(e.CloseReason))
	w.Set32(flow.LastState, uint32(e.LastState))
	w.Set32(flow.Errno, uint32(e.Errno))
	w.Set32(flow.StartObserved, bit(e.StartObserved))
	w.Set32(flow.Accepted, bit(e.Accepted))
	w.Set32(flow.Failures, bit(e.Kind == event.KindFailed))
}

func addCounters(w *flow.Builder, e *event.Event) {
	w.Set64(flow.TxBytes, e.TxBytes)
	w.Set64(flow.RxBytes, e.RxBytes)
	w.Set64(flow.TxBytesBefore, e.TxBytesBefore)
	w.Set64(flow.RxBytesBefore, e.RxBytesBefore)
	w.Set32(flow.RetransBytes, capped(e.RetransBytes))
	w.Set32(flow.TxSegs, e.TxSegs)
	w.Set32(flow.RxSegs, e.RxSegs)
	w.Set32(flow.RetransSegs, e.RetransSegs)
	w.Set32(flow.RetransSyn, e.RetransSyn)
	w.Set32(flow.RetransClosing, e.RetransClosing)
	w.Set32(flow.LostSegs, e.LostSegs)
	w.Set32(flow.ReordSeen, e.ReordSeen)
	w.Set32(flow.DeliveredCe, e.DeliveredCE)
	w.Set32(flow.RstSent, e.RstSent)
	w.Set32(flow.RstReceived, e.RstReceived)
	w.Set32(flow.Rto, e.RTO)
	w.Set32(flow.SrttUs, e.SrttUs)
	w.Set32(flow.MinRttUs, e.MinRttUs)
	w.Set32(flow.RttvarUs, e.RttvarUs)
	w.Set32(flow.ConnectUs, e.ConnectUs)
	w.Set32(flow.BusyUs, capped(e.BusyUs))
	w.Set32(flow.RwndLimitedUs, capped(e.RwndLimitedUs))
	w.Set32(flow.SndbufLimitedUs, capped(e.SndbufLimitedUs))
	w.Set32(flow.SndCwnd, e.SndCwnd)
	w.Set32(flow.Mss, e.MSS)
}

// capped fits a wide counter into its column; one interval's time in microseconds overflows after 71 minutes.
func capped(v uint64) uint32 { return uint32(min(v, math.MaxUint32)) }

func bit(v bool) uint32 {
	if v {
		return 1
	}
	return 0
}
