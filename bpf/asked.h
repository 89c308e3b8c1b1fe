/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * What the program asked for, where the kernel connects to something else: a program on a
 * cgroup connect hook (a load balancer without a proxy, such as Cilium's) has put a real
 * server in the place of a virtual address. The arguments of connect(2) still say what it
 * was. A connect hook of our own would cost as much, take CAP_NET_ADMIN, and see what was
 * asked for only where it runs before all others, which no kernel promises.
 *
 * Not seen: what sendto with MSG_FASTOPEN, io_uring and 32-bit programs ask for.
 */
#pragma once

#include "read.h"

/* What a program gives to connect; of the family's form only what both share is here. */
struct sockaddr_in {
	__u16 family;
	__be16 port;
	__be32 addr;
};

struct sockaddr_in6 {
	__u16 family;
	__be16 port;
	__be32 flowinfo;
	__u32 addr[4];
};

struct connect_args {
	__u64 call; /* number of the system call */
	__u64 fd;
	__u64 addr;
	__u64 len;
};

/* The arguments of the system call that the task is in; whether that is connect. */
static __always_inline int read_args(struct connect_args *args, struct task_struct *task, const int probe)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);

	if (field_exists(regs->di)) {
		args->call = READ(regs, orig_ax);
		args->fd = READ(regs, di);
		args->addr = READ(regs, si);
		args->len = READ(regs, dx);
		return args->call == 42; /* __NR_connect */
	} else {
		struct pt_regs___arm64 *arm = (void *)regs;

		args->call = (__u32)READ(arm, syscallno);
		args->fd = READ(arm, orig_x0);
		args->addr = READ(arm, regs[1]);
		args->len = READ(arm, regs[2]);
		return args->call == 203;
	}
}

/* Where the program wanted to go. 0 if it is no address of the socket's family. */
static __always_inline int read_asked(__u8 *addr, __u16 *port, const struct connect_args *args, __u16 family)
{
	struct sockaddr_in6 to = {};
	__u32 size = args->len < sizeof(to) ? sizeof(struct sockaddr_in) : sizeof(to);
	__u32 *words = (__u32 *)addr;

	if (args->len < sizeof(struct sockaddr_in) || bpf_probe_read_user(&to, size, (const void *)args->addr))
		return 0;
	*port = ntohs(to.port);
	if (to.family != family)
		return 0;
	if (family == AF_INET) {
		map_ipv4(addr, to.flowinfo); /* at the place of sockaddr_in's address */
		return 1;
	}
	if (family != AF_INET6 || size < sizeof(to))
		return 0;
#pragma unroll
	for (int i = 0; i < 4; i++)
		words[i] = to.addr[i];
	return 1;
}

/* The unspecified address stands for the own host. */
static __always_inline int is_unspecified(const __u8 *addr)
{
	const __u32 *words = (const __u32 *)addr;

	return !words[0] && !words[1] && (!words[2] || words[2] == 0xffff0000) && !words[3];
}

/* CLOSE to SYN_SENT: keeps what was asked for where the socket goes elsewhere. */
static __always_inline void note_asked(struct open_socket *open, struct sock *sk)
{
	__u8 local[16] __attribute__((aligned(8))), remote[16] __attribute__((aligned(8)));
	__u64 *asked = (__u64 *)open->asked_addr;
	const __u64 *gone = (const __u64 *)remote;
	struct connect_args args;
	__u16 port = 0;

	if (!read_args(&args, bpf_get_current_task_btf(), 0))
		return;
	if (!read_asked(open->asked_addr, &port, &args, sk->__sk_common.skc_family))
		return;
	read_addresses(local, remote, sk, 0);
	if ((asked[0] == gone[0] && asked[1] == gone[1] && port == ntohs(sk->__sk_common.skc_dport)) ||
	    is_unspecified(open->asked_addr)) {
		asked[0] = asked[1] = 0;
		return;
	}
	open->asked_port = port;
}
