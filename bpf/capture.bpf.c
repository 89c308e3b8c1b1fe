//go:build ignore
/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Capture of TCP connections by their state transitions.
 *
 * open_sockets holds what only a transition tells (role, start, owner, round trip
 * before the FIN); the socket itself holds the counters, which are read once, at
 * CLOSE, or when the walk asks. Nothing runs per packet.
 */
#include "kernel.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Settings, fixed at load. */
const volatile __u32 scope_netns;     /* inode number of the only network namespace to see; 0: all */
const volatile __u64 fill_mark_bytes; /* wake the reader when so much waits in the ring */
const volatile __u64 active_first_ns, active_every_ns; /* active records of an established connection */
const volatile __u64 syn_first_ns, syn_every_ns;       /* and of one that waits in SYN_SENT */

/* The earliest due time the running walk has passed over. Set high by user space
 * before a walk and read after it; there is one walk at a time. */
__u64 walk_next_due;

/*
 * Open connections by socket address. Written by the tracepoint, read by it and by
 * the walk. Not preallocated: 262,144 entries would pin 38 MB on an idle host; the
 * price is 0.2 us a connection and an allocation that can fail, which is counted.
 * Not an LRU: that evicts exactly the long-lived connections.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct open_socket);
} open_sockets SEC(".maps");

/* Who called listen, by address and port; of several (SO_REUSEPORT) the latest. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct listener_key);
	__type(value, struct listener);
} listeners SEC(".maps");

/* struct flow_record of closed and failed connections; read by exporter/ring. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/* One struct of counters a CPU; read by exporter/probe. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow_counters);
} counters SEC(".maps");

/* Keep these types in BTF although they are no map's value. */
const struct flow_record *const btf_flow_record;
const enum flow_counter *const btf_flow_counter;

/* A softirq can interrupt a program on its own CPU, so even per-CPU counters are added to atomically. */
static __always_inline void count(enum flow_counter which)
{
	__u32 zero = 0;
	struct flow_counters *c = bpf_map_lookup_elem(&counters, &zero);

	if (c)
		__sync_fetch_and_add(&c->n[which], 1);
}

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

static __always_inline void insert_open(struct sock *sk, struct open_socket *open)
{
	__u64 key = (__u64)sk;
	int err; /* before 6.6 the upper half of the return value is noise */

	open->sock_cookie = bpf_get_socket_cookie(sk);
	err = bpf_map_update_elem(&open_sockets, &key, open, BPF_ANY);
	if (!err)
		count(FLOW_COUNTER_OPENED);
	else if (err == -7) /* E2BIG */
		count(FLOW_COUNTER_MAP_FULL);
	else
		count(FLOW_COUNTER_MAP_NOMEM);
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

	read_current(&open.owner);
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
	if (open->role == FLOW_ROLE_SERVER) {
		if (sk->sk_socket)
			open->flags |= FLOW_FLAG_ACCEPTED;
		if (newstate != TCP_CLOSE_WAIT)
			read_current(&open->owner);
	}
	if (open->first_fin)
		return;
	open->srtt_fin_us = tp->srtt_us >> 3;
	open->retrans_fin = tp->total_retrans;
	open->first_fin = newstate == TCP_CLOSE_WAIT ? FLOW_FIN_REMOTE : FLOW_FIN_LOCAL;
}

/* Wake the reader only while the fill mark is being crossed. The window of eight
 * records is for other CPUs whose reservations fall between ours and the query. */
static __always_inline __u64 wakeup_flag(void)
{
	__u64 waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	__u64 step = sizeof(struct flow_record) + 8;

	if (waiting >= fill_mark_bytes && waiting < fill_mark_bytes + 8 * step)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* An end that was not in open_sockets: opened before us, or the table was full. */
static __always_inline void read_unobserved(struct flow_record *rec, int oldstate)
{
	rec->opened_ns = 0;
	rec->start_ns = rec->end_ns;
	rec->sock_cookie = 0;
	rec->cgroup_id = 0;
	rec->pid = 0;
	rec->uid = 0;
	__builtin_memset(rec->comm, 0, sizeof(rec->comm));
	rec->connect_us = 0;
	rec->retrans_syn = 0;
	rec->retrans_closing = 0;
	rec->first_fin = FLOW_FIN_NONE;
	/* before ESTABLISHED the state alone tells the side */
	rec->role = oldstate == TCP_SYN_SENT ? FLOW_ROLE_CLIENT :
		    oldstate == TCP_SYN_RECV ? FLOW_ROLE_SERVER :
					       FLOW_ROLE_UNKNOWN;
	rec->flags = oldstate == TCP_SYN_SENT || oldstate == TCP_SYN_RECV ? 0 : FLOW_FLAG_ESTABLISHED;
}

static __always_inline void emit_end(struct sock *sk, struct tcp_sock *tp, struct open_socket *open, int oldstate,
				     __u16 reported)
{
	struct inet_connection_sock *icsk = (struct inet_connection_sock *)tp;
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
		read_unobserved(rec, oldstate);
		rec->sock_cookie = bpf_get_socket_cookie(sk);
		count(FLOW_COUNTER_ENDS_UNOBSERVED);
	}
	if ((sk->__sk_common.skc_flags & (1UL << SOCK_KEEPOPEN)) && icsk->icsk_probes_out && !icsk->icsk_retransmits)
		rec->flags |= FLOW_FLAG_KEEPALIVE;
	rec->kind = rec->flags & FLOW_FLAG_ESTABLISHED ? FLOW_KIND_CLOSED : FLOW_KIND_FAILED;
	count(FLOW_COUNTER_SUBMITTED);
	bpf_ringbuf_submit(rec, wakeup_flag());
}

