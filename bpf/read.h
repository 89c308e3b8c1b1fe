/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Reading a socket, its place and the current process. */
#pragma once

#include "scope.h"

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
	rec->sock_cgroup_id = socket_cgroup(sk, probe);
}

static __always_inline int fin_queued(__u8 state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

/*
 * What was sent at least once, by sequence numbers: a client's SYN included, our FIN
 * not. (bytes_sent less bytes_retrans counts a segment twice that the local firewall
 * dropped: the kernel sends it again as if it were new.) last_state is the state before
 * CLOSE, or 0 where the socket lives on and is asked for it.
 *
 * The order of the reads makes the value too small for a moment at most, where the
 * socket is in use: the next record has the rest.
 */
static __always_inline __u64 read_sent(struct tcp_sock *tp, __u8 last_state, const int probe)
{
	struct sock *sk = (struct sock *)tp;
	__u64 sent = READ(tp, bytes_acked);
	__u32 next, in_flight;
	__u8 state = last_state;

	barrier();
	next = READ(tp, snd_nxt);
	barrier();
	in_flight = next - READ(tp, snd_una);
	if ((__s32)in_flight > 0)
		sent += in_flight;
	if (!state)
		state = READ(sk, __sk_common.skc_state);
	if (sent && fin_queued(state) && READ(tp, write_seq) == next)
		sent--;
	return sent;
}

/* The bits' bytes, wherever and however wide the running kernel has them. */
static __always_inline __u64 load_bits(const void *at, __u32 size, const int probe)
{
	__u64 bits = 0;

	if (probe) {
		bpf_probe_read_kernel(&bits, size, at);
		return bits;
	}
	asm volatile("" : "+r"(at)); /* one address, so that it is relocated once */
	switch (size) {
	case 1:
		return *(const __u8 *)at;
	case 2:
		return *(const __u16 *)at;
	case 4:
		return *(const __u32 *)at;
	default:
		return *(const __u64 *)at;
	}
}

static __always_inline __u8 read_chrono_type(struct tcp_sock *tp, const int probe)
{
	const void *at = (const char *)tp + field_offset(tp->chrono_type);
	__u64 bits = load_bits(at, field_size(tp->chrono_type), probe);

	bits <<= field_lshift(tp->chrono_type);
	return bits >> field_rshift(tp->chrono_type);
}

/* What tcp_get_info_chrono_stats tells; the sum of the three is the busy time. */
static __always_inline void read_chrono(struct flow_record *rec, struct tcp_sock *tp, const int probe)
{
	__u32 start = READ(tp, chrono_start), running;
	__u32 busy = READ(tp, chrono_stat[0]);
	__u32 rwnd = READ(tp, chrono_stat[1]);
	__u32 sndbuf = READ(tp, chrono_stat[2]);
	__u8 type = read_chrono_type(tp, probe);

	running = (__u32)bpf_jiffies64() - start;
	/* it switches: the running part may be in the sums already */
	if (READ(tp, chrono_start) == start && (__s32)running > 0) {
		busy += type == 1 ? running : 0;
		rwnd += type == 2 ? running : 0;
		sndbuf += type == 3 ? running : 0;
	}
	rec->busy_jiffies = busy;
	rec->rwnd_jiffies = rwnd;
	rec->sndbuf_jiffies = sndbuf;
	rec->tick_us = tick_us;
}

static __always_inline void read_counters(struct flow_record *rec, struct tcp_sock *tp, const int probe)
{
	struct sock *sk = (struct sock *)tp;
	__u64 received = READ(tp, bytes_received);

	rec->tx_bytes = read_sent(tp, rec->last_state, probe);
	/* bytes_received counts the peer's FIN as one byte, and SOCK_DONE says that it came */
	if (received && (READ(sk, __sk_common.skc_flags) & (1UL << SOCK_DONE)))
		received--;
	rec->rx_bytes = received;
	rec->retrans_bytes = READ(tp, bytes_retrans);
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
	read_chrono(rec, tp, probe);
}

/* Everything the socket itself knows; rec->last_state is the state before CLOSE, or 0. */
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
	read_addresses(rec->local_addr, rec->remote_addr, sk, probe);
	read_place(rec, sk, probe);
	read_counters(rec, tp, probe);
}

