/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Reading a socket, its place and the current process. */
#pragma once

#include "maps.h"

/*
 * READ loads a member directly where the verifier knows the pointer (the
 * tracepoint's argument), or by a checked copy where it is only a number (the
 * walk's key). probe is a constant in every inlined use.
 */
#define READ(p, member)                                                                       \
	({                                                                                    \
		typeof((p)->member) __v;                                                      \
		if (probe)                                                                    \
			bpf_probe_read_kernel(&__v, sizeof(__v), &(p)->member);               \
		else                                                                          \
			__v = (p)->member;                                                    \
		__v;                                                                          \
	})

static __always_inline void map_ipv4(__u8 *out, __be32 addr)
{
	__u32 *words = (__u32 *)out;

	words[0] = 0;
	words[1] = 0;
	words[2] = 0xffff0000; /* bytes 00 00 ff ff; both supported machines are little-endian */
	words[3] = addr;
}

static __always_inline void read_addresses(__u8 *local, __u8 *remote, struct sock *sk, const int probe)
{
	__u32 *l = (__u32 *)local, *r = (__u32 *)remote;

	if (READ(sk, __sk_common.skc_family) == AF_INET6) {
#pragma unroll
		for (int i = 0; i < 4; i++) {
			l[i] = READ(sk, __sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i]);
			r[i] = READ(sk, __sk_common.skc_v6_daddr.in6_u.u6_addr32[i]);
		}
		return;
	}
	map_ipv4(local, READ(sk, __sk_common.skc_rcv_saddr));
	map_ipv4(remote, READ(sk, __sk_common.skc_daddr));
}

static __always_inline void read_place(struct flow_record *rec, struct sock *sk, const int probe)
{
	struct net *net = READ(sk, __sk_common.skc_net.net);

	rec->netns_cookie = READ(net, net_cookie);
	rec->netns_inum = READ(net, ns.inum);
	rec->sock_cgroup_id = 0;
	if (field_exists(sk->sk_cgrp_data)) {
		struct cgroup *cgrp = READ(sk, sk_cgrp_data.cgroup);
		struct kernfs_node *kn;

		if (!cgrp)
			return;
		kn = READ(cgrp, kn);
		if (kn)
			rec->sock_cgroup_id = READ(kn, id);
	}
}

static __always_inline void read_counters(struct flow_record *rec, struct tcp_sock *tp, const int probe)
{
	struct sock *sk = (struct sock *)tp;
	/* A retransmission is counted in bytes_retrans first: read the other way round,
	 * the difference can only be too small for a moment, and the next record has the rest. */
	__u64 sent = READ(tp, bytes_sent);
	__u64 retrans = READ(tp, bytes_retrans);
	__u64 received = READ(tp, bytes_received);

	/* bytes_sent is payload, retransmissions included. bytes_received counts the
	 * peer's FIN as one byte, and SOCK_DONE says that it came. */
	rec->tx_bytes = sent > retrans ? sent - retrans : 0;
	if (received && (READ(sk, __sk_common.skc_flags) & (1UL << SOCK_DONE)))
		received--;
	rec->rx_bytes = received;
	rec->retrans_bytes = retrans;
	rec->tx_segs = READ(tp, segs_out);
	rec->rx_segs = READ(tp, segs_in);
	rec->retrans_segs = READ(tp, total_retrans);
	rec->lost_segs = READ(tp, lost);
	rec->reord_seen = READ(tp, reord_seen);
	rec->delivered_ce = READ(tp, delivered_ce);
	rec->rto = 0;
	if (field_exists(tp->total_rto))
		rec->rto = READ(tp, total_rto);
	rec->srtt_us = READ(tp, srtt_us) >> 3;
	rec->min_rtt_us = READ(tp, rtt_min.s[0].v);
	rec->rttvar_us = READ(tp, mdev_us) >> 2;
	rec->snd_cwnd = READ(tp, snd_cwnd);
	rec->mss = READ(tp, mss_cache);
}

/* Everything the socket itself knows. */
static __always_inline void read_socket(struct flow_record *rec, struct tcp_sock *tp, const int probe)
{
	struct sock *sk = (struct sock *)tp;
	struct inet_sock *inet = (struct inet_sock *)tp;

	rec->sock = (__u64)tp;
	rec->sk_err = READ(sk, sk_err);
	rec->sk_err_soft = READ(sk, sk_err_soft);
	/* not skc_num: that is already 0 at CLOSE */
	rec->local_port = ntohs(READ(inet, inet_sport));
	rec->remote_port = ntohs(READ(sk, __sk_common.skc_dport));
	rec->reserved = 0;
	read_addresses(rec->local_addr, rec->remote_addr, sk, probe);
	read_place(rec, sk, probe);
	read_counters(rec, tp, probe);
}

/* What the transitions told; after read_socket. */
static __always_inline void read_open(struct flow_record *rec, const struct open_socket *open)
{
	rec->opened_ns = open->id_state & ~(OPEN_CLOSING | OPEN_REPORTED);
	rec->start_ns = open->start_ns;
	rec->sock_cookie = open->sock_cookie;
	rec->cgroup_id = open->owner.cgroup_id;
	rec->pid = open->owner.pid;
	rec->uid = open->owner.uid;
	__builtin_memcpy(rec->comm, open->owner.comm, sizeof(rec->comm));
	rec->role = open->role;
	rec->first_fin = open->first_fin;
	rec->flags = open->flags | FLOW_FLAG_START_OBSERVED;
	rec->connect_us = open->connect_us;
	rec->retrans_syn = open->flags & FLOW_FLAG_ESTABLISHED ? open->retrans_syn : rec->retrans_segs;
	rec->retrans_closing = 0;
	if (open->first_fin) {
		rec->srtt_us = open->srtt_fin_us;
		rec->retrans_closing = rec->retrans_segs - open->retrans_fin;
	}
	if (open->stale_err && rec->sk_err == open->stale_err && !(open->flags & FLOW_FLAG_RST_RECEIVED))
		rec->sk_err = 0;
}

static __always_inline int in_scope(struct sock *sk)
{
	if (scope_netns && sk->__sk_common.skc_net.net->ns.inum != scope_netns)
		return 0;
	/* An MPTCP socket fires the same tracepoint and is no tcp_sock; its subflows are TCP. */
	return sk->sk_protocol == IPPROTO_TCP;
}

/*
 * The current process owns the socket: only from transitions that always run in
 * task context (CLOSE to SYN_SENT or LISTEN, any to FIN_WAIT1 or LAST_ACK). A kernel
 * thread that closes for somebody (MPTCP) is not the owner.
 */
static __always_inline int read_current(struct flow_owner *owner)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (task->flags & PF_KTHREAD)
		return 0;
	owner->cgroup_id = bpf_get_current_cgroup_id();
	owner->pid = bpf_get_current_pid_tgid() >> 32;
	owner->uid = (__u32)bpf_get_current_uid_gid();
	/* the process's name, not the thread's */
	bpf_probe_read_kernel(owner->comm, sizeof(owner->comm), &task->group_leader->comm);
	return 1;
}
