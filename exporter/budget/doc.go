// Package budget keeps the exporter to what it may use of its host: processor time, that of its kernel programs included, and memory
// beside the batches that nobody has acknowledged.
//
// A [Governor] reads what was used every ten seconds and compares the mean of the last minute with the limits; so a burst of half a
// minute is nobody's business, and one that is four times too much is noticed after a quarter of one. Over a limit it takes one step
// down and judges again from what the next minute shows; well below it (70 %, and 45 % where the step up doubles what is recorded) it
// takes one up. The steps, in this order:
//
//  1. open connections are recorded a quarter as often (no bytes are lost: records are deltas);
//  2. and what a record can do without is left out: connection tracking is not asked, which is counted as skipped;
//  3. and one of 2, 4, 8 … of the established connections is recorded, up to Limits.SampleMost; with the default of 1 this is never done.
//
// Each step is logged, counted and part of exporter_health. What a step left out is counted where it was left out. The room reads no
// clock and no kernel itself except for the limits of cgroups that it is told of ([CPUs]); what a step means is its caller's to do.
package budget
