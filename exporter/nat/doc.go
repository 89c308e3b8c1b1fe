// Package nat finds out where a connection really goes: it asks the kernel's connection tracking (conntrack) whether the addresses
// of a socket are translated on this host, and to what. So a virtual address in front of real servers (nft or iptables DNAT, as
// kube-proxy and Docker use it) is no dead end, a client behind a masquerade is who it is, and what a container is called beyond this
// host is known, so that the record of a far end can be told to be of the same connection.
//
// Find asks for the tuple that the socket's own packets have, in the socket's network namespace and then in the exporter's own,
// where the packets of containers are translated. The entry outlives its connection (two minutes after an orderly end, ten seconds
// after a reset), so it is there when the record is read. An attempt that was refused leaves none: its record has the virtual
// address alone. Nor is there one where a rule says notrack, or on another host that translates.
//
// Sharing says which addresses of the host stand for connections of others, so that they are not claimed for one workload. Where rules can translate it listens to
// connection tracking, with one socket for all namespaces: the news of a new connection is queued when its entry is made, before its first packet leaves. (The kernel keeps which groups
// of news are listened to for all namespaces together, so with nf_conntrack_events at 2, its default, a listener here makes it tell in all of them, and one in a single namespace would cost
// the host's connections the same.) Where none can, and where the kernel does not tell, it lists.
//
// Bounds. One question takes some 10 us. Where nothing is tracked at all, one answers for every connection before it. Untranslated destinations are remembered for a second, so that plain connections cost next
// to nothing; where there is little to do they are asked for all the same (0.1 % of a core). All questions together take at most 5 % of a core (processor time):
// what is over that is counted as skipped and keeps its virtual address. A question that is not answered within 50 ms is given up, and its namespace left alone for a second. One
// netlink socket is kept for each of at most 64 namespaces, and closed after two idle seconds: an open one keeps its namespace alive.
//
// It takes CAP_NET_ADMIN, and CAP_SYS_ADMIN to look into other namespaces. Without them, or without conntrack, Find knows nothing, and
// Degraded says so.
package nat
