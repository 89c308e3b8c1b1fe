// Package chdb calls libchdb.so, the ClickHouse engine as a shared library, without cgo.
//
// A process may open the library once: every open and close cycle of the engine leaks threads and file descriptors
// (about five of each), so the Library lives until the process ends and only connections come and go. Connections of one process share one data
// directory; each runs one statement at a time (callers serialise), and holds its own settings, database and user.
//
// The engine installs and resets signal handlers of its own when it is loaded and whenever it connects; the Go runtime needs its
// handlers to turn faults into panics, so both are bracketed by saving and restoring every handler. Connect therefore belongs
// before other work starts: for some milliseconds the handlers are the defaults.
//
// Binary data must never be part of a statement's text: the engine cuts such data at the first "\n\n" and parses the rest as
// SQL. Write it to a memfd and read it with file('/proc/self/fd/N', FORMAT).
package chdb