/* Any to CLOSE. CLOSING is set before the counters are read: see report_open_socket. */
static __always_inline void close_socket(struct sock *sk, int oldstate)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u64 key = (__u64)sk;
	struct open_socket *open;
	__u16 reported = 0;

	if (!tp)
		return;
	count(FLOW_COUNTER_ENDS);
	open = bpf_map_lookup_elem(&open_sockets, &key);
	if (open && (__sync_fetch_and_or(&open->id_state, OPEN_CLOSING) & OPEN_REPORTED))
		reported = FLOW_FLAG_REPORTED;
	emit_end(sk, tp, open, oldstate, reported);
	if (open && !bpf_map_delete_elem(&open_sockets, &key))
		count(FLOW_COUNTER_REMOVED);
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
	if (!in_scope(sk))
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

/* A reset came in for a socket; it closes right after. Argument: sock. */
SEC("tp_btf/tcp_receive_reset")
int tcp_receive_reset(__u64 *ctx)
{
	struct sock *sk = (struct sock *)ctx[0];
	__u64 key = (__u64)sk;
	struct open_socket *open;

	if (!in_scope(sk))
		return 0;
	open = bpf_map_lookup_elem(&open_sockets, &key);
	if (open)
		open->flags |= FLOW_FLAG_RST_RECEIVED;
	return 0;
}

/*
 * The walk reads while the socket lives on. Between counting a FIN as a byte and
 * saying so (SOCK_DONE) the kernel takes some 100 ns; a reading from that gap would
 * be one byte too high for ever. So look again, about a microsecond later.
 */
static __always_inline int received_moved(struct flow_record *rec, struct tcp_sock *tp)
{
	struct sock *sk = (struct sock *)tp;
	const int probe = 1;
	__u64 received = READ(tp, bytes_received);

	if (received && (READ(sk, __sk_common.skc_flags) & (1UL << SOCK_DONE)))
		received--;
	return received != rec->rx_bytes;
}

/*
 * A socket that is gone or closed while its entry is not marked: its CLOSE was not
 * seen (the kernel skips a program that a softirq would nest in itself on one CPU).
 * Entries younger than a second are left alone, because the tracepoint of a
 * new connection fires before its state is stored.
 */
static __always_inline void drop_missed(__u64 id, __u64 now, __u64 key)
{
	if (now < id + 1000000000ULL)
		return;
	if (bpf_map_delete_elem(&open_sockets, &key))
		return;
	count(FLOW_COUNTER_REMOVED);
	count(FLOW_COUNTER_ENDS_MISSED);
}

static __always_inline void note_due(__u64 due)
{
	if (due < walk_next_due)
		walk_next_due = due;
}

/*
 * The walk: one call per entry of open_sockets; records that are due go to the
 * reader of the iterator.
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
SEC("iter/bpf_map_elem")
int report_open_sockets(struct bpf_iter__bpf_map_elem *ctx)
{
	struct open_socket *open = ctx->value;
	__u64 *keyp = ctx->key;
	struct flow_record rec = {};
	struct tcp_sock *tp;
	__u64 id, key, now, cookie = 0, every;
	__u8 state = 0;

	if (!open || !keyp)
		return 0;
	now = bpf_ktime_get_boot_ns();
	if (open->id_state & OPEN_CLOSING)
		return 0;
	if (now < open->due_ns) {
		note_due(open->due_ns);
		return 0;
	}
	key = *keyp;
	tp = (struct tcp_sock *)key;
	id = __sync_fetch_and_or(&open->id_state, OPEN_REPORTED) | OPEN_REPORTED;

	rec.end_ns = now;
	read_socket(&rec, tp, 1);
	read_open(&rec, open);
	rec.kind = FLOW_KIND_ACTIVE;
	rec.flags |= FLOW_FLAG_REPORTED;
	{
		struct sock *sk = (struct sock *)tp;
		const int probe = 1;

		if (rec.role == FLOW_ROLE_SERVER && READ(sk, sk_socket))
			rec.flags |= FLOW_FLAG_ACCEPTED;
		bpf_probe_read_kernel(&state, sizeof(state), (const void *)&sk->__sk_common.skc_state);
		bpf_probe_read_kernel(&cookie, sizeof(cookie), &sk->__sk_common.skc_cookie.counter);
	}
	rec.last_state = state;
	/* closing or another socket by now, or in the gap of received_moved */
	if (__sync_fetch_and_or(&open->id_state, 0) != id || (id & OPEN_CLOSING)) {
		count(FLOW_COUNTER_ACTIVE_RACED);
		return 0;
	}
	if (cookie != rec.sock_cookie || state == TCP_CLOSE || state == 0) {
		note_due(now);
		drop_missed(rec.opened_ns, now, key);
		return 0;
	}
	if (received_moved(&rec, tp)) {
		note_due(now);
		count(FLOW_COUNTER_ACTIVE_RACED);
		return 0;
	}
	if (bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec)))
		return 0;
	every = rec.flags & FLOW_FLAG_ESTABLISHED ? active_every_ns : syn_every_ns;
	open->due_ns = now + every;
	note_due(now + every);
	count(FLOW_COUNTER_ACTIVE);
	return 0;
}
