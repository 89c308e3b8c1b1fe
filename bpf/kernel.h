/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The few kernel types and BPF helpers that capture.bpf.c touches. Structs name
 * only the members we read; preserve_access_index makes the loader move every
 * offset to where the running kernel's BTF says it is (CO-RE), so neither order
 * nor size here means anything. A generated vmlinux.h would be 3 MB.
 */
#pragma once

typedef unsigned char __u8;
typedef short __s16;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define barrier() asm volatile("" ::: "memory")
/* 1 where the running kernel has this member. */
#define field_exists(member) __builtin_preserve_field_info(member, 2)
/* Where a bit field lies (Clang's enum of preserve_field_info). */
#define field_offset(member) __builtin_preserve_field_info(member, 0)
#define field_size(member) __builtin_preserve_field_info(member, 1)
#define field_lshift(member) __builtin_preserve_field_info(member, 4)
#define field_rshift(member) __builtin_preserve_field_info(member, 5)
#define ntohs(x) __builtin_bswap16(x)

/* include/uapi/linux/bpf.h */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_F_NO_PREALLOC = 1,
	BPF_F_MMAPABLE = 1024,
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_RB_NO_WAKEUP = 1,
	BPF_RB_FORCE_WAKEUP = 2,
	BPF_RB_AVAIL_DATA = 0,
};

