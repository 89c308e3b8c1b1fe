/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Which sockets are seen. A neighbour's transition must cost next to nothing. */
#pragma once

#include "follow.h"

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

/* The cgroup the socket was made in; a server's socket was made with its listener. */
static __always_inline __u64 socket_cgroup(struct sock *sk, const int probe)
{
	struct cgroup *cgrp;
	struct kernfs_node *kn;

	if (!field_exists(sk->sk_cgrp_data))
		return 0;
	cgrp = READ(sk, sk_cgrp_data.cgroup);
	if (!cgrp)
		return 0;
	kn = READ(cgrp, kn);
	return kn ? READ(kn, id) : 0;
}

/* Deeper cgroups than this are outside every scope; real ones are under 12 deep. */
#define CGROUP_DEPTH 24

/* id of the ancestor of cgrp at a level of its path from the root. */
static __always_inline __u64 ancestor_id(struct cgroup *cgrp, int level)
{
	const char *at = (const char *)cgrp + level * sizeof(__u64);
	struct cgroup *ancestor = 0;
	struct kernfs_node *kn;
	__u64 id = 0;
	const int probe = 1;

	if (!field_exists(cgrp->ancestors)) {
		at += field_offset(((struct cgroup___ids *)cgrp)->ancestor_ids);
		bpf_probe_read_kernel(&id, sizeof(id), at);
		return id;
	}
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor), at + field_offset(cgrp->ancestors));
	if (!ancestor)
		return 0;
	kn = READ(ancestor, kn);
	return kn ? READ(kn, id) : 0;
}

static __always_inline int below_scope(struct cgroup *cgrp)
{
	const int probe = 1;
	int level = READ(cgrp, level);

	for (int i = 0; i < CGROUP_DEPTH; i++) {
		if (i > level)
			return 0;
		if (ancestor_id(cgrp, i) == scope_cgroup)
			return 1;
	}
	return 0;
}

/*
 * Whether the socket was made in scope_cgroup or below. Decided once for a cgroup, which
 * never gets another parent, and remembered by its id, which is never used again: so a
 * neighbour costs one compare. Two cgroups that share a slot only cost each other time.
 */
static __always_inline int in_cgroup(struct sock *sk, const int probe)
{
	__u64 id = socket_cgroup(sk, probe), known;
	__u32 slot = id % DECIDED_CGROUPS;
	int inside;

	if (!id)
		return 0;
	known = decided_cgroups[slot];
	if (known >> 1 == id)
		return known & 1;
	inside = below_scope(READ(sk, sk_cgrp_data.cgroup));
	decided_cgroups[slot] = id << 1 | inside;
	return inside;
}

static __always_inline int in_scope(struct sock *sk, const int probe)
{
	if (scope_netns) {
		struct net *net = READ(sk, __sk_common.skc_net.net);

		if (READ(net, ns.inum) != scope_netns)
			return 0;
	}
	if (scope_cgroup && !in_cgroup(sk, probe))
		return 0;
	/* An MPTCP socket fires the same tracepoint and is no tcp_sock; its subflows are TCP. */
	return READ(sk, sk_protocol) == IPPROTO_TCP;
}
