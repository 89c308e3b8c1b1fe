// Package region names the owners of other regions' addresses by asking the region that they belong to.
//
// A table (a file, read again when it changes) says which prefixes are which region's: the longest prefix decides. A question goes to a collector of the owning
// region over mutual TLS, many in one request, and its answer is that collector's own look-up in its own table of claims, under the same rules: a name
// only on evidence that brackets the moment. What it answers is kept with the time for which its evidence holds, and serves no other moment.
//
// Lookup never blocks: what is not known yet is pending, and Config.Wake is called when answers have come. A region that does not answer is asked again
// within the hold's patience; after three failures and two seconds its addresses are peer_region_down at once, until a trial succeeds, one a second.
// It never gets a name from anywhere else.
//
// What is lost: nothing. Bounded are the answers kept (the least recently used go first, and all after half a minute), the questions under way of each region
// (what finds no room is asked with the next look) and the questions of one request. Who may ask is the caller's decision (Server).
package region
