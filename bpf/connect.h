/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * Attempts that fail before their SYN: no route, forbidden by a policy, no memory. The
 * socket never leaves CLOSE, so that only the system call's result tells.
 *
 * Not seen: attempts by sendto with MSG_FASTOPEN, by io_uring, by 32-bit programs and of
 * MPTCP sockets.
 */
#pragma once

#include "asked.h"
#include "end.h"

/* The socket behind a file descriptor of the task, if it is one that could be TCP's. */
static __always_inline struct sock *socket_of(struct task_struct *task, __u64 fd)
{
	const int probe = 1;
	struct files_struct *files = READ(task, files);
	struct fdtable *table = READ(files, fdt);
	struct file *file = 0, **at = READ(table, fd);
	struct socket *socket;
	struct inode *inode;

	if (fd >= READ(table, max_fds))
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), at + fd);
	if (!file)
		return 0;
	inode = READ(file, f_inode);
	if ((READ(inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	socket = READ(file, private_data);
	if (READ(socket, type) != SOCK_STREAM)
		return 0;
	return READ(socket, sk);
}

/* A failure of which the state tracepoint has not told. */
static __always_inline int is_new_failure(struct sock *sk)
{
	const int probe = 1;
	__u64 key = (__u64)sk;
	__u64 *cookie = bpf_map_lookup_elem(&recorded_failures, &key);

	if (!cookie)
		return 1;
	if (*cookie != (__u64)READ(sk, __sk_common.skc_cookie.counter))
		return 1; /* of a socket that had this address before */
	bpf_map_delete_elem(&recorded_failures, &key);
	return 0;
}

static __always_inline void read_never_sent(struct flow_record *rec, struct sock *sk, int error)
{
	__u8 remote[16] __attribute__((aligned(4)));
	__u32 *local = (__u32 *)rec->local_addr;
	const int probe = 1;

	rec->opened_ns = rec->end_ns = rec->start_ns = bpf_ktime_get_boot_ns();
	rec->sock = (__u64)sk;
	rec->sock_cookie = READ(sk, __sk_common.skc_cookie.counter);
	read_addresses(rec->local_addr, remote, sk, 1);
	if (!local[0] && !local[3]) /* not bound: no address, rather than a mapped nothing */
		__builtin_memset(rec->local_addr, 0, sizeof(rec->local_addr));
	read_place(rec, sk, 1);
	rec->local_port = READ(sk, __sk_common.skc_num);
	rec->sk_err = error;
	rec->kind = FLOW_KIND_FAILED;
	rec->role = FLOW_ROLE_CLIENT;
	rec->flags = FLOW_FLAG_START_OBSERVED;
	rec->last_state = TCP_CLOSE;
	rec->tick_us = tick_us;
}

struct sys_exit_args {
	__u64 common;
	__s64 nr;
	__s64 ret;
};

/* The return of every connect of the host; successful ones leave at once. */
SEC("tracepoint/syscalls/sys_exit_connect")
int failed_connect(struct sys_exit_args *ctx)
{
	struct connect_args args;
	struct flow_record rec = {};
	struct flow_owner owner = {};
	struct task_struct *task;
	const int probe = 1;
	struct sock *sk;

	if (ctx->ret >= 0 || ctx->ret == -EINPROGRESS || ctx->ret == -EISCONN || ctx->ret == -EAFNOSUPPORT)
		return 0;
	task = bpf_get_current_task_btf();
	read_args(&args, task, 1);
	sk = socket_of(task, args.fd);
	if (!sk || READ(sk, __sk_common.skc_state) != TCP_CLOSE || !in_scope(sk, 1) || !is_new_failure(sk))
		return 0;
	if (!read_asked(rec.remote_addr, &rec.remote_port, &args, READ(sk, __sk_common.skc_family)))
		return 0;
	read_never_sent(&rec, sk, -ctx->ret);
	if (read_current(&owner)) {
		rec.cgroup_id = owner.cgroup_id;
		rec.pid = owner.pid;
		rec.uid = owner.uid;
		__builtin_memcpy(rec.comm, owner.comm, sizeof(rec.comm));
	}
	count(FLOW_COUNTER_ENDS);
	count(FLOW_COUNTER_ENDS_UNSENT);
	if (bpf_ringbuf_output(&events, &rec, sizeof(rec), wakeup_flag()))
		count(FLOW_COUNTER_RING_FULL);
	else
		count(FLOW_COUNTER_SUBMITTED);
	return 0;
}
