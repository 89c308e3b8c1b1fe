//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Capture of TCP connections by their state transitions.
 *
 * open_sockets holds what only a transition tells (role, start, owner, round trip
 * before the FIN); the socket itself holds the counters, which are read once, at
 * CLOSE, or when the walk asks. Nothing runs per packet.
 */
#include "connect.h"
#include "end.h"
#include "inventory.h"
#include "open.h"
#include "walk.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Every state change of every socket; arguments: sock, old state, new state. */
SEC("tp_btf/inet_sock_set_state")
int inet_sock_set_state(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	int oldstate = (int)ctx[1], newstate = (int)ctx[2];
	struct open_socket *open;
	__u64 key = (__u64)sk;

	/* the states that tell us nothing cost nothing more */
	if (newstate == TCP_FIN_WAIT2 || newstate == TCP_CLOSING || newstate == TCP_TIME_WAIT)
		return 0;
	if (!in_scope(sk, 0))
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
	open = bpf_map_lookup_elem(&open_sockets, &key);
	if (!open && oldstate == TCP_SYN_RECV) {
		open_server(sk);
		if (newstate == TCP_ESTABLISHED)
			return 0;
		open = bpf_map_lookup_elem(&open_sockets, &key);
	}
	if (!open)
		return 0;
	if (newstate == TCP_ESTABLISHED)
		established(sk, open);
	else
		finish(sk, open, newstate);
	return 0;
}

/* A reset came in for a socket, or the kernel makes one; it closes right after. Argument: sock. */
SEC("tp_btf/tcp_receive_reset")
int tcp_receive_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	__u64 key = (__u64)sk;
	struct open_socket *open;

	if (!in_scope(sk, 0))
		return 0;
	open = bpf_map_lookup_elem(&open_sockets, &key);
	if (open)
		open->flags |= reset_for_late_data(sk, open) ? FLOW_FLAG_RST_SENT : FLOW_FLAG_RST_RECEIVED;
	return 0;
}
