package schema

import "tributary/proto/flow"

// The table of fields, in the order of DESIGN §4. tcp_info and tcp_sock are the kernel's structures of those names
// (include/uapi/linux/tcp.h, include/linux/tcp.h).

func identityFields() []Field {
	return []Field{
		header(ExporterID, "exporter_id", typeText, codecPlain, "exporter", "one run of one exporter; with flow_id and record_seq the row's key"),
		header(Host, "host", typeText, codecPlain, "exporter", "name of the host the exporter ran on"),
		header(BootID, "boot_id", typeText, codecPlain, "/proc/sys/kernel/random/boot_id", "one boot of that host"),
		column(flow.Network, "exporter/identity", "address space of both addresses, of translated ones as the remote end knows them: equal addresses in different networks are different machines"),
		column(flow.Comm, "kernel, task comm", "name of the process (at most 15 bytes) that opened, accepted or closed the socket"),
		column(flow.Netns, "exporter/identity", "network namespace of the socket: its inode number, as in /proc/PID/ns/net"),
		wide(flow.FlowID, "exporter", "one end of one connection; counts up within exporter_id"),
		column(flow.RecordSeq, "exporter", "number of the record within its flow, from 0"),
		header(BatchSeq, "batch_seq", "UInt64", codecDelta, "exporter", "the batch that carried the row; counts up within exporter_id, from 1"),
		wide(flow.SockCookie, "kernel, socket cookie", "the kernel's number of the socket, unique for a boot"),
		coded(wide(flow.CgroupID, "kernel, cgroup id", "cgroup (v2) of the socket's owner"), codecPlain),
		column(flow.Version, "collector", "rank of the evidence of both ends in the high bits, then a counter; of rows with the same key the highest version is the answer"),
	}
}

func kindFields() []Field {
	return []Field{
		column(flow.Kind, "exporter", "active: the connection lives on, counters since the record before; closed: its end; failed: never established; rollup: stands for several connections"),
		column(flow.Role, "kernel, SYN_SENT or SYN_RECV", "whether the local end opened the connection (client) or accepted it (server)"),
		column(flow.RoleSource, "exporter", "observed: the opening was seen; guessed: the socket was older than the exporter"),
		column(flow.CloseReason, "kernel, sk_err and last state", "what ended the connection or the attempt"),
		column(flow.LastState, "kernel, TCP state", "TCP state before CLOSE; of an active record, the present state"),
		column(flow.SampleRate, "exporter", "1: every connection is recorded; N: the row stands for N connections like it"),
		column(flow.Connections, "exporter", "1; in rollups the number of connections"),
		column(flow.Failures, "exporter", "1 in failed records, else 0; in rollups the number of failed connections"),
	}
}

func timeFields() []Field {
	return []Field{
		wide(flow.StartTimeNs, "exporter/clock", "start of the connection: of a client its first SYN, of a server ESTABLISHED minus the round trip of the SYN-ACK"),
		coded(wide(flow.IntervalStartNs, "exporter/clock", "start of the interval the row's counters cover"), codecSmall),
		coded(wide(flow.EndTimeNs, "exporter/clock", "end of the interval; in closed and failed records the end of the connection; decides partition and minute"), codecSmall),
		header(ReceivedTime, "received_time_ns", typeTime, codecPlain, "collector", "when the collector took the batch in, by its clock"),
	}
}

func addressFields() []Field {
	return []Field{
		column(flow.LocalAddr, "kernel, socket", "the local end's address; IPv4 mapped (::ffff:a.b.c.d)"),
		column(flow.RemoteAddr, "kernel, socket", "the remote end's address; IPv4 mapped"),
		column(flow.OrigRemoteAddr, "arguments of connect, connection tracking", "the address the program asked for, where NAT or a virtual address changed it"),
		column(flow.NatLocalAddr, "connection tracking", "the local end's address as the remote end knows it, where NAT on this host changed it and the remote end is on another host"),
		column(flow.LocalPort, "kernel, socket", "the local end's port"),
		coded(column(flow.RemotePort, "kernel, socket", "the remote end's port"), codecPlain),
		column(flow.OrigRemotePort, "arguments of connect, connection tracking", "the port the program asked for, where NAT or a virtual address changed it"),
		column(flow.NatLocalPort, "connection tracking", "the local end's port as the remote end knows it, where nat_local_addr says so; else 0"),
	}
}

