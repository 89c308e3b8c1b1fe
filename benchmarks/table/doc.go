// Table measures the ownership table alone, without the simulator of benchmarks/attribution: what a look-up costs in random order, what an address
// costs in memory and in garbage collection, and what writers cost readers.
//
//	make bench BENCH=table            # a million addresses and ten million: 2 GB of memory, two minutes
//	.build/bin/bench-table -addresses 1000000
//
// Each address has 1.5 ranges, a third of them are IPv6, a fifth of the questions are about addresses that nobody has. Every figure stands beside the
// floor of this machine: a bare read from a random place of as many bytes, one after the other (each waits for the last) and all at once.
package main
