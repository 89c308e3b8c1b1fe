// Command overhead measures what a tracer costs those it watches: how many connections are made in a second of processor time
// without any tracer, with an empty program on the same tracepoint (the floor), with Tributary, and with bcc's tcplife and
// bpftrace doing the same job where they are installed.
//
// There are three loads, each on one processor and in a network namespace of its own: a single-threaded client and server (also beside
// twenty exporters that watch other namespaces), and nginx under wrk with a connection for each request and with lasting ones.
// Tracers and this program have the other processors. Each run with a tracer has a
// run without any as its neighbour in time, and only the ratio of the two counts. It also measures what the exporter itself
// uses: idle, at 1,000 connections a second, and as fast as the load can go; what its kernel programs take per event; and how long a snapshot of
// 100,000 open sockets takes.
//
// It needs root, bin/tributary-exporter, and loses its meaning where the machine has other work to do.
package main
