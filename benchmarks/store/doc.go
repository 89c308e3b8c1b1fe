// Command store measures what the store needs for a day of realistic flows: bytes a flow on disk after merges, by column; bytes of the
// roll-ups; and the time, rows and bytes of the questions people ask.
//
// It writes seeded flows of the last 24 hours through the real sink into the embedded engine, computes the roll-ups with the real
// loop, merges everything, and asks each question -runs times. The data are made to be neither kind nor cruel to compression: see
// world.go. It needs bin/libchdb.so, about 60 bytes of disk a row, and no root.
package main
