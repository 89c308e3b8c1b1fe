// Package identity knows who owns the local end of a connection, in which address space an address lies, and which
// addresses this exporter claims.
//
// Naming (Book.Local). The first evidence wins: cgroup, network namespace, (address, port range), address, static
// configuration; with Options.HostNames then the systemd unit of the socket's cgroup or the program's name. A container's cgroup is
// its name by an entry of the file, else by Options.Containers; cgroups are noted as they are made, so that one that is gone when its record is read
// still has its name. The whole hierarchy is walked where not all of it can be watched, after something in it has gone, and every half a minute. Certificates will take their place in that order. Tables are immutable and replaced whole; a look-up takes no lock and
// allocates nothing (host names: once per new unit or program). Every key remembers when it was whose, and a socket is named
// by the owner of the moment its connection began: a changed file never renames what began before it, whenever the record
// arrives, and no record waits or gets lost because of a change. Between a change of the file and the moment it is read
// (tens of milliseconds) a record is still named by the old table. What is remembered is bounded: 16 owners a key and 65,536 keys
// without an owner; what is forgotten is unnamed.
//
// Claims (Book.Subscribe, Book.VerifiedTo). An address is claimed only while it is present on an interface of a namespace
// of this host (own namespace only with Options.OwnNetns): in a namespace that an entry names or that is a container's own every address, else the
// addresses that entries list, else, in the exporter's own namespace, everything for the static workload. Loopback,
// link-local, multicast, tentative, deprecated and duplicate addresses are not. A plain host claims nothing: its names hang on
// programs, and their peers are named by the mirror record.
//
// An address that stands for others too (Options.Shared: a masquerade, or a port that leads elsewhere) is claimed for nobody, but for the ports that
// entries list. That is asked with each watermark, before it, of every namespace. So a connection under somebody else's address is never verified to be the owner's,
// from the first one on, wherever the kernel tells of translated connections (exporter/nat says where it does not).
//
// Presence is known from one netlink socket that hears the address notifications of all namespaces (NETLINK_LISTEN_ALL_NSID).
// No thread ever enters a namespace, and no socket of ours keeps a namespace alive. It needs CAP_NET_ADMIN and CAP_NET_BROADCAST; without
// them only the own namespace is seen, and that is said once. The kernel queues a notification while it makes the change, so a
// socket that was read empty says: whatever happened up to just before the reading is known. That moment is what VerifiedTo
// returns. A claim begins when the address was seen and ends with the last verified moment before its end was seen: ranges
// never reach beyond the evidence. If the socket overflowed, everything is listed again. If the exporter was stopped, or the
// clock was set, by more than three seconds, all claims end at the last verified moment and begin anew: the world went on unseen.
//
// A subscriber gets every change in order, or its channel is closed because it was too slow; then it subscribes again and
// gets the whole set. Stopping releases nothing.
//
// The room does not send anything, and does not read certificates or an API yet.
package identity
