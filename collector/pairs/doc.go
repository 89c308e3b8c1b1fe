// Package pairs joins the two records of one connection in the store: where both ends were recorded, and the records met at different collectors or at
// different times, each end is named by what the other says of itself.
//
// It looks every 20 s at the records that came in the last three minutes. A record whose peer's own record is there (the swapped addresses and ports, in the same
// network, at the same time give or take the error of both clocks, in the other role) is written again as a new version: peer_observed = yes, remote_evidence = mirror. Two peers that fit and
// say different things are none. Where the record had another name before, that is a disagreement: it is counted, and listed by the view disagreements. It must
// be none, for the ranges never guess.
//
// Any collector can do it, and while one does the others rest; two at once write the same rows, which replace each other. A pair of which one record comes
// more than three minutes after the other stays as it is. What is computed from records is computed again by itself; renames tells Kafka.
package pairs
