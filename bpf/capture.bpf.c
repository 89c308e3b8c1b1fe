//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Capture of TCP connections by their state transitions.
 *
 * open_slots and open_sockets hold what only a transition tells (role, start, owner, round
 * trip before the FIN); the socket itself holds the counters, which are read once, at
 * CLOSE, or when the walk asks. Nothing runs per packet.
 */
#include "connect.h"
#include "end.h"
#include "inventory.h"
#include "open.h"
#include "walk.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/*
 * The kernel does not run a program while it runs already on the same CPU. A softirq that
 * interrupts one can carry many connections, and all that became of them would go unseen.
 * So each tracepoint has two programs: one for sockets that a system call holds (it can be
 * interrupted), one for sockets that nobody holds: softirqs, which do not interrupt each
 * other, and the few paths of a call that keep them off (the end of __tcp_close, for one).
 * sk_lock.owned says which and cannot change here (lock_sock_nested, sock_owned_by_user).
 */
static __always_inline int held_by_call(struct sock *sk)
{
	return sk->sk_lock.owned;
}

/* Every state change of every socket. */
static __always_inline int state_changed(struct sock *sk, int oldstate, int newstate)
{
	struct open_socket *open = 0;

	/* the states that tell us nothing cost nothing more */
	if (newstate == TCP_FIN_WAIT2 || newstate == TCP_CLOSING || newstate == TCP_TIME_WAIT)
		return 0;
	if (!capturing || !in_scope(sk, 0))
		return 0;
	switch (newstate) {
	case TCP_SYN_SENT:
		open_client(sk);
		return 0;
	case TCP_LISTEN:
		listen_started(sk);
		return 0;
	case TCP_CLOSE:
		if (oldstate == TCP_LISTEN)
			listen_ended(sk);
		else if (oldstate != TCP_CLOSE)
			close_socket(sk, oldstate);
		return 0;
	case TCP_SYN_RECV:
		return 0;
	}
	/* a child that nobody has accepted is new: no client ends its handshake as an orphan */
	if (oldstate != TCP_SYN_RECV || newstate != TCP_ESTABLISHED || sk->sk_socket)
		open = find_open((__u64)sk);
	if (!open && oldstate == TCP_SYN_RECV) {
		if (open_server(sk) && newstate == TCP_ESTABLISHED)
			return 0;
		open = find_open((__u64)sk);
	}
	if (!open)
		return 0;
	if (newstate == TCP_ESTABLISHED)
		established(sk, open);
	else
		finish(sk, open, newstate);
	return 0;
}

/* Arguments: sock, old state, new state. */
SEC("tp_btf/inet_sock_set_state")
int state_in_call(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	return held_by_call(sk) ? state_changed(sk, (int)ctx[1], (int)ctx[2]) : 0;
}

SEC("tp_btf/inet_sock_set_state")
int state_in_softirq(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	return held_by_call(sk) ? 0 : state_changed(sk, (int)ctx[1], (int)ctx[2]);
}

/* A reset came in for a socket, or the kernel makes one; it closes right after. */
static __always_inline int reset_received(struct sock *sk)
{
	struct open_socket *open;

	if (!capturing || !in_scope(sk, 0))
		return 0;
	open = find_open((__u64)sk);
	if (open)
		open->flags |= reset_for_late_data(sk, open) ? FLOW_FLAG_RST_SENT : FLOW_FLAG_RST_RECEIVED;
	return 0;
}

/* Argument: sock. */
SEC("tp_btf/tcp_receive_reset")
int reset_in_call(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	return held_by_call(sk) ? reset_received(sk) : 0;
}

SEC("tp_btf/tcp_receive_reset")
int reset_in_softirq(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];

	return held_by_call(sk) ? 0 : reset_received(sk);
}
