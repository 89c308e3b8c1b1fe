package assignment

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/config"
)

const (
	maxEntries   = 100_000
	maxAddresses = 200_000
	maxBytes     = 32 << 20
)

// Entry gives addresses to a workload.
type Entry struct {
	Workload  string       `yaml:"workload" json:"workload"`
	Instance  string       `yaml:"instance" json:"instance,omitempty"` // the workload's name if empty
	Zone      string       `yaml:"zone" json:"zone,omitempty"`
	Region    string       `yaml:"region" json:"region,omitempty"`
	Release   string       `yaml:"release" json:"release,omitempty"`
	Network   string       `yaml:"network" json:"network,omitempty"` // "default" if empty
	Addresses []netip.Addr `yaml:"addresses" json:"addresses"`
	Ports     config.Ports `yaml:"ports" json:"ports,omitzero"`
	From      time.Time    `yaml:"from" json:"from,omitzero"` // zero: since it was first seen
	To        time.Time    `yaml:"to" json:"to,omitzero"`     // zero: until it is gone
}

// Document is what a file and the API hold.
type Document struct {
	Assignments []Entry `yaml:"assignments" json:"assignments"`
}

// Parse reads a document, YAML or JSON; name is what errors call it. It is taken whole or not at all.
func Parse(name string, data []byte) ([]Entry, error) {
	var d Document
	if err := config.Decode("assignments", name, data, &d); err != nil {
		return nil, err
	}
	if d.Assignments == nil {
		return nil, fmt.Errorf("assignments %s: assignments is missing; [] stands for none", name)
	}
	if len(d.Assignments) > maxEntries {
		return nil, fmt.Errorf("assignments %s: more than %d entries", name, maxEntries)
	}
	addresses := 0
	for i := range d.Assignments {
		if err := d.Assignments[i].check(); err != nil {
			return nil, fmt.Errorf("assignments %s: assignments[%d]: %w", name, i, err)
		}
		if addresses += len(d.Assignments[i].Addresses); addresses > maxAddresses {
			return nil, fmt.Errorf("assignments %s: more than %d addresses", name, maxAddresses)
		}
	}
	if _, twice := spansOf(map[string][]Entry{"": d.Assignments}); twice != nil {
		return nil, fmt.Errorf("assignments %s: %s is given to two workloads at one time", name, twice[0].span.addr())
	}
	return d.Assignments, nil
}

// ParseEntry reads one entry, YAML or JSON.
func ParseEntry(name string, data []byte) (Entry, error) {
	var e Entry
	if err := config.Decode("assignment", name, data, &e); err != nil {
		return e, err
	}
	if err := e.check(); err != nil {
		return e, fmt.Errorf("assignment %s: %w", name, err)
	}
	if len(e.Addresses) > maxAddresses {
		return e, fmt.Errorf("assignment %s: more than %d addresses", name, maxAddresses)
	}
	return e, nil
}

// check also fills in what may be left out.
func (e *Entry) check() error {
	if e.Network == "" {
		e.Network = "default"
	}
	if e.Instance == "" {
		e.Instance = e.Workload
	}
	if e.Workload == "" {
		return errors.New("workload is missing")
	}
	for _, s := range []string{e.Workload, e.Instance, e.Zone, e.Region, e.Release, e.Network} {
		if len(s) > 512 || flow.Sanitize(s) != s {
			return errors.New("a name is longer than 512 bytes, or has control characters")
		}
	}
	if len(e.Addresses) == 0 {
		return fmt.Errorf("%s has no addresses", e.Workload)
	}
	for i, a := range e.Addresses {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return fmt.Errorf("%s cannot be one workload's address", a)
		}
		e.Addresses[i] = a.Unmap().WithZone("")
	}
	if !e.To.IsZero() && !e.From.Before(e.To) {
		return fmt.Errorf("%s: to is not after from", e.Workload)
	}
	for _, t := range []time.Time{e.From, e.To} {
		if !t.IsZero() && (t.Year() < 1971 || t.Year() > 2261) {
			return fmt.Errorf("%s: a time is out of range", e.Workload)
		}
	}
	return nil
}

// place is what one workload has at a time.
type place struct {
	network string
	addr    [16]byte
	ports   config.Ports
}

// span is one address of an entry. It is its own name: the same span in the next version of a feed is the same assignment.
type span struct {
	place
	workload, instance, zone, region, release string
	from, to                                  int64 // as the feed says; 0 if it does not
}

func (s *span) addr() netip.Addr { return netip.AddrFrom16(s.place.addr).Unmap() }

// end is the to of a span, far away if it has none.
func (s *span) end() int64 {
	if s.to == 0 {
		return 1<<63 - 1
	}
	return s.to
}

// contradiction is a span that shares a time with another one of its place.
type contradiction struct {
	span
	other span
}

// spansOf spreads entries over their addresses. Those that contradict others are left out, and returned too.
func spansOf(groups map[string][]Entry) (spans map[span]struct{}, twice []contradiction) {
	spans = map[span]struct{}{}
	at := map[place][]span{}
	for _, entries := range groups {
		for i := range entries {
			for _, s := range entries[i].spans() {
				if _, same := spans[s]; !same {
					spans[s] = struct{}{}
					at[s.place] = append(at[s.place], s)
				}
			}
		}
	}
	for _, list := range at {
		twice = append(twice, overlapping(list)...)
	}
	for i := range twice {
		delete(spans, twice[i].span)
	}
	return spans, twice
}

// overlapping returns those of one place's spans that share a time with another one. One overlaps an earlier one if it begins before the last end of those, and
// a later one if it ends after the next one begins.
func overlapping(list []span) (out []contradiction) {
	slices.SortFunc(list, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	longest := 0 // of the earlier ones, which ends last
	for i := range list {
		switch s := &list[i]; {
		case i > 0 && s.from < list[longest].end():
			out = append(out, contradiction{*s, list[longest]})
		case i+1 < len(list) && list[i+1].from < s.end():
			out = append(out, contradiction{*s, list[i+1]})
		}
		if list[i].end() > list[longest].end() {
			longest = i
		}
	}
	return out
}

func (e *Entry) spans() []span {
	out := make([]span, 0, len(e.Addresses))
	for _, a := range e.Addresses {
		out = append(out, span{
			place: place{e.Network, a.As16(), e.Ports}, workload: e.Workload, instance: e.Instance, zone: e.Zone, region: e.Region, release: e.Release,
			from: unixNano(e.From), to: unixNano(e.To),
		})
	}
	return out
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (s *span) claim(from int64) *flowv1.Claim {
	return &flowv1.Claim{
		Network: s.network, Addr: s.place.addr[:], PortFrom: uint32(s.ports.From), PortTo: uint32(s.ports.To), Workload: s.workload, Instance: s.instance,
		Zone: s.zone, Region: s.region, Release: s.release, Evidence: flowv1.Evidence_EVIDENCE_ASSIGNMENT, FromNs: from,
	}
}

func (s *span) releaseAt(at int64) *flowv1.Release {
	return &flowv1.Release{
		Network: s.network, Addr: s.place.addr[:], PortFrom: uint32(s.ports.From), PortTo: uint32(s.ports.To), AtNs: at,
		Reason: flowv1.ReleaseReason_RELEASE_REASON_MOVED,
	}
}
