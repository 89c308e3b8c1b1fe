/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* The walk of the open sockets: active records. */
#pragma once

#include "read.h"

/* Somebody changes the socket now: a softirq, or a system call that works packets off. */
static __always_inline int is_held(struct sock *sk, const int probe)
{
	if (!field_exists(sk->sk_lock.slock.rlock.raw_lock.val))
		return 1; /* nobody knows */
	return READ(sk, sk_lock.owned) || READ(sk, sk_lock.slock.rlock.raw_lock.val.counter);
}

static __always_inline void wait_a_microsecond(void)
{
	for (int i = 0; i < 40; i++)
		bpf_ktime_get_ns();
}

/*
 * The walk reads while the socket lives on. Between counting a FIN as a byte and
 * saying so (SOCK_DONE) the kernel takes some 100 ns, in which it holds the socket; a
 * reading from that gap would be one byte too high for ever. So look again, of a socket
 * that is held about a microsecond later.
 */
static __always_inline int received_moved(struct flow_record *rec, struct tcp_sock *tp, const int probe)
{
	struct sock *sk = (struct sock *)tp;
	__u64 received;

	if (is_held(sk, probe))
		wait_a_microsecond();
	barrier();
	received = READ(tp, bytes_received);
	if (received && (READ(sk, __sk_common.skc_flags) & (1UL << SOCK_DONE)))
		received--;
	return received != rec->rx_bytes;
}

/* The last walk: everything is due. Set by user space before it. */
__u32 walk_all;

/* The state that a socket most likely closed from; CLOSE where there is no telling. */
static __always_inline __u8 concluded_state(const struct flow_record *rec, struct sock *sk, __u16 err)
{
	const int probe = 1;

	if (!(rec->flags & FLOW_FLAG_ESTABLISHED))
		return rec->role == FLOW_ROLE_CLIENT ? TCP_SYN_SENT : TCP_SYN_RECV;
	if (rec->first_fin == FLOW_FIN_LOCAL)
		return err ? TCP_FIN_WAIT1 : TCP_FIN_WAIT2;
	if (rec->first_fin == FLOW_FIN_REMOTE && !READ(sk, sk_socket))
		return TCP_LAST_ACK;
	if (!err)
		return TCP_CLOSE;
	return rec->first_fin == FLOW_FIN_REMOTE ? TCP_CLOSE_WAIT : TCP_ESTABLISHED;
}

/*
 * The record of an end that nobody saw; its counters stand in the closed socket. The time
 * is that of the last packet or timer, on the monotonic clock and in microseconds. The
 * program may have taken the error already, but that of a timeout leaves a trace.
 */
static __always_inline void make_late(struct flow_record *rec, const struct open_socket *open, struct tcp_sock *tp, __u64 now)
{
	const int probe = 1;
	__u64 asleep = now - bpf_ktime_get_ns(), at = READ(tp, tcp_mstamp) * 1000 + asleep;
	__u16 err = rec->sk_err;

	if (!err && (READ(tp, inet_conn.icsk_retransmits) || READ(tp, inet_conn.icsk_probes_out)))
		err = ETIMEDOUT;
	rec->end_ns = at > rec->start_ns && at < now ? at : now;
	rec->last_state = concluded_state(rec, (struct sock *)tp, err);
	read_socket(rec, tp, 1); /* what was sent depends on the state */
	read_open(rec, open);
	rec->sk_err = err;
	rec->kind = rec->flags & FLOW_FLAG_ESTABLISHED ? FLOW_KIND_CLOSED : FLOW_KIND_FAILED;
	rec->flags |= FLOW_FLAG_REPORTED;
}

/* Only what was read: its slot may be another's by now. */
static __always_inline void remove_unseen(struct open_socket *open, const struct flow_record *rec, enum flow_counter how)
{
	__u64 id = rec->opened_ns | OPEN_REPORTED | OPEN_WALKED;

	if (__sync_val_compare_and_swap(&open->id_state, id, id | OPEN_CLOSING) != id)
		return;
	remove_open(rec->sock, open);
	count(how);
}

static __always_inline void note_due(__u64 due)
{
	if (due < walk_next_due)
		walk_next_due = due;
}

/*
 * A walk costs the same however few are due. So where the interval is long beside a walk's
 * second, all are due at the same moments, the multiples of the interval: a connection's
 * first interval is shorter for that, or longer by that second.
 */
static __always_inline __u64 due_after(__u64 now, __u64 every)
{
	__u64 second = 1000000000ULL;

	if (every < 20 * second)
		return now + every;
	return (now + second) / every * every + every;
}

