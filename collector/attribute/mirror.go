package attribute

import (
	"hash/maphash"
	"math/bits"
	"sync"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

const (
	mirrorShards = 64
	mirrorWays   = 4
)

// tuple is one end's view of a connection. net is a hash of the network's name, with a seed that nobody outside knows.
type tuple struct {
	net                   uint64
	local, remote         ownership.Addr
	localPort, remotePort uint16
}

func (t *tuple) swapped() tuple {
	return tuple{t.net, t.remote, t.local, t.remotePort, t.localPort}
}

func (t *tuple) hash() uint64 {
	h := t.net
	for _, w := range [...]uint64{t.local.Hi, t.local.Lo, t.remote.Hi, t.remote.Lo, uint64(t.localPort)<<16 | uint64(t.remotePort)} {
		hi, lo := bits.Mul64(h^w, 0x9e3779b97f4a7c15)
		h = hi ^ lo
	}
	return h
}

// sight is one record's own end, as a mirror for the other end's record.
type sight struct {
	tuple
	exporter, flow uint64 // whose record it is: a record is not its own mirror
	start, end     int64
	owner          *ownership.Owner // nil if the record's own end has no name
	role           uint32
	slack          int64 // by how much start and end may be off
}

// digest is what the search of a set reads before it touches a record: a record is two cache lines of a table far larger than the cache,
// and most searches find nothing.
type digest struct {
	ends [mirrorWays]int64
	tags [mirrorWays]uint16 // high bits of the tuple's hash, never 0 where a record is
}

func tagOf(h uint64) uint16 { return uint16(h>>48) | 1 }

// mirror remembers the local ends of the records seen lately: a set-associative table of fixed size, in shards. A set that is full
// forgets the record that ended first.
type mirror struct {
	seed   maphash.Seed
	mask   uint64
	shards [mirrorShards]struct {
		mu      sync.Mutex
		digests []digest
		sets    [][mirrorWays]sight
	}
}

func newMirror(entries int) *mirror {
	m := &mirror{seed: maphash.MakeSeed()}
	sets := 1
	for sets*mirrorWays*mirrorShards < entries {
		sets *= 2
	}
	m.mask = uint64(sets - 1)
	for i := range m.shards {
		m.shards[i].digests = make([]digest, sets)
		m.shards[i].sets = make([][mirrorWays]sight, sets)
	}
	return m
}

func (m *mirror) note(s *sight) {
	h := s.hash()
	shard := &m.shards[h%mirrorShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	at, tag := h/mirrorShards&m.mask, tagOf(h)
	d, set := &shard.digests[at], &shard.sets[at]
	victim := 0
	for i := range set {
		if d.tags[i] == 0 {
			victim = i
			break
		}
		if e := &set[i]; d.tags[i] == tag && e.flow == s.flow && e.exporter == s.exporter && e.tuple == s.tuple {
			e.start, e.end = min(e.start, s.start), max(e.end, s.end)
			d.ends[i] = e.end
			if s.owner != nil {
				e.owner = s.owner
			}
			if s.role != flow.RoleUnknown {
				e.role = s.role
			}
			return
		}
		if d.ends[i] < d.ends[victim] {
			victim = i
		}
	}
	set[victim] = *s
	d.tags[victim], d.ends[victim] = tag, s.end
}

// find gives the peer's record of the same connection: the swapped 4-tuple in the same network, at the same time, in another role.
// Two that fit and name different owners are none. by is the exporter of the one that names.
func (m *mirror) find(s *sight, tolerance int64) (owner *ownership.Owner, by uint64, seen bool) {
	want := s.swapped()
	h := want.hash()
	shard := &m.shards[h%mirrorShards]
	shard.mu.Lock()
	defer shard.mu.Unlock()
	at, tag := h/mirrorShards&m.mask, tagOf(h)
	d, set := &shard.digests[at], &shard.sets[at]
	for i := range set {
		if d.tags[i] != tag {
			continue
		}
		e := &set[i]
		if e.tuple != want || e.flow == s.flow && e.exporter == s.exporter {
			continue
		}
		if e.start-e.slack > s.end+tolerance || e.end+e.slack < s.start-tolerance || e.role == s.role && s.role != flow.RoleUnknown {
			continue
		}
		if seen && (owner == nil || e.owner == nil || *owner != *e.owner) {
			return nil, 0, true
		}
		owner, by, seen = e.owner, e.exporter, true
	}
	return owner, by, seen
}
