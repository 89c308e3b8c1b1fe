// Package assignment tells the ownership table who has the addresses that no exporter can claim: load balancers, gateways, appliances.
//
// A feed (a file, the API, a Kafka topic, the Services and EndpointSlices of a Kubernetes cluster) says which workload has which address since when. Each is a
// Source: it compares what the feed says now with what it said before, and claims and releases like an exporter, on a stream of its own, with watermarks for as long as the feed is up to date. Such ranges are
// marked assigned: they answer only where no exporter's claim has anything to say. An entry without a time counts from when it was first seen.
//
// What cannot be read leaves everything as it was, is counted, and logged once. Two entries that give one address to two workloads at one time are
// both left out: nobody knows which is right. What is wrong with one entry does not touch the others, except in a file or a request, which are taken whole or
// not at all.
package assignment
