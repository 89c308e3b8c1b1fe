/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The inventory at start: listeners and connections older than capture. */
#pragma once

#include "open.h"

/*
 * Who opened it: children that nobody accepted are a server's; else by the bytes
 * (guess_role), else by whether somebody listens on the local port.
 */
static __always_inline void found_role(struct flow_record *rec, struct sock *sk, struct tcp_sock *tp, __u8 state)
{
	if (!sk->sk_socket && (state == TCP_ESTABLISHED || state == TCP_CLOSE_WAIT)) {
		rec->role = FLOW_ROLE_SERVER;
		return;
	}
	guess_role(rec, tp, state, 0);
	if (rec->role)
		return;
	rec->role = find_listener(tp) ? FLOW_ROLE_SERVER : FLOW_ROLE_CLIENT;
	rec->flags |= FLOW_FLAG_ROLE_GUESSED;
}

static __always_inline void found_open(struct open_socket *open, struct flow_record *rec, struct sock *sk,
				       struct tcp_sock *tp, __u8 state)
{
	struct listener *l;

	open->id_state = rec->end_ns | OPEN_REPORTED | OPEN_WALKED;
	open->sock = (__u64)sk;
	open->sock_cookie = bpf_get_socket_cookie(sk);
	open->role = rec->role;
	open->flags = rec->flags | FLOW_FLAG_FOUND;
	open->retrans_syn = 0;
	open->due_ns = rec->end_ns + active_every_ns;
	if (state == TCP_SYN_SENT)
		open->due_ns = rec->end_ns + syn_every_ns;
	else if (state != TCP_SYN_RECV)
		open->flags |= FLOW_FLAG_ESTABLISHED;
	if (state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK)
		open->first_fin = FLOW_FIN_REMOTE;
	else if (state != TCP_ESTABLISHED && state != TCP_SYN_SENT && state != TCP_SYN_RECV)
		open->first_fin = FLOW_FIN_LOCAL;
	if (open->first_fin) {
		open->srtt_fin_us = tp->srtt_us >> 3;
		open->retrans_fin = tp->total_retrans;
		open->data_segs_fin = tp->data_segs_in;
		open->received_fin = tp->bytes_received;
	}
	open->owner.cgroup_id = socket_cgroup(sk, 0);
	if (open->role != FLOW_ROLE_SERVER)
		return;
	if (sk->sk_socket)
		open->flags |= FLOW_FLAG_ACCEPTED;
	l = find_listener(tp);
	if (l)
		open->owner = l->owner;
}

static __always_inline void find_connection(struct bpf_iter__tcp *ctx, struct tcp_sock *tp, __u8 state)
{
	struct sock *sk = (struct sock *)tp;
	struct open_socket open = {};
	struct flow_record rec = {};

	if (find_open((__u64)sk))
		return;
	rec.end_ns = bpf_ktime_get_boot_ns();
	rec.last_state = state;
	read_socket(&rec, tp, 0);
	found_role(&rec, sk, tp, state);
	found_open(&open, &rec, sk, tp, state);
	read_open(&rec, &open);
	rec.flags |= FLOW_FLAG_REPORTED;
	rec.kind = FLOW_KIND_ACTIVE;
	if (bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec)))
		return;
	if (insert(&open))
		count(FLOW_COUNTER_FOUND);
}

/*
 * One call per socket of the namespace in which the iterator was opened, listeners
 * first; the kernel holds the socket's lock meanwhile, so that nothing moves. The
 * tracepoint is attached already: what it has entered is left alone, and what closed
 * before its turn has a record without a known start. The record goes out before the
 * entry is made, because the kernel shows the socket again if there was no room.
 */
SEC("iter/tcp")
int find_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct tcp_sock *tp;
	struct sock *sk;
	__u8 state;

	if (!skc)
		return 0;
	state = skc->skc_state;
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || state == TCP_CLOSE)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	sk = (struct sock *)tp;
	if (!in_scope(sk, 0))
		return 0;
	if (state == TCP_LISTEN)
		found_listener(sk, tp);
	else
		find_connection(ctx, tp, state);
	return 0;
}