/* Helpers by their number in enum bpf_func_id; all but the last exist since Linux 5.12. */
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_get_socket_cookie)(void *sk) = (void *)46;
static long (*bpf_probe_read_user)(void *dst, __u32 size, const void *src) = (void *)112;
static long (*bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static __u64 (*bpf_jiffies64)(void) = (void *)118;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5; /* CLOCK_MONOTONIC */
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static long (*bpf_seq_write)(void *seq, const void *data, __u32 len) = (void *)127;
static long (*bpf_ringbuf_output)(void *ringbuf, void *data, __u64 size, __u64 flags) = (void *)130;
static void *(*bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static __u64 (*bpf_ringbuf_query)(void *ringbuf, __u64 flags) = (void *)134;
static void *(*bpf_skc_to_tcp_sock)(void *sk) = (void *)137;
static void *(*bpf_get_current_task_btf)(void) = (void *)158;
static void *(*bpf_sock_from_file)(void *file) = (void *)162;
static long (*bpf_task_pt_regs)(void *task) = (void *)175; /* since 5.15 */

/*
 * Makes a pointer that the verifier lets us load through (a bad address gives 0) of a number;
 * since Linux 6.2, 0 where it is not there.
 */
extern void *bpf_rdonly_cast(const void *address, __u32 btf_id) __attribute__((section(".ksyms"), weak));
#define type_id(type) __builtin_btf_type_id(*(type *)0, 1)

/* include/net/tcp_states.h */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
/* include/uapi/asm-generic/errno.h */
#define EEXIST 17
#define EPIPE 32
#define EAFNOSUPPORT 97
#define ECONNABORTED 103
#define ECONNRESET 104
#define EISCONN 106
#define ETIMEDOUT 110
#define EINPROGRESS 115
#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define SOCK_STREAM 1
#define PF_KTHREAD 0x00200000
#define RCV_SHUTDOWN 1
#define SO_EE_ORIGIN_ICMP 2
/* enum sock_flags, unchanged since 2.6 */
#define SOCK_DONE 1
#define SOCK_KEEPOPEN 3

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* partial structs: their holes are the kernel's */

struct ns_common {
	__u32 inum;
};

struct net {
	struct ns_common ns;
	__u64 net_cookie;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__u32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	union {
		struct {
			__be32 skc_daddr;
			__be32 skc_rcv_saddr;
		};
	};
	union {
		struct {
			__be16 skc_dport;
			__u16 skc_num;
		};
	};
	__u16 skc_family;
	__u8 skc_state;
	possible_net_t skc_net;
	unsigned long skc_flags;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
	int level;
	struct cgroup *ancestors[1]; /* since 6.1; as many as level says, this one included */
};

/* until 6.0 */
struct cgroup___ids {
	__u64 ancestor_ids[1];
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct socket;

typedef struct {
	int counter;
} atomic_t;

/* of sockets that share a port */
struct sock_reuseport {
	unsigned int synq_overflow_ts;
};

typedef struct {
	struct {
		struct {
			struct {
				atomic_t val; /* 0: nobody holds it; not there with PREEMPT_RT */
			} raw_lock;
		} rlock;
	} slock;   /* held while a softirq has the socket */
	int owned; /* a system call holds the socket; packets wait in its backlog */
} socket_lock_t;

struct sk_buff {
	char cb[48];
};

struct sk_buff_head {
	struct sk_buff *prev;
	__u32 qlen;
};

struct sock_extended_err {
	__u32 ee_errno;
	__u8 ee_origin;
};

/* what cb of a message in sk_error_queue has */
struct sock_exterr_skb {
	struct sock_extended_err ee;
};

struct sock {
	struct sock_common __sk_common;
	socket_lock_t sk_lock;
	struct sk_buff_head sk_error_queue;
	atomic_t sk_drops;
	__u32 sk_ack_backlog;
	__u32 sk_max_ack_backlog;
	struct sock_reuseport *sk_reuseport_cb;
	__u16 sk_protocol;
	int sk_err;
	int sk_err_soft;
	__u8 sk_shutdown;
	struct socket *sk_socket;
	struct sock_cgroup_data sk_cgrp_data;
};

struct inet_sock {
	struct sock sk;
	__be16 inet_sport;
};

struct request_sock_queue {
	atomic_t qlen;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct request_sock_queue icsk_accept_queue;
	__u8 icsk_retransmits;
	__u8 icsk_probes_out;
};

struct minmax_sample {
	__u32 t;
	__u32 v;
};

struct minmax {
	struct minmax_sample s[3];
};

struct request_sock;

struct tcp_options_received {
	int ts_recent_stamp;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	__u64 bytes_sent;
	__u64 bytes_retrans;
	__u64 bytes_acked;
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 write_seq;
	__u32 rcv_nxt;
	__u32 copied_seq;
	int linger2;
	__u32 chrono_start; /* jiffies */
	__u32 chrono_stat[3];
	__u8 chrono_type : 2;
	__u64 bytes_received;
	__u32 segs_out;
	__u32 segs_in;
	__u32 data_segs_in;
	__u32 total_retrans;
	__u32 lost;
	__u32 reord_seen;
	__u32 delivered_ce;
	__u16 total_rto; /* since 6.7 */
	__u64 tcp_mstamp; /* last use of the clock, µs, CLOCK_MONOTONIC */
	__u32 srtt_us;	 /* eight times the value */
	__u32 mdev_us;	 /* four times the value */
	struct minmax rtt_min;
	__u32 snd_cwnd;
	__u32 mss_cache;
	struct tcp_options_received rx_opt;
	struct request_sock *fastopen_rsk;
};

/* not there without CONFIG_MPTCP */
struct mptcp_sock {
	struct sock *first;
};

struct inode {
	__u16 i_mode;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct fdtable {
	__u32 max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

typedef struct {
	__u32 val;
} kuid_t;

struct cred {
	kuid_t uid;
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct task_struct {
	unsigned int flags;
	int tgid;
	struct cred *cred;
	struct css_set *cgroups;
	struct task_struct *group_leader;
	struct files_struct *files;
	char comm[16];
};

struct socket {
	__s16 type;
	struct sock *sk;
};

/* The registers of a system call: those of x86-64, and of arm64. */
struct pt_regs {
	unsigned long di;
	unsigned long si;
	unsigned long dx;
	unsigned long orig_ax;
};

struct pt_regs___arm64 {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	struct file *file;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *map;
	void *key;
	void *value;
};

#pragma clang diagnostic pop
#pragma clang attribute pop
