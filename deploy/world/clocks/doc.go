// Package clocks tests what happens when a host's wall clock is set, with the real exporter on a real kernel whose clock may be set: that of a virtual machine (`make
// test-clocks`). The collector and its store run outside. It holds tests alone.
package clocks
