/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Listening sockets: who listens where, and what became of those who came. */
#pragma once

#include "read.h"

static __always_inline void listener_key(struct listener_key *key, struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;
	__u8 remote[16] __attribute__((aligned(4)));

	read_addresses(key->addr, remote, sk, 0);
	key->netns_inum = sk->__sk_common.skc_net.net->ns.inum;
	key->port = ntohs(((struct inet_sock *)tp)->inet_sport);
	key->family = sk->__sk_common.skc_family;
}

static __always_inline void set_words(__u8 *addr, __u32 third)
{
	__u32 *words = (__u32 *)addr;

	words[0] = 0;
	words[1] = 0;
	words[2] = third;
	words[3] = 0;
}

/* The listener that a new server socket came from: its exact address, then any address
 * of its family, then any IPv4 address by an IPv6 socket. */
static __always_inline struct listener *find_listener(struct tcp_sock *tp)
{
	struct listener_key key = {};
	struct listener *l;

	listener_key(&key, tp);
	l = bpf_map_lookup_elem(&listeners, &key);
	if (l)
		return l;
	set_words(key.addr, key.family == AF_INET ? 0xffff0000 : 0);
	l = bpf_map_lookup_elem(&listeners, &key);
	if (l)
		return l;
	if (key.family == AF_INET)
		return 0;
	set_words(key.addr, 0xffff0000);
	return bpf_map_lookup_elem(&listeners, &key);
}

/* A listening socket is there: it joins those of its address, or is the first. */
static __always_inline void join_listeners(struct sock *sk, const struct listen_socket *value)
{
	struct listener first = { .sock = (__u64)sk, .owner = value->owner, .sockets = 1 };
	struct listener *l;

	if (!bpf_map_update_elem(&listeners, &value->key, &first, BPF_NOEXIST))
		return;
	l = bpf_map_lookup_elem(&listeners, &value->key);
	if (!l) {
		count(FLOW_COUNTER_LISTENERS_FULL);
		return;
	}
	__sync_fetch_and_add(&l->sockets, 1);
	if (value->found) /* one that we saw starting is known better */
		return;
	l->sock = (__u64)sk;
	l->owner = value->owner;
}

/* And it is gone. Children copied the owner when they were established, so it can go at once. */
static __always_inline void leave_listeners(__u64 sock, const struct listener_key *key)
{
	struct listener *l = bpf_map_lookup_elem(&listeners, key);

	if (!l)
		return;
	if (__sync_fetch_and_sub(&l->sockets, 1) <= 1)
		bpf_map_delete_elem(&listeners, key);
	else if (l->sock == sock)
		l->owner.pid = 0; /* others of its kind go on */
}

/* CLOSE to LISTEN, in the context of whoever calls listen. */
static __always_inline void listen_started(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct listen_socket value = {};
	__u64 key = (__u64)sk;

	if (!tp || !read_current(&value.owner))
		return;
	listener_key(&value.key, tp);
	value.sock_cookie = bpf_get_socket_cookie(sk);
	value.since_ns = bpf_ktime_get_boot_ns();
	value.opener_pid = value.owner.pid;
	if (bpf_map_update_elem(&listen_sockets, &key, &value, BPF_NOEXIST))
		count(FLOW_COUNTER_LISTENERS_FULL);
	join_listeners(sk, &value);
	count(FLOW_COUNTER_LISTENS);
}

/* LISTEN to CLOSE. */
static __always_inline void listen_ended(struct sock *sk)
{
	struct listener_key key = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 sock = (__u64)sk;

	if (!tp)
		return;
	bpf_map_delete_elem(&listen_sockets, &sock);
	listener_key(&key, tp);
	leave_listeners(sock, &key);
	count(FLOW_COUNTER_LISTENS);
}

/* The inventory shows a listening socket; its holder is found by find_holders. */
static __always_inline void found_listener(struct sock *sk, struct tcp_sock *tp)
{
	struct listen_socket value = { .found = 1 };
	__u64 key = (__u64)sk;

	listener_key(&value.key, tp);
	value.sock_cookie = bpf_get_socket_cookie(sk);
	value.since_ns = bpf_ktime_get_boot_ns();
	value.owner.cgroup_id = socket_cgroup(sk, 0); /* current is who runs the inventory */
	value.queued_before = sk->sk_ack_backlog;
	if (!bpf_map_update_elem(&listen_sockets, &key, &value, BPF_NOEXIST)) {
		join_listeners(sk, &value);
		count(FLOW_COUNTER_LISTENS);
	} else if (!bpf_map_lookup_elem(&listen_sockets, &key)) {
		count(FLOW_COUNTER_LISTENERS_FULL);
	}
}