func trafficFields() []Field {
	return []Field{
		wide(flow.TxBytes, "tcp_sock bytes_acked, snd_nxt, snd_una", "payload bytes sent in the interval, without retransmissions, SYN and FIN"),
		wide(flow.RxBytes, "tcp_sock bytes_received", "payload bytes received in the interval, without SYN and FIN"),
		wide(flow.TxBytesBefore, "tcp_sock, at the inventory", "payload bytes sent before the exporter found the connection; in its first record only; never part of sums"),
		wide(flow.RxBytesBefore, "tcp_sock, at the inventory", "payload bytes received before the exporter found the connection; in its first record only; never part of sums"),
		column(flow.TxSegs, "tcp_sock segs_out", "segments sent in the interval, all kinds"),
		column(flow.RxSegs, "tcp_sock segs_in", "segments received in the interval, all kinds"),
		column(flow.RetransSegs, "tcp_sock total_retrans", "segments sent again in the interval"),
		column(flow.RetransSyn, "tcp_sock total_retrans at ESTABLISHED", "SYN or SYN-ACK segments sent again"),
		column(flow.RetransClosing, "tcp_sock total_retrans after FIN", "segments sent again after the connection began to close"),
		column(flow.RetransBytes, "tcp_sock bytes_retrans", "payload bytes sent again in the interval"),
		column(flow.LostSegs, "tcp_sock lost", "segments the kernel took for lost in the interval"),
		column(flow.ReordSeen, "tcp_sock reord_seen", "reorderings the kernel noticed in the interval"),
		column(flow.DeliveredCe, "tcp_sock delivered_ce", "segments acknowledged with a congestion mark (ECN) in the interval"),
		column(flow.RstSent, "exporter, how the socket closed", "resets sent on the connection"),
		column(flow.RstReceived, "kernel, tcp_receive_reset", "resets received on the connection"),
		column(flow.Rto, "tcp_sock total_rto", "retransmission timeouts in the interval"),
	}
}

func timingFields() []Field {
	return []Field{
		column(flow.SrttUs, "tcp_sock srtt_us / 8", "smoothed round trip time at the end of the interval, microseconds"),
		column(flow.MinRttUs, "tcp_sock rtt_min", "least round trip time in the kernel's window (5 min by default), microseconds"),
		column(flow.RttvarUs, "tcp_sock mdev_us / 4", "variation of the round trip time, microseconds"),
		column(flow.ConnectUs, "exporter, first SYN to ESTABLISHED", "time to connect as the client saw it, retransmitted SYNs included, microseconds; clients only"),
		column(flow.BusyUs, "tcp_sock chrono_stat", "time in the interval with data to send, microseconds"),
		column(flow.RwndLimitedUs, "tcp_sock chrono_stat", "time in the interval limited by the peer's receive window, microseconds"),
		column(flow.SndbufLimitedUs, "tcp_sock chrono_stat", "time in the interval limited by the send buffer, microseconds"),
		column(flow.SndCwnd, "tcp_sock snd_cwnd", "congestion window at the end of the interval, segments"),
		column(flow.Mss, "tcp_sock mss_cache", "largest payload of a segment sent, bytes"),
	}
}

func processFields() []Field {
	return []Field{
		column(flow.StartObserved, "exporter", "the opening of the connection was seen; with record_seq 0 the row counts one opened connection"),
		column(flow.Accepted, "exporter", "a server's connection that the program has accepted"),
		column(flow.Replay, "exporter", "the row comes from a recording"),
		column(flow.Errno, "kernel, sk_err; sk_err_soft of an attempt given up", "Linux error number of the end of the connection (111 is ECONNREFUSED)"),
		coded(column(flow.Pid, "kernel, task", "process that opened, accepted or closed the socket"), codecPlain),
		coded(column(flow.UID, "kernel, task", "user of that process"), codecPlain),
	}
}

func endFields() []Field {
	return []Field{
		column(flow.LocalWorkload, "exporter/identity", "workload that owned the local end, namespace/name"),
		column(flow.LocalInstance, "exporter/identity", "instance of that workload: pod UID, container id or host id"),
		column(flow.LocalZone, "exporter/identity", "zone of the local end"),
		column(flow.LocalRegion, "exporter/identity", "region of the local end"),
		column(flow.LocalRelease, "exporter/identity", "release of the local workload"),
		column(flow.RemoteWorkload, "collector", "workload that owned the remote end at interval_start_ns; empty where that is not certain"),
		column(flow.RemoteInstance, "collector", "instance of that workload"),
		column(flow.RemoteZone, "collector", "zone of the remote end"),
		column(flow.RemoteRegion, "collector", "region of the remote end"),
		column(flow.RemoteRelease, "collector", "release of the remote workload"),
	}
}

func ownerFields() []Field {
	return []Field{
		column(flow.LocalEvidence, "exporter/identity", "what named the local end"),
		column(flow.RemoteEvidence, "collector", "what named the remote end"),
		column(flow.LocalWhy, "exporter/identity", "why the local end has no name"),
		column(flow.RemoteWhy, "collector", "why the remote end has no name"),
		column(flow.PeerObserved, "collector", "whether the peer's own record of this connection was seen"),
		column(flow.RemoteLastWorkload, "collector", "the address's owner before, only on attempts without an answer; never an edge"),
		column(flow.RemoteLastInstance, "collector", "instance of that owner"),
		wide(flow.RemoteLastSeenNs, "collector", "until when that owner is known to have had the address"),
	}
}
