package identity

import (
	"math"
	"slices"

	"tributary/service/config"
)

const (
	maxSpans = 16     // past owners of one key
	maxPast  = 65_536 // keys that nobody owns any more
)

// span is a time, [from, to), in which a key was an owner's.
type span struct {
	from, to int64
	owner    *Owner
}

// kind of a key.
type kind uint8

const (
	byCgroup kind = iota
	byNetns
	byAddr
)

// key is what can belong to a workload: a cgroup id, a namespace's inode number, or an address and its ports.
type key struct {
	kind  kind
	id    uint64
	addr  [16]byte
	ports config.Ports
}

// table is what Local reads. It never changes once it is published.
type table struct {
	cgroups map[uint64][]span
	netns   map[uint32][]span
	addrs   map[[16]byte][]addrSpans // port ranges before the whole address
	static  *Owner                   // nil: none
	host    Owner                    // zone, region and release of the host, for ends without a name
	byHost  bool                     // name the rest by unit and program
}

type addrSpans struct {
	ports config.Ports
	spans []span
}

// history keeps who owned each key and since when. Slices of spans are never written to once they are in a table.
type history struct {
	keys   map[key][]span
	forgot uint64 // past spans dropped because of a bound
}

const open = math.MaxInt64

// update makes want the owners from at on. A key that never had an owner belongs to its first one from the beginning of
// time: cgroups, namespaces and addresses are named when they appear or when an exporter starts, and nothing speaks against
// the name before. A key that had one belongs to the next from the moment of the change. gone says that what the key stood
// for has vanished, so that the same number later is something else: it gets a beginning of its own.
func (h *history) update(want map[key]*Owner, at int64, gone func(key) bool) (changed bool) {
	for k, spans := range h.keys {
		last := spans[len(spans)-1]
		if next := want[k]; last.to == open && (next == nil || *next != *last.owner) {
			h.keys[k] = closed(spans, max(at, last.from))
			changed = true
		}
	}
	for k, owner := range want {
		spans := h.keys[k]
		from := int64(math.MinInt64)
		if n := len(spans); n > 0 {
			if spans[n-1].to == open {
				continue
			}
			from = max(at, spans[n-1].to)
			if gone(k) {
				from = spans[n-1].to
			}
		}
		if len(spans) >= maxSpans {
			spans = spans[1:]
			h.forgot++
		}
		h.keys[k] = append(slices.Clip(slices.Clone(spans)), span{from, open, owner})
		changed = true
	}
	if changed {
		h.shrink(len(want))
	}
	return changed
}

// closed ends the last span of a copy.
func closed(spans []span, at int64) []span {
	out := slices.Clone(spans)
	out[len(out)-1].to = at
	return out
}

// shrink forgets the keys that ended first while there are too many without an owner. A key that comes back after that
// would begin anew, at the beginning of time; by then its flows of before are as old as 65,536 other owners.
func (h *history) shrink(owned int) {
	excess := len(h.keys) - owned - maxPast
	if excess <= 0 {
		return
	}
	type ended struct {
		key key
		at  int64
	}
	var past []ended
	for k, spans := range h.keys {
		if to := spans[len(spans)-1].to; to != open {
			past = append(past, ended{k, to})
		}
	}
	slices.SortFunc(past, func(a, b ended) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	for _, p := range past[:min(len(past), excess+maxPast/8)] { // some room, so that the next change need not sort
		h.forgot += uint64(len(h.keys[p.key]))
		delete(h.keys, p.key)
	}
}

// table returns what the keys say now.
func (h *history) table() *table {
	t := &table{cgroups: map[uint64][]span{}, netns: map[uint32][]span{}, addrs: map[[16]byte][]addrSpans{}}
	for k, spans := range h.keys {
		switch k.kind {
		case byCgroup:
			t.cgroups[k.id] = spans
		case byNetns:
			t.netns[uint32(k.id)] = spans
		case byAddr:
			t.addrs[k.addr] = append(t.addrs[k.addr], addrSpans{k.ports, spans})
		}
	}
	for _, list := range t.addrs {
		slices.SortFunc(list, func(a, b addrSpans) int {
			if a.ports.All() != b.ports.All() {
				return map[bool]int{true: 1, false: -1}[a.ports.All()]
			}
			return int(a.ports.From) - int(b.ports.From)
		})
	}
	return t
}

// at returns the owner of that time. gap says that there were others, before and after it.
func at(spans []span, t int64) (owner *Owner, gap bool) {
	for i := len(spans) - 1; i >= 0; i-- {
		s := &spans[i]
		if t >= s.to {
			return nil, i < len(spans)-1
		}
		if t >= s.from {
			return s.owner, false
		}
	}
	return nil, false
}

// find returns the first owner by evidence. A key that lay between two owners ends the search: what other evidence says
// then would be a guess.
func (t *table) find(s *Socket) (owner *Owner, gap bool) {
	if s.CgroupID > 1 {
		if owner, gap = at(t.cgroups[s.CgroupID], s.StartNs); owner != nil || gap {
			return owner, gap
		}
	}
	if s.NetnsIno != 0 {
		if owner, gap = at(t.netns[s.NetnsIno], s.StartNs); owner != nil || gap {
			return owner, gap
		}
	}
	list := t.addrs[s.Addr]
	for i := range list {
		if !list[i].ports.Contain(s.Port) {
			continue
		}
		if owner, gap = at(list[i].spans, s.StartNs); owner != nil || gap {
			return owner, gap
		}
	}
	return t.static, false
}
