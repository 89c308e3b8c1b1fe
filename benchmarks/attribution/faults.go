package main

import (
	"fmt"
	"slices"
	"strings"
)

// faults says what goes wrong in a run.
type faults struct {
	delay    bool // messages are late by up to 5 s, and everything behind them on the stream
	loss     bool // streams break; what was under way is lost or comes after the next stream has begun; the full set follows
	repeat   bool // messages and batches come twice
	clock    bool // every host's clock is wrong by up to 200 ms
	badClock bool // a few hosts' clocks are wrong by 5 s
	freeze   bool // hosts stand still for 40 s while their addresses are given to others
	exporter bool // exporters crash: the new run claims anew, the old one releases nothing
	restart  bool // each collector dies and starts anew, with an empty disk or with a snapshot of up to 30 s ago
	kafka    bool // a region's topic is cut off for 3 to 25 s; nodes read nothing for some seconds now and then
	region   bool // twice a region is cut off from the others for 10 s
	forge    bool // a host in each region claims what it may not, and reports connections under false names
	crowd    bool // addresses are handed on at once, without the second's pause that allocators keep
}

// names lists every fault; all is the first ones: allocators that hand addresses on at once are no fault of the fleet.
func (f *faults) names() (names []string, fields []*bool, all int) {
	return []string{"delay", "loss", "repeat", "clock", "badclock", "freeze", "exporter", "restart", "kafka", "region", "forge", "crowd"},
		[]*bool{&f.delay, &f.loss, &f.repeat, &f.clock, &f.badClock, &f.freeze, &f.exporter, &f.restart, &f.kafka, &f.region, &f.forge, &f.crowd}, 11
}

// parseFaults reads all, none, or a list; all may be in a list.
func parseFaults(s string) (faults, error) {
	var f faults
	names, fields, all := f.names()
	for _, name := range strings.Split(s, ",") {
		switch i := slices.Index(names, name); {
		case name == "none" || name == "":
		case name == "all":
			for _, p := range fields[:all] {
				*p = true
			}
		case i >= 0:
			*fields[i] = true
		default:
			return f, fmt.Errorf("unknown fault %q: all, none, or of %s", name, strings.Join(names, ", "))
		}
	}
	return f, nil
}