/* When SYN cookies were last sent, in jiffies or 0: sockets that share a port share it too (tcp_synq_overflow). */
static __always_inline __u32 syn_overflow(struct sock *sk, struct tcp_sock *tp)
{
	const int probe = 1;
	struct sock_reuseport *group = READ(sk, sk_reuseport_cb);

	return group ? READ(group, synq_overflow_ts) : (__u32)READ(tp, rx_opt.ts_recent_stamp);
}

/* One call per entry of listen_sockets: how the socket stands now. */
SEC("iter/bpf_map_elem")
int report_listeners(struct bpf_iter__bpf_map_elem *ctx)
{
	struct listen_socket *of = ctx->value;
	__u64 *keyp = ctx->key, key, cookie = 0;
	struct listener_record rec = {};
	struct listener *l;
	struct tcp_sock *tp;
	struct sock *sk;
	const int probe = 1;
	__u8 state = 0;

	if (!of || !keyp)
		return 0;
	key = *keyp;
	rec.socket = *of;
	tp = (struct tcp_sock *)key;
	sk = (struct sock *)tp;
	rec.drops = READ(sk, sk_drops.counter);
	rec.accept_queue = READ(sk, sk_ack_backlog);
	rec.accept_queue_limit = READ(sk, sk_max_ack_backlog);
	rec.syn_queue = READ((struct inet_connection_sock *)tp, icsk_accept_queue.qlen.counter);
	rec.syn_overflow = syn_overflow(sk, tp);
	bpf_probe_read_kernel(&state, sizeof(state), (const void *)&sk->__sk_common.skc_state);
	bpf_probe_read_kernel(&cookie, sizeof(cookie), &sk->__sk_common.skc_cookie.counter);
	if (cookie != rec.socket.sock_cookie || state != TCP_LISTEN) {
		/* its end was not shown; a new one's state is stored after its event */
		if (bpf_ktime_get_boot_ns() > rec.socket.since_ns + 1000000000ULL && !bpf_map_delete_elem(&listen_sockets, &key))
			leave_listeners(key, &rec.socket.key);
		return 0;
	}
	l = bpf_map_lookup_elem(&listeners, &rec.socket.key);
	if (l) {
		rec.last_ns = l->last_ns;
		rec.established = l->established;
	} else { /* two of one address came and went at the same time */
		join_listeners(sk, &rec.socket);
	}
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}

/* Every pass over the open files has another number. Set by user space before it. */
__u32 holders_pass;

/* How good a holder is: who called listen, anybody else, or who may only keep it for others (socket activation). */
static __always_inline __u32 holder_rank(const struct listen_socket *of, __u32 pid)
{
	if (pid == 1)
		return 1;
	return pid == of->opener_pid ? 3 : 2;
}

/* The TCP socket of a program's socket: MPTCP's listens through one of its own. */
static __always_inline struct sock *tcp_of(struct sock *sk)
{
	struct mptcp_sock *msk = (struct mptcp_sock *)sk;
	const int probe = 1;

	if (sk && READ(sk, sk_protocol) == IPPROTO_MPTCP && field_exists(msk->first))
		return READ(msk, first);
	return sk;
}

/*
 * One call per open file of each process. Who holds a listening socket now: a found one's holder was not seen, and one
 * that was handed on (socket activation, a parent that is gone) is another's than who called listen. Of equals the
 * first, which is the parent.
 */
SEC("iter/task_file")
int find_holders(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct listen_socket *of;
	struct listener *l;
	struct socket *socket;
	const int probe = 1;
	__u32 rank;
	__u64 key;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	key = (__u64)tcp_of(socket->sk);
	of = bpf_map_lookup_elem(&listen_sockets, &key);
	if (!of)
		return 0;
	if (of->pass != holders_pass) {
		of->pass = holders_pass;
		of->rank = 0;
	}
	rank = holder_rank(of, task->tgid);
	if (rank <= of->rank)
		return 0;
	of->rank = rank;
	if (of->owner.pid == (__u32)task->tgid)
		return 0;
	of->owner.pid = task->tgid;
	of->owner.uid = READ(READ(task, cred), uid.val);
	of->owner.cgroup_id = READ(READ(READ(READ(task, cgroups), dfl_cgrp), kn), id);
	bpf_probe_read_kernel(of->owner.comm, sizeof(of->owner.comm), &task->group_leader->comm);
	l = bpf_map_lookup_elem(&listeners, &of->key);
	if (l && l->sock == key)
		l->owner = of->owner;
	return 0;
}
