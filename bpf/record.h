/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The contract between the kernel programs and user space: the ring record, the
 * open-socket value and the counters. struct flow_record has a twin,
 * exporter/event.Record; a test compares them by BTF. Every hole is named.
 */
#pragma once

enum flow_kind {
	FLOW_KIND_ACTIVE = 1,
	FLOW_KIND_CLOSED = 2,
	FLOW_KIND_FAILED = 3,
};

enum flow_role {
	FLOW_ROLE_UNKNOWN = 0,
	FLOW_ROLE_CLIENT = 1,
	FLOW_ROLE_SERVER = 2,
};

enum flow_flag {
	FLOW_FLAG_START_OBSERVED = 1, /* its entry was found */
	FLOW_FLAG_ESTABLISHED = 2,
	FLOW_FLAG_ACCEPTED = 4,	    /* a server's connection that got a file descriptor */
	FLOW_FLAG_REPORTED = 8,	    /* an active record may have gone out before */
	FLOW_FLAG_RST_RECEIVED = 16,
	FLOW_FLAG_KEEPALIVE = 32,   /* keep-alive probes were unanswered, nothing waited to be sent or acknowledged */
	FLOW_FLAG_RST_SENT = 64,    /* it ended by a reset of ours */
	FLOW_FLAG_FOUND = 128,	    /* older than capture, found by the inventory; not START_OBSERVED */
	FLOW_FLAG_ROLE_GUESSED = 256,
};

enum flow_fin {
	FLOW_FIN_NONE = 0,
	FLOW_FIN_LOCAL = 1,  /* our FIN was first */
	FLOW_FIN_REMOTE = 2,
};

/*
 * One reading of one end of a connection. Times are CLOCK_BOOTTIME nanoseconds,
 * counters run since the socket was made, ports are in host order, IPv4 is mapped.
 */
struct flow_record {
	__u64 sock;	      /* the kernel's address of the socket: a key, never sent anywhere */
	__u64 opened_ns;      /* with sock the key of a connection: a socket can be connected again */
	__u64 start_ns;	      /* first SYN, or ESTABLISHED less the SYN-ACK's round trip */
	__u64 end_ns;	      /* now */
	__u64 sock_cookie;
	__u64 netns_cookie;
	__u64 cgroup_id;      /* of the owner (pid below) */
	__u64 sock_cgroup_id; /* of whoever made the socket or its listener */
	__u64 tx_bytes;	      /* payload without retransmissions */
	__u64 rx_bytes;	      /* payload without the FIN */
	__u64 retrans_bytes;
	__u32 tx_segs;
	__u32 rx_segs;
	__u32 retrans_segs;
	__u32 retrans_syn;     /* of these, before ESTABLISHED */
	__u32 retrans_closing; /* of these, after the first FIN */
	__u32 lost_segs;
	__u32 reord_seen;
	__u32 delivered_ce;
	__u32 rto;
	__u32 srtt_us; /* at the first FIN where there was one: the FIN's own ACK comes late */
	__u32 min_rtt_us;
	__u32 rttvar_us;
	__u32 connect_us;
	__u32 snd_cwnd;
	__u32 mss;
	__u32 busy_jiffies; /* with data to send, the next two included */
	__u32 rwnd_jiffies; /* held up by the peer's window */
	__u32 sndbuf_jiffies;
	__u32 tick_us; /* a jiffy */
	__u32 netns_inum;
	__u32 pid;
	__u32 uid;
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u8 comm[16];
	__u16 local_port;
	__u16 remote_port;
	__u16 sk_err; /* 0 where it is a leftover of the socket's previous connection */
	__u16 sk_err_soft;
	__u16 flags;	 /* enum flow_flag */
	__u8 kind;	 /* enum flow_kind */
	__u8 role;	 /* enum flow_role */
	__u8 last_state; /* before CLOSE; now, in an active record */
	__u8 first_fin;	 /* enum flow_fin */
	__u16 asked_port; /* with asked_addr: what the program asked connect for; 0 where that is remote_ */
	__u8 asked_addr[16];
};

_Static_assert(sizeof(struct flow_record) == 256, "exporter/event.Record has this size");

/* Who owns a socket; all zero where unknown. */
struct flow_owner {
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	char comm[16];
};

/*
 * An entry of open_slots or open_sockets. id_state is one word so that the walk and a
 * CLOSE on another CPU can agree about an entry with single atomic operations; see
 * follow.h and the comment on report in walk.h.
 */