/*
 * Nobody saw this end: the socket is closed or gone while its entry is not marked. Some
 * kernels keep programs out of softirqs that interrupt a protected process; held_by_call
 * spares us the common reason. Entries younger than a second are left alone, because the
 * tracepoint of a new connection fires before its state is stored. The same order makes
 * sure that no CLOSE is under way: CLOSING would be set. What closed after capture was
 * detached, before the last walk, is not missed but later than our watch.
 */
static __always_inline void end_unseen(struct seq_file *seq, struct flow_record *rec, struct open_socket *open, struct tcp_sock *tp,
				       __u8 state, __u64 cookie, __u64 now)
{
	const int probe = 1;

	note_due(now);
	if (now < rec->opened_ns + 1000000000ULL)
		return;
	if (cookie == rec->sock_cookie && state == TCP_CLOSE) {
		make_late(rec, open, tp, now);
		cookie = READ(tp, inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter);
	}
	if (cookie != rec->sock_cookie || state != TCP_CLOSE) {
		if (!walk_all)
			remove_unseen(open, rec, FLOW_COUNTER_ENDS_MISSED);
		return;
	}
	if (bpf_seq_write(seq, rec, sizeof(*rec)))
		return;
	count(FLOW_COUNTER_ENDS);
	remove_unseen(open, rec, FLOW_COUNTER_ENDS_LATE);
}

/*
 * A connection is due: its record goes to the reader of the iterator.
 *
 * Counters in records are running totals, and user space turns them into deltas:
 * so nothing has to be updated together with a reading, a reading that cannot be
 * written (full buffer; the kernel shows the entry again) changes nothing, and the
 * sum over a connection's records is exact if the end's record comes after the
 * walk's. That order is what id_state guarantees. The walk sets REPORTED, reads,
 * and gives up unless CLOSING is still clear and the identity unchanged; CLOSE sets
 * CLOSING, then reads. Both are full barriers. So a walk's record that went out was
 * read before the end's, and the end's carries REPORTED. The entry's memory may be
 * used again for another socket meanwhile: its opened_ns, in the same word, differs.
 */
static __always_inline void report(struct seq_file *seq, struct open_socket *open, struct tcp_sock *tp, __u64 now, const int probe)
{
	__u64 id = mark(open, OPEN_REPORTED | OPEN_WALKED) | OPEN_REPORTED | OPEN_WALKED;
	struct sock *sk = (struct sock *)tp;
	struct flow_record rec = {};
	__u64 cookie, every;
	__u8 state;

	rec.end_ns = now;
	read_socket(&rec, tp, probe);
	read_open(&rec, open);
	barrier(); /* whose these counters are is read after them */
	rec.kind = FLOW_KIND_ACTIVE;
	rec.flags |= FLOW_FLAG_REPORTED;
	if (rec.role == FLOW_ROLE_SERVER && READ(sk, sk_socket))
		rec.flags |= FLOW_FLAG_ACCEPTED;
	state = READ(sk, __sk_common.skc_state);
	cookie = READ(sk, __sk_common.skc_cookie.counter);
	rec.last_state = state;
	/* closing or another socket by now, or in the gap of received_moved */
	if (__sync_fetch_and_or(&open->id_state, 0) != id || (id & OPEN_CLOSING)) {
		count(FLOW_COUNTER_ACTIVE_RACED);
		return;
	}
	if (cookie != rec.sock_cookie || state == TCP_CLOSE || state == 0) {
		end_unseen(seq, &rec, open, tp, state, cookie, now);
		return;
	}
	if (received_moved(&rec, tp, probe)) {
		note_due(now);
		count(FLOW_COUNTER_ACTIVE_RACED);
		return;
	}
	if (bpf_seq_write(seq, &rec, sizeof(rec)))
		return;
	every = rec.flags & FLOW_FLAG_ESTABLISHED ? active_every_ns : syn_every_ns;
	open->due_ns = due_after(now, every);
	note_due(open->due_ns);
	count(FLOW_COUNTER_ACTIVE);
}

/* The walk: one call per slot of open_slots and per entry of open_sockets. */
SEC("iter/bpf_map_elem")
int report_open_sockets(struct bpf_iter__bpf_map_elem *ctx)
{
	struct open_socket *open = ctx->value;
	__u64 sock, now;

	if (!open)
		return 0;
	sock = open->sock;
	if (!sock || sock == SLOT_TAKEN)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (open->id_state & OPEN_CLOSING)
		return 0;
	if (now < open->due_ns && !walk_all) {
		mark(open, OPEN_WALKED);
		note_due(open->due_ns);
		return 0;
	}
	/* the address is but a number; loads take a quarter of what checked copies take */
	if (bpf_rdonly_cast)
		report(ctx->meta->seq, open, bpf_rdonly_cast((void *)sock, type_id(struct tcp_sock)), now, 0);
	else
		report(ctx->meta->seq, open, (struct tcp_sock *)sock, now, 1);
	return 0;
}
