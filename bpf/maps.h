/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/* Settings, maps and counters of the kernel programs. */
#pragma once

#include "kernel.h"
#include "record.h"

/* Settings, fixed at load. */
const volatile __u32 scope_netns; /* inode number of the only network namespace to see; 0: all */
const volatile __u64 scope_cgroup; /* id of the only cgroup to see, with all below it; 0: all */
const volatile __u32 watch_connects; /* failed_connect is attached */
const volatile __u64 own_comm[2]; /* the exporter's, as in task_struct */
const volatile __u32 tick_us;	  /* a jiffy */
const volatile __u32 slots_shift; /* 32 less the bits of an index of open_slots; 0: it is not used */
const volatile __u64 fill_mark_bytes; /* wake the reader when so much waits in the ring */
const volatile __u64 active_first_ns; /* active records of an established connection */
const volatile __u64 syn_first_ns, syn_every_ns;       /* and of one that waits in SYN_SENT */

/* Set by user space when all programs are attached, and cleared before they are detached:
 * half of them would see the start of a connection and not its end. */
__u32 capturing;

/* The same as active_first_ns after the first; may be changed at any time. */
__u64 active_every_ns = 30000000000ULL;

/* Set by the reader when it has found the ring empty: it does not look again until it is woken. */
__u32 reader_rests;

/* What in_cgroup has decided: id << 1 | inside. */
#define DECIDED_CGROUPS 256
__u64 decided_cgroups[DECIDED_CGROUPS];

/* The earliest due time the running walk has passed over. Set high by user space
 * before a walk and read after it; there is one walk at a time. */
__u64 walk_next_due;

/* How many entries open_sockets has, or is about to have. */
__u64 hashed_sockets;

/*
 * Open connections, each at the place that its socket's address gives; see follow.h.
 * 128 bytes each, that are there on an idle host too. Mapped, so that they lie in whole
 * cache lines.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct open_socket);
} open_slots SEC(".maps");

/*
 * Open connections whose place in open_slots is another's, by socket address. Not
 * preallocated: 262,144 entries would pin 38 MB on an idle host; the price is an
 * allocation that can fail, which is counted. Not an LRU: that evicts exactly the
 * long-lived connections.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct open_socket);
} open_sockets SEC(".maps");

/* Sockets that listen, by their address. Read by report_listeners. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct listen_socket);
} listen_sockets SEC(".maps");

/* The same by address and port, for their children; of several (SO_REUSEPORT) the latest's owner. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct listener_key);
	__type(value, struct listener);
} listeners SEC(".maps");

/*
 * Attempts that failed after their SYN and have a record, by socket; only kept where
 * failed_connect is attached, which must not record them again. An LRU, because most
 * programs close the socket and never ask; an entry evicted too early costs a second record.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64); /* socket cookie */
} recorded_failures SEC(".maps");

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

/* One struct of counts a CPU, of connections over which no walk has passed; read by exporter/probe. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct young_counts);
} young_sockets SEC(".maps");

/* Keep these types in BTF although they are no map's value. */
const struct flow_record *const btf_flow_record;
const struct listener_record *const btf_listener_record;
const enum flow_counter *const btf_flow_counter;

/* A softirq can interrupt a program on its own CPU, so even per-CPU counters are added to atomically. */
static __always_inline void count(enum flow_counter which)
{
	__u32 zero = 0;
	struct flow_counters *c = bpf_map_lookup_elem(&counters, &zero);

	if (c)
		__sync_fetch_and_add(&c->n[which], 1);
}

/* A connection was opened, or: it ended, or a walk has passed over it (by -1). */
static __always_inline void count_young(__u64 id_state, __s64 by)
{
	__u32 zero = 0, second = OPENED_NS(id_state) >> 30;
	struct young_counts *young = bpf_map_lookup_elem(&young_sockets, &zero);

	if (young)
		__sync_fetch_and_add(&young->n[second % YOUNG_SECONDS], by);
}