/* A client's SYN was acknowledged like a byte, and the three times add up. */
static __always_inline void settle(struct flow_record *rec, const __u32 *chrono_base)
{
	if (rec->role == FLOW_ROLE_CLIENT && rec->tx_bytes)
		rec->tx_bytes--;
	rec->busy_jiffies -= chrono_base[0];
	rec->rwnd_jiffies -= chrono_base[1];
	rec->sndbuf_jiffies -= chrono_base[2];
	rec->busy_jiffies += rec->rwnd_jiffies + rec->sndbuf_jiffies;
}

/* What the transitions told; after read_socket. */
static __always_inline void read_open(struct flow_record *rec, const struct open_socket *open)
{
	rec->opened_ns = OPENED_NS(open->id_state);
	rec->start_ns = rec->opened_ns;
	if (open->role == FLOW_ROLE_SERVER && !(open->flags & FLOW_FLAG_FOUND)) /* opened when established */
		rec->start_ns -= open->connect_us * 1000ULL;
	rec->sock_cookie = open->sock_cookie;
	rec->cgroup_id = open->owner.cgroup_id;
	rec->pid = open->owner.pid;
	rec->uid = open->owner.uid;
	__builtin_memcpy(rec->comm, open->owner.comm, sizeof(rec->comm));
	rec->role = open->role;
	rec->first_fin = open->first_fin;
	rec->flags = open->flags;
	if (!(open->flags & FLOW_FLAG_FOUND))
		rec->flags |= FLOW_FLAG_START_OBSERVED;
	rec->connect_us = open->connect_us;
	rec->asked_port = open->asked_port;
	__builtin_memcpy(rec->asked_addr, open->asked_addr, sizeof(rec->asked_addr));
	rec->retrans_syn = open->flags & FLOW_FLAG_ESTABLISHED ? open->retrans_syn : rec->retrans_segs;
	rec->retrans_closing = 0;
	if (open->first_fin) {
		rec->srtt_us = open->srtt_fin_us;
		rec->retrans_closing = rec->retrans_segs - open->retrans_fin;
	}
	if (open->stale_err && rec->sk_err == open->stale_err && !(open->flags & FLOW_FLAG_RST_RECEIVED))
		rec->sk_err = 0;
	rec->lost_segs -= open->lost_base;
	settle(rec, open->chrono_base);
}

/*
 * Who opened a connection whose opening was not seen. An active opener has its SYN among
 * the acknowledged bytes and not among the payload sent; so the two counts, equal on a
 * server, differ by one. Retransmissions by the local firewall's drops spoil that, hence
 * "guessed"; the states before ESTABLISHED leave no doubt. After read_socket.
 */
static __always_inline void guess_role(struct flow_record *rec, struct tcp_sock *tp, __u8 state, const int probe)
{
	__s64 syn = rec->tx_bytes - (READ(tp, bytes_sent) - READ(tp, bytes_retrans));

	if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
		rec->role = state == TCP_SYN_SENT ? FLOW_ROLE_CLIENT : FLOW_ROLE_SERVER;
		return;
	}
	rec->role = syn == 1 ? FLOW_ROLE_CLIENT : syn == 0 ? FLOW_ROLE_SERVER : FLOW_ROLE_UNKNOWN;
	if (rec->role)
		rec->flags |= FLOW_FLAG_ROLE_GUESSED;
}

/*
 * The current process owns the socket: only from transitions that always run in
 * task context (CLOSE to SYN_SENT or LISTEN, any to FIN_WAIT1 or LAST_ACK). A kernel
 * thread that closes for somebody (MPTCP) is not the owner. Loads take a fraction of
 * what the helpers for the same take.
 */
static __always_inline int read_current(struct flow_owner *owner)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const __u64 *comm = (const __u64 *)task->group_leader->comm; /* the process's name, not the thread's */
	__u64 *to = (__u64 *)owner->comm;
	struct cred *cred = task->cred;

	if (task->flags & PF_KTHREAD)
		return 0;
	owner->cgroup_id = field_exists(task->cgroups) ? task->cgroups->dfl_cgrp->kn->id : 0;
	owner->pid = task->tgid;
	owner->uid = cred ? cred->uid.val : 0;
	to[0] = comm[0];
	to[1] = comm[1];
	return 1;
}

/*
 * find_holders holds each file for a moment, and if its program closes it just then, the
 * last close is made in that search, ours or that of another exporter on this host.
 */
static __always_inline int in_search(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	const __u64 *comm = (const __u64 *)task->group_leader->comm;

	return comm[0] == own_comm[0] && comm[1] == own_comm[1];
}
