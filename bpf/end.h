/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The end of a connection: its record. */
#pragma once

#include "open.h"

/* Wake the reader when the fill mark is being crossed, and for the first record after it
 * has gone to rest. The window of eight records is for other CPUs whose reservations fall
 * between ours and the query. */
static __always_inline __u64 wakeup_flag(void)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	__u64 step = sizeof(struct flow_record) + 8;

	if (reader_rests) {
		reader_rests = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	if (waiting >= fill_mark_bytes && waiting < fill_mark_bytes + 8 * step)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* An end that was not followed: opened before us, or the table was full. */
static __always_inline void read_unobserved(struct flow_record *rec, struct tcp_sock *tp, int oldstate)
{
	const __u32 no_base[3] = {};

	rec->opened_ns = 0;
	rec->start_ns = rec->end_ns;
	rec->sock_cookie = 0;
	rec->cgroup_id = 0;
	rec->pid = 0;
	rec->uid = 0;
	__builtin_memset(rec->comm, 0, sizeof(rec->comm));
	rec->connect_us = 0;
	rec->asked_port = 0;
	__builtin_memset(rec->asked_addr, 0, sizeof(rec->asked_addr));
	rec->retrans_syn = 0;
	rec->retrans_closing = 0;
	rec->first_fin = FLOW_FIN_NONE;
	rec->flags = oldstate == TCP_SYN_SENT || oldstate == TCP_SYN_RECV ? 0 : FLOW_FLAG_ESTABLISHED;
	guess_role(rec, tp, oldstate, 0);
	settle(rec, no_base);
}

/* After the peer's FIN: data that came before it was not taken. */
static __always_inline int unread(struct tcp_sock *tp)
{
	return (__s32)(tp->rcv_nxt - 1 - tp->copied_seq) > 0;
}

/*
 * A reset that we send leaves no error and comes after CLOSE. It shows as a CLOSE out of
 * a state that an orderly end never leaves so: with our FIN unanswered (after the peer's,
 * only if there is unread data, or ours is not sent yet: tcp_disconnect), or without the
 * peer's FIN while the program still holds the socket (unread data, linger 0, disconnect)
 * or has forbidden waiting for it (TCP_LINGER2 below 0). A socket that nobody holds goes
 * from FIN_WAIT2 to the kernel's small TIME_WAIT socket, which is orderly.
 */
static __always_inline int reset_by_us(struct sock *sk, struct tcp_sock *tp, int oldstate)
{
	switch (oldstate) {
	case TCP_SYN_RECV:
	case TCP_ESTABLISHED:
	case TCP_CLOSE_WAIT:
	case TCP_FIN_WAIT1:
		return 1;
	case TCP_FIN_WAIT2:
		if (sk->__sk_common.skc_flags & (1UL << SOCK_DONE))
			return 0;
		return sk->sk_socket || tp->linger2 < 0;
	case TCP_CLOSING:
	case TCP_LAST_ACK:
		return tp->snd_una != tp->write_seq && (tp->snd_nxt != tp->write_seq || unread(tp));
	}
	return 0;
}

/* A closed window is probed too, but only where something waits to be sent. */
static __always_inline int keepalive_unanswered(struct sock *sk, struct tcp_sock *tp)
{
	return (sk->__sk_common.skc_flags & (1UL << SOCK_KEEPOPEN)) && tp->inet_conn.icsk_probes_out &&
	       tp->snd_una == tp->write_seq;
}

/*
 * With IP_RECVERR the error of an ICMP message stays with a connection that lives on, until
 * the program takes it. It is the end's where the kernel gave up sending.
 */
static __always_inline int is_leftover(const struct flow_record *rec, struct tcp_sock *tp)
{
	switch (rec->sk_err) {
	case EPIPE:
	case ECONNABORTED:
	case ECONNRESET:
	case ETIMEDOUT:
		return 0;
	}
	return (rec->flags & FLOW_FLAG_ESTABLISHED) && !tp->inet_conn.icsk_retransmits && !tp->inet_conn.icsk_probes_out;
}

/*
 * What an ICMP message said while connect held the socket, as one from the same host always
 * does, is a soft error. A program that waits by poll is woken and takes it (SO_ERROR), and
 * then gives up without one; the message itself stays in the queue of errors. IPv4 only.
 */
static __always_inline __u16 error_taken(struct sock *sk)
{
	struct sock_exterr_skb *about;
	const int probe = 1;

	if (!sk->sk_error_queue.qlen)
		return 0;
	about = (struct sock_exterr_skb *)READ(&sk->sk_error_queue, prev)->cb;
	if (READ(about, ee.ee_origin) != SO_EE_ORIGIN_ICMP)
		return 0;
	return READ(about, ee.ee_errno);
}

static __always_inline void emit_end(struct sock *sk, struct tcp_sock *tp, struct open_socket *open, int oldstate,
				     __u16 reported)
{
	struct flow_record *rec = bpf_ringbuf_reserve(&events, sizeof(*rec), 0);

	if (!rec) {
		count(FLOW_COUNTER_RING_FULL);
		return;
	}
	rec->end_ns = bpf_ktime_get_boot_ns();
	rec->last_state = oldstate;
	read_socket(rec, tp, 0);
	if (open) {
		read_open(rec, open);
		rec->flags |= reported;
		if (open->role == FLOW_ROLE_SERVER && sk->sk_socket)
			rec->flags |= FLOW_FLAG_ACCEPTED;
	} else {
		read_unobserved(rec, tp, oldstate);
		rec->sock_cookie = bpf_get_socket_cookie(sk);
		count(FLOW_COUNTER_ENDS_UNOBSERVED);
	}
	if (rec->sk_err && is_leftover(rec, tp))
		rec->sk_err = 0;
	if (oldstate == TCP_SYN_SENT && !rec->sk_err && !rec->sk_err_soft)
		rec->sk_err_soft = error_taken(sk);
	if (keepalive_unanswered(sk, tp))
		rec->flags |= FLOW_FLAG_KEEPALIVE;
	if (!rec->sk_err && !(rec->flags & FLOW_FLAG_RST_RECEIVED) && reset_by_us(sk, tp, oldstate))
		rec->flags |= FLOW_FLAG_RST_SENT;
	rec->kind = rec->flags & FLOW_FLAG_ESTABLISHED ? FLOW_KIND_CLOSED : FLOW_KIND_FAILED;
	count(FLOW_COUNTER_SUBMITTED);
	bpf_ringbuf_submit(rec, wakeup_flag());
}

/*
 * Data for a socket that the program has closed, or shut down both ways, makes the kernel
 * reset the connection, and it treats that like a reset that came in (tcp_rcv_state_process
 * calls tcp_reset). The signs: since our FIN data has come of which nothing was taken.
 */
static __always_inline int reset_for_late_data(struct sock *sk, const struct open_socket *open)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u8 state = sk->__sk_common.skc_state;

	if (!tp || !(sk->sk_shutdown & RCV_SHUTDOWN) || open->first_fin != FLOW_FIN_LOCAL)
		return 0;
	if (state != TCP_FIN_WAIT1 && state != TCP_FIN_WAIT2)
		return 0;
	return tp->data_segs_in != open->data_segs_fin && (__u32)tp->bytes_received == open->received_fin;
}

