// Package sockdiag captures connections where the kernel allows no tracing programs (no BTF, an old kernel, lockdown): from its lists of
// sockets and its notices of destroyed ones (sock_diag(7), what ss uses). It makes the records that exporter/probe makes, as far as it can.
//
// [Source.Run] lists the sockets of each network namespace every second and hears of each socket that is destroyed meanwhile, with its
// counters; so short connections are seen too. What it cannot see, and what docs/capture.md tells users:
//
//   - attempts that failed, unless they waited in SYN_SENT when a list was made; the kernel has cleared them when it tells;
//   - why a connection ended, except for who sent the first FIN, where a list was made in between;
//   - process, program and user namespace (pid, comm); the user and the socket's cgroup are known;
//   - the start to better than a second, the connect time, the phase of retransmissions, and whether a program took a connection;
//   - rx_bytes may count the peer's FIN as one byte.
//
// Roles are guessed: who has a listener's port is the server. A namespace that nobody may enter is left out and counted (Inventory).
//
// Records are handed over on Run's goroutine. If it does not keep up the kernel drops notices; that is counted as EndsMissed, once for
// each time, because the kernel does not say how many. A connection that was listed before is then noticed by its absence; so is one that was reset and that
// its program has not closed, whose last second is not counted. A connection beyond Options.OpenSockets has only the record of its end, and counts as MapFull
// where a list has more of them than the one before.
package sockdiag
