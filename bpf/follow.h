/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The table of the connections that are followed: an entry a socket, found by its address.
 *
 * Most connections are short and few are open at once. So an entry lies in open_slots, at
 * the one place that the address gives, or in the hash table open_sockets if somebody else
 * is there. A hash table's element costs more: the kernel takes locks and memory for it
 * (docs/benchmarks.md has the difference).
 *
 * Only a socket's own transitions and the inventory add its entry, all of them under its
 * lock, and it has one entry at most. The walk on another CPU may meet one at any moment:
 * it reads sock, then marks id_state, which tells it whether what it reads is whole. Who
 * sets OPEN_CLOSING, and nobody else, removes the entry. An entry that is closing is not
 * found any more.
 */
#pragma once

#include "maps.h"

/* sock while a slot is being filled; no socket has this address. */
#define SLOT_TAKEN 1

static __always_inline struct open_socket *slot_of(__u64 sock)
{
	__u32 at;

	if (!slots_shift)
		return 0;
	asm volatile("%0 = %1" : "=w"(at) : "w"((__u32)sock)); /* a pointer; its copied half is a number to the verifier */
	at = at * 0x9e3779b1U >> slots_shift; /* Fibonacci hashing: the upper bits depend on all bits */
	return bpf_map_lookup_elem(&open_slots, &at);
}

/* The entry of a socket, 0 if it has none. */
static __always_inline struct open_socket *find_open(__u64 sock)
{
	struct open_socket *open = slot_of(sock);

	if (open && open->sock == sock && !(open->id_state & OPEN_CLOSING))
		return open;
	if (slots_shift && !hashed_sockets)
		return 0;
	open = bpf_map_lookup_elem(&open_sockets, &sock);
	return open && !(open->id_state & OPEN_CLOSING) ? open : 0;
}

/* Fills a slot that is taken. It has its sock last: until then the walk passes it over. */
static __always_inline void fill(struct open_socket *slot, const struct open_socket *open)
{
	__builtin_memcpy(&slot->sock_cookie, &open->sock_cookie, sizeof(*open) - 2 * sizeof(__u64));
	__sync_lock_test_and_set(&slot->id_state, open->id_state);
	__sync_lock_test_and_set(&slot->sock, open->sock);
}

/* Makes the entry of a socket that has none. 0, or an error of bpf_map_update_elem (before 6.6 its upper half is noise). */
static __always_inline int add_open(const struct open_socket *open)
{
	struct open_socket *slot = slot_of(open->sock);
	int err;

	if (slot && !__sync_val_compare_and_swap(&slot->sock, 0, SLOT_TAKEN)) {
		fill(slot, open);
		return 0;
	}
	__sync_fetch_and_add(&hashed_sockets, 1); /* before it can be looked for */
	err = bpf_map_update_elem(&open_sockets, &open->sock, open, BPF_NOEXIST);
	if (err)
		__sync_fetch_and_add(&hashed_sockets, -1);
	return err;
}

/* Removes an entry; only for who has set OPEN_CLOSING. */
static __always_inline void remove_open(__u64 sock, struct open_socket *open)
{
	if (open == slot_of(sock))
		__sync_lock_test_and_set(&open->sock, 0);
	else if (!bpf_map_delete_elem(&open_sockets, &sock))
		__sync_fetch_and_add(&hashed_sockets, -1);
	else
		return;
	count(FLOW_COUNTER_REMOVED);
}

/* Marks an entry and returns what it was before. Of those that are young one marker counts them out. */
static __always_inline __u64 mark(struct open_socket *open, __u64 flag)
{
	__u64 before = __sync_fetch_and_or(&open->id_state, flag);

	if (!(before & (OPEN_CLOSING | OPEN_WALKED)))
		count_young(before, -1);
	return before;
}
