package main

import (
	"fmt"
	"hash/maphash"
	"strings"

	"tributary/proto/flow"
)

// store is what a region's ClickHouse has of the records, and what package pairs would make of it. Its rule stands here once more, in Go: the real one is
// a query. Its test there is on the real engine.
type store struct {
	seed      maphash.Seed
	rows      []stored
	last      map[uint64]int32 // by hash of the tuple: the last row of it
	names     map[string]int32
	text      []string
	undecided map[rowKey]undecided
}

// stored is a row.
type stored struct {
	received, start, end int64
	ended                int64 // virtual time; -1 where it is not the one record of a connection
	slack                int64
	peer                 uint64 // hash of the tuple as the peer sees it
	flow                 uint64
	local                int32 // name of its own end; 0: none that counts
	before               int32 // the row before with the same tuple
	role                 uint8
}

// rowKey is exporter_id, flow_id and record_seq: flow ids are unique here.
type rowKey struct {
	flow uint64
	seq  uint32
}

// undecided is a row that its collector has left without a name.
type undecided struct {
	row     int32
	why     uint32
	tallies []*tally
}

const (
	pairsWindow    = 150 * sec // both records come within this: the job looks three minutes back
	pairsTolerance = 100 * ms
	pairsEvery     = 25 * sec // at most
)

func newStore() *store {
	return &store{
		seed: maphash.MakeSeed(), rows: make([]stored, 1), last: map[uint64]int32{}, names: map[string]int32{"": 0}, text: []string{""}, undecided: map[rowKey]undecided{},
	}
}

// tuple is one end's view of a connection.
type tuple struct {
	network               string
	local, remote         [16]byte
	localPort, remotePort uint32
}

// insert takes a row in.
func (s *store) insert(n *node, b *flow.Batch, r int) int32 {
	t := tuple{b.Text(flow.Network, r), b.Addr(flow.LocalAddr, r), b.Addr(flow.RemoteAddr, r), b.Get32(flow.LocalPort, r), b.Get32(flow.RemotePort, r)}
	if port := b.Get32(flow.NatLocalPort, r); port != 0 {
		t.local, t.localPort = b.Addr(flow.NatLocalAddr, r), port
	}
	swapped := tuple{t.network, t.remote, t.local, t.remotePort, t.localPort}
	x := stored{
		received: n.now(), start: int64(b.Get64(flow.StartTimeNs, r)), end: int64(b.Get64(flow.EndTimeNs, r)), slack: int64(n.table.Clock(b.ExporterID).Slack),
		peer: maphash.Comparable(s.seed, swapped), flow: b.Get64(flow.FlowID, r), role: uint8(b.Get32(flow.Role, r)),
	}
	x.ended = endOf(n, b, r)
	if b.Get32(flow.Version, r)>>24&15 != 0 {
		x.local = s.name(b.Text(flow.LocalWorkload, r) + "\x00" + b.Text(flow.LocalInstance, r))
	}
	h := maphash.Comparable(s.seed, t)
	x.before = s.last[h]
	s.rows = append(s.rows, x)
	s.last[h] = int32(len(s.rows) - 1)
	return s.last[h]
}

func (s *store) name(text string) int32 {
	i, ok := s.names[text]
	if !ok {
		i = int32(len(s.text))
		s.names[text] = i
		s.text = append(s.text, text)
	}
	return i
}

// join says what the peers of a row say of themselves; ok if there are any and they agree.
func (s *store) join(row int32) (workload, instance string, at int64, ok bool) {
	a := &s.rows[row]
	var name int32
	for i := s.last[a.peer]; i != 0; i = s.rows[i].before {
		b := &s.rows[i]
		within := pairsTolerance + a.slack + b.slack
		if b.local == 0 || b.flow == a.flow || b.role == a.role && a.role != uint8(flow.RoleUnknown) || b.start > a.end+within || b.end+within < a.start ||
			max(b.received-a.received, a.received-b.received) > pairsWindow {
			continue
		}
		if name != 0 && name != b.local {
			return "", "", 0, false
		}
		name = b.local
		at = max(a.received, b.received) + pairsEvery
	}
	workload, instance, _ = strings.Cut(s.text[name], "\x00")
	return workload, instance, at, name != 0
}

// joinAll names what can be named in the store of what the collectors left.
func (k *score) joinAll(r *region) {
	s := r.store
	for key, u := range s.undecided {
		workload, instance, at, ok := s.join(u.row)
		if !ok {
			continue
		}
		k.decided(u)
		k.joined++
		t := &r.sim.flows[key.flow]
		if t.remote == nil || t.remote.service.name != workload || t.remote.name != instance {
			k.wrong++
			if len(k.wrongSamples) < samples {
				k.wrongSamples = append(k.wrongSamples, fmt.Sprintf("joined in the store: flow %d/%d is not of %s %s", key.flow, key.seq, workload, instance))
			}
			continue
		}
		k.named++
		k.late(at-epoch, s.rows[u.row].ended)
	}
}

// decided takes an unnamed row back.
func (k *score) decided(u undecided) {
	k.unnamed[u.why]--
	for _, t := range u.tallies {
		t.unnamed--
	}
}