/*
 * A server's socket that the kernel made for the last segment of a handshake and gave up
 * before it was ESTABLISHED: another CPU had made one for a copy of that segment, or the
 * listener is gone (inet_csk_complete_hashdance). No program ever sees it. One of Fast
 * Open is different: it is the program's while still in SYN_RECV, and when it is reset
 * then, nothing is left of its handshake but the error (tcp_check_req).
 */
static __always_inline int stillborn(struct sock *sk, struct tcp_sock *tp)
{
	return !tp->fastopen_rsk && !sk->sk_err;
}

/*
 * The program will learn of this failure from connect, at once or when it asks again.
 * Not so where it gave up itself: then there is no error, but a port.
 */
static __always_inline void note_failure(struct sock *sk, struct tcp_sock *tp)
{
	__u64 key = (__u64)sk, cookie = bpf_get_socket_cookie(sk);

	if (sk->sk_err || !((struct inet_sock *)tp)->inet_sport)
		bpf_map_update_elem(&recorded_failures, &key, &cookie, BPF_ANY);
}

/* A Fast Open child ends before its handshake does: no transition has shown it, nor the reset, if it was one. */
static __always_inline struct open_socket *open_failed(struct sock *sk, struct tcp_sock *tp)
{
	struct open_socket *open;

	if (!open_server(sk))
		return 0;
	open = find_open((__u64)sk);
	if (open)
		open->flags = tp->fastopen_rsk ? 0 : FLOW_FLAG_RST_RECEIVED;
	return open;
}

/* Any to CLOSE. CLOSING is set before the counters are read: see report in walk.h. */
static __always_inline void close_socket(struct sock *sk, int oldstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct open_socket *open;
	__u64 before = 0;

	if (!tp)
		return;
	open = find_open((__u64)sk);
	if (!open && oldstate == TCP_SYN_RECV) {
		if (stillborn(sk, tp)) {
			count(FLOW_COUNTER_STILLBORN);
			return;
		}
		open = open_failed(sk, tp);
	}
	count(FLOW_COUNTER_ENDS);
	if (open)
		before = mark(open, OPEN_CLOSING);
	emit_end(sk, tp, open, oldstate, before & OPEN_REPORTED ? FLOW_FLAG_REPORTED : 0);
	if (watch_connects && oldstate == TCP_SYN_SENT)
		note_failure(sk, tp);
	if (open && !(before & OPEN_CLOSING))
		remove_open((__u64)sk, open);
}
