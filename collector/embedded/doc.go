// Package embedded is the ClickHouse engine for one machine: libchdb in a child process of the collector that answers
// ClickHouse's own HTTP interface on a loopback address, so that our sink, curl, Grafana and any ClickHouse HTTP client use it
// unchanged, and moving to a real server is a change of one URL.
//
// The parent (Store) holds the listening socket and a lock on the data directory, starts the child, starts it again with a growing
// pause when it dies (waiting clients queue in the socket's backlog meanwhile) and stops it with SIGTERM, SIGKILL after a deadline.
// The child dies with its parent however the parent dies: by the closed lifeline pipe or by the kernel's parent-death signal.
//
// What it promises: an insert is answered with 200 only when its rows are in MergeTree parts that were synced to disk
// (fsync_after_insert and fsync_part_directory are the engine's defaults here, and what merges make of parts is synced too), so neither a kill of the child nor a power cut
// takes them back. A request body is complete, checked for size and decompressed before the engine sees the first byte of it.
//
// Two kinds of clients exist. Without credentials only reading of the databases tributary and system is possible: the connection
// has no other grant, is read-only and, before it runs, the statement in the engine's own canonical form (a SELECT that can be read in one
// way only: in its own words) is checked for what grants do not cover (writing files, the file() function, settings that name files, more
// than one statement). With the credential that
// EnsureCredential keeps in the data directory everything is allowed that ClickHouse allows over HTTP without a session.
//
// What it does not do: sessions and temporary tables, the native TCP protocol, TLS, progress headers, streaming of
// results (an answer is complete before its first byte is sent, so an error is never hidden behind a 200).
package embedded
