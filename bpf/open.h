/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The beginnings: clients, servers, and what transitions tell until the end. */
#pragma once

#include "asked.h"
#include "listen.h"

/*
 * An entry that is there already is of a socket whose end was not seen and whose memory is
 * used again; or of this one, if the inventory found a server's during its handshake (Fast
 * Open). Returns 0 if no entry was made.
 */
static __always_inline int insert(const struct open_socket *open)
{
	struct open_socket *old = find_open(open->sock);
	int err;

	if (old) {
		if (open->role == FLOW_ROLE_SERVER && old->sock_cookie == open->sock_cookie)
			return 0;
		if (!(mark(old, OPEN_CLOSING) & OPEN_CLOSING)) {
			remove_open(open->sock, old);
			count(FLOW_COUNTER_ENDS_MISSED);
		}
	}
	err = add_open(open);
	if (!err) {
		count(FLOW_COUNTER_OPENED);
		if (!(open->id_state & OPEN_WALKED))
			count_young(open->id_state, 1);
	} else if (err == -7) { /* E2BIG */
		count(FLOW_COUNTER_MAP_FULL);
	} else {
		count(FLOW_COUNTER_MAP_NOMEM);
	}
	return !err;
}

static __always_inline int insert_open(struct sock *sk, struct open_socket *open)
{
	open->sock = (__u64)sk;
	open->sock_cookie = bpf_get_socket_cookie(sk);
	return insert(open);
}

/* CLOSE to SYN_SENT: a client, in its own context. */
static __always_inline void open_client(struct sock *sk)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct open_socket open = {
		.id_state = now,
		.due_ns = now + syn_first_ns,
		.role = FLOW_ROLE_CLIENT,
		.stale_err = sk->sk_err,
	};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return;
	for (int i = 0; i < 3; i++)
		open.chrono_base[i] = tp->chrono_stat[i];
	open.lost_base = tp->lost;
	read_current(&open.owner);
	note_asked(&open, sk);
	insert_open(sk, &open);
}

/* SYN_RECV to ESTABLISHED (or further): a server's child; current is a stranger. */
static __always_inline int open_server(struct sock *sk)
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
		return 0;
	/* what the SYN-ACK took; 0 where it was not measured */
	open.connect_us = tp->srtt_us >> 3;
	open.retrans_syn = tp->total_retrans;
	l = find_listener(tp);
	if (l) {
		open.owner = l->owner;
		__sync_fetch_and_add(&l->established, 1);
		l->last_ns = now;
	}
	return insert_open(sk, &open);
}

static __always_inline void established(struct sock *sk, struct open_socket *open)
{
	struct tcp_sock *tp;
	__u64 now;

	if (open->flags & FLOW_FLAG_ESTABLISHED)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	now = bpf_ktime_get_boot_ns();
	open->flags |= FLOW_FLAG_ESTABLISHED;
	open->connect_us = (now - OPENED_NS(open->id_state)) / 1000;
	open->retrans_syn = tp->total_retrans;
	open->due_ns = now + active_first_ns;
}

/* A FIN goes out (FIN_WAIT1, LAST_ACK) or came in (CLOSE_WAIT). */
static __always_inline void finish(struct sock *sk, struct open_socket *open, int newstate)
{
	struct tcp_sock *tp;

	if (open->role == FLOW_ROLE_SERVER && sk->sk_socket)
		open->flags |= FLOW_FLAG_ACCEPTED;
	/* a client belongs to who opened it, where that was seen */
	if (newstate != TCP_CLOSE_WAIT && (open->role != FLOW_ROLE_CLIENT || !open->owner.pid) && !in_search())
		read_current(&open->owner);
	if (open->first_fin)
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	open->srtt_fin_us = tp->srtt_us >> 3;
	open->retrans_fin = tp->total_retrans;
	open->data_segs_fin = tp->data_segs_in;
	open->received_fin = tp->bytes_received;
	open->first_fin = newstate == TCP_CLOSE_WAIT ? FLOW_FIN_REMOTE : FLOW_FIN_LOCAL;
}
