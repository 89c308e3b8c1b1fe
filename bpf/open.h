/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The beginnings: clients, listeners, servers, and what transitions tell until the end. */
#pragma once

#include "asked.h"

static __always_inline int insert(__u64 key, const struct open_socket *open)
{
	int err = bpf_map_update_elem(&open_sockets, &key, open, BPF_ANY); /* before 6.6 the upper half is noise */

	if (!err)
		count(FLOW_COUNTER_OPENED);
	else if (err == -7) /* E2BIG */
		count(FLOW_COUNTER_MAP_FULL);
	else
		count(FLOW_COUNTER_MAP_NOMEM);
	return !err;
}

static __always_inline void insert_open(struct sock *sk, struct open_socket *open)
{
	open->sock_cookie = bpf_get_socket_cookie(sk);
	insert((__u64)sk, open);
}

/* CLOSE to SYN_SENT: a client, in its own context. */
static __always_inline void open_client(struct sock *sk)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct open_socket open = {
		.id_state = now,
		.start_ns = now,
		.due_ns = now + syn_first_ns,
		.role = FLOW_ROLE_CLIENT,
		.stale_err = sk->sk_err,
	};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	for (int i = 0; i < 3; i++)
		open.chrono_base[i] = tp->chrono_stat[i];
	read_current(&open.owner);
	note_asked(&open, sk);
	insert_open(sk, &open);
}

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
 * of its family, then an IPv6 listener that takes IPv4. */
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
	set_words(key.addr, 0);
	key.family = AF_INET6;
	return bpf_map_lookup_elem(&listeners, &key);
}

/* SYN_RECV to ESTABLISHED (or further): a server's child; current is a stranger. */
static __always_inline void open_server(struct sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 now = bpf_ktime_get_boot_ns();
	struct open_socket open = {
		.id_state = now,
		.due_ns = now + active_first_ns,
		.role = FLOW_ROLE_SERVER,
		.flags = FLOW_FLAG_ESTABLISHED,
	};
	struct listener *l;

	if (!tp)
		return;
	/* what the SYN-ACK took; 0 where it was not measured */
	open.connect_us = tp->srtt_us >> 3;
	open.start_ns = now - open.connect_us * 1000ULL;
	open.retrans_syn = tp->total_retrans;
	l = find_listener(tp);
	if (l)
		open.owner = l->owner;
	insert_open(sk, &open);
}

static __always_inline void established(struct sock *sk, struct open_socket *open)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 now = bpf_ktime_get_boot_ns();

	if (!tp || (open->flags & FLOW_FLAG_ESTABLISHED))
		return;
	open->flags |= FLOW_FLAG_ESTABLISHED;
	open->connect_us = (now - open->start_ns) / 1000;
	open->retrans_syn = tp->total_retrans;
	open->due_ns = now + active_first_ns;
}

/* A FIN goes out (FIN_WAIT1, LAST_ACK) or came in (CLOSE_WAIT). */
static __always_inline void finish(struct sock *sk, struct open_socket *open, int newstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	if (open->role == FLOW_ROLE_SERVER && sk->sk_socket)
		open->flags |= FLOW_FLAG_ACCEPTED;
	/* a client belongs to who opened it, where that was seen */
	if (newstate != TCP_CLOSE_WAIT && (open->role != FLOW_ROLE_CLIENT || !open->owner.pid))
		read_current(&open->owner);
	if (open->first_fin)
		return;
	open->srtt_fin_us = tp->srtt_us >> 3;
	open->retrans_fin = tp->total_retrans;
	open->data_segs_fin = tp->data_segs_in;
	open->received_fin = tp->bytes_received;
	open->first_fin = newstate == TCP_CLOSE_WAIT ? FLOW_FIN_REMOTE : FLOW_FIN_LOCAL;
}

static __always_inline void listen_started(struct sock *sk)
{
	struct listener_key key = {};
	struct listener value = { .sock = (__u64)sk };
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	listener_key(&key, tp);
	if (!read_current(&value.owner))
		return;
	if (bpf_map_update_elem(&listeners, &key, &value, BPF_ANY))
		count(FLOW_COUNTER_LISTENERS_FULL);
}

/* Children copied the owner when they were established, so it can go at once; only
 * its own entry, because a later listener may share the port. */
static __always_inline void listen_ended(struct sock *sk)
{
	struct listener_key key = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct listener *l;

	if (!tp)
		return;
	listener_key(&key, tp);
	l = bpf_map_lookup_elem(&listeners, &key);
	if (l && l->sock == (__u64)sk)
		bpf_map_delete_elem(&listeners, &key);
}