struct open_socket {
	__u64 id_state; /* opened_ns | OPEN_CLOSING | OPEN_REPORTED | OPEN_WALKED */
	__u64 sock;	/* the socket's address */
	__u64 sock_cookie;
	__u64 due_ns; /* the next active record is due */
	struct flow_owner owner;
	__u32 connect_us;
	__u32 srtt_fin_us;
	__u32 retrans_syn;
	__u32 retrans_fin; /* total at the first FIN */
	__u32 chrono_base[3]; /* chrono_stat survives a socket's connection; its value at the start */
	__u16 stale_err;   /* sk_err left over by the socket's previous connection */
	__u8 role;
	__u8 first_fin;
	__u16 flags;
	__u16 asked_port;
	__u32 data_segs_fin; /* segments with data that had come at the first FIN */
	__u32 received_fin;  /* bytes, the lower half */
	__u32 lost_base;     /* lost survives it too */
	__u8 asked_addr[16]; /* and asked_port: what the program asked for; 0 where the socket goes there */
};

#define OPEN_CLOSING (1ULL << 63)
#define OPEN_REPORTED (1ULL << 62)
#define OPEN_WALKED (1ULL << 61) /* a walk has passed over it; until then it counts in young_sockets */
#define OPENED_NS(id_state) ((id_state) & (OPEN_WALKED - 1))

/* Connections over which no walk has passed yet, by the second (2^30 ns) in which they
 * were opened; the sum over CPUs counts. User space asks it whether a walk is worth while. */
#define YOUNG_SECONDS 64

struct young_counts {
	__s64 n[YOUNG_SECONDS];
};

_Static_assert(sizeof(struct open_socket) == 128, "no hidden holes");

/* The key of listeners. */
struct listener_key {
	__u8 addr[16];
	__u32 netns_inum;
	__u16 port;
	__u16 family;
};

/* The value of listeners: what those who come to an address need, and tell. */
struct listener {
	__u64 sock; /* of several the latest */
	__u64 established; /* handshakes completed since we watch */
	__u64 last_ns;	   /* the latest of them */
	struct flow_owner owner;
	__u32 sockets; /* that listen here (SO_REUSEPORT) */
	__u32 reserved;
};

/* The value of listen_sockets. */
struct listen_socket {
	struct listener_key key;
	__u64 sock_cookie;
	__u64 since_ns;	      /* it listens since; where found, it was seen first */
	struct flow_owner owner;
	__u32 opener_pid;     /* who called listen; 0 where found */
	__u32 queued_before;  /* where found: connections that waited to be accepted */
	__u32 pass, rank;     /* of find_holders */
	__u32 found;	      /* it is older than capture */
	__u32 reserved;
};

/* How a listening socket stands; made by report_listeners. */
struct listener_record {
	struct listen_socket socket;
	__u64 established; /* of its address */
	__u64 last_ns;
	__u32 drops;	   /* of the socket (sk_drops): segments that came for it and were dropped */
	__u32 accept_queue;
	__u32 accept_queue_limit;
	__u32 syn_queue;
	__u32 syn_overflow; /* see syn_overflow() */
	__u32 reserved;
};

/*
 * Counters, per CPU. The books: ENDS = SUBMITTED + RING_FULL. OPENED + MAP_FULL +
 * MAP_NOMEM = starts seen. OPENED - REMOVED = entries in open_slots and open_sockets.
 */
enum flow_counter {
	FLOW_COUNTER_ENDS,	      /* connection ends (closed or failed) in scope */
	FLOW_COUNTER_SUBMITTED,	      /* of these, in the ring */
	FLOW_COUNTER_RING_FULL,	      /* of these, lost because the ring was full */
	FLOW_COUNTER_ENDS_UNOBSERVED, /* ends without an entry (they are in ENDS too) */
	FLOW_COUNTER_OPENED,	      /* entries made in open_slots and open_sockets */
	FLOW_COUNTER_REMOVED,	      /* entries removed */
	FLOW_COUNTER_MAP_FULL,	      /* open_sockets was full: the end will be unobserved */
	FLOW_COUNTER_MAP_NOMEM,	      /* the kernel had no memory for an entry: likewise */
	FLOW_COUNTER_LISTENERS_FULL,  /* a listener's owner was not kept */
	FLOW_COUNTER_ACTIVE,	      /* active records handed to the walk */
	FLOW_COUNTER_ACTIVE_RACED,    /* active records given up because the socket closed meanwhile */
	FLOW_COUNTER_FOUND,	      /* of OPENED: older than capture, found by the inventory */
	FLOW_COUNTER_STILLBORN,	      /* sockets made for a handshake and dropped at once (not in ENDS): no record */
	FLOW_COUNTER_ENDS_UNSENT,     /* of ENDS: failed before their SYN; seen by failed_connect */
	FLOW_COUNTER_ENDS_MISSED,     /* sockets that went away without a CLOSE that we saw: no record */
	FLOW_COUNTER_ENDS_LATE,	      /* of ENDS: their CLOSE was not seen either, but their record was made by the walk */
	FLOW_COUNTER_LISTENS,	      /* sockets that began or ceased to listen, or were found listening */
	FLOW_COUNTER_MAX,
};

struct flow_counters {
	__u64 n[FLOW_COUNTER_MAX];
};
