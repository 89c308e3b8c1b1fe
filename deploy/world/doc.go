// Package world builds a small fleet on this host and knows the truth about it: network namespaces on a bridge, real
// processes in them that open real TCP connections, and a ledger in which every process writes down, connection by
// connection, what it did. The demo shows it, the end-to-end tests compare Tributary's answers with its ledger.
//
// A world is private: the bridge lives in a namespace of its own, so the host's routing, bridges and firewall stay as
// they are. Namespaces are named trb<run>-<host> under /run/netns and every run number has its own subnets, so that
// several worlds can stand side by side under one host-wide exporter.
//
// Close removes everything, may be called at any time and twice. What Close cannot do (SIGKILL, a panic, a test timeout)
// a janitor process does, which waits for the death of the world's owner; and what even that missed the next
// world does, because a run number belongs to whoever holds its lock.
//
// The world needs root, and nft for the path that drops silently. It does not delay or lose packets at random: the
// ledger of an undisturbed connection is exact on both sides, to the byte.
package world
