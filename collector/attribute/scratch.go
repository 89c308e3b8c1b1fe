package attribute

import (
	"strings"
	"unique"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// scratch is what naming one batch needs besides the batch: dictionaries of what it has met, used again for the next.
type scratch struct {
	a        *Attributor
	b        *flow.Batch
	v        ownership.View
	tol      int64 // the configured tolerance and slack
	slack    int64 // by how much the exporter's clock may be off
	exporter uint64

	networks []network // by index into Batch.Strings
	owners   map[*ownership.Owner]ownerText
	texts    map[string]uint32 // index into Batch.AttrStrings
	locals   map[localKey]*ownership.Owner
	last     lastLookup
	rows     []uint32 // that are looked up at once
	keys     []ownership.Key
	found    []ownership.Found
	here     *ownership.Found // the present row's; nil: not looked for

	agreed, disagreed, alone, unnamed, kept int
}

// network is a network's name, resolved.
type network struct {
	id        ownership.NetworkID
	hash      uint64
	hostLocal bool // of this batch's host alone: both ends of its connections are this exporter's
	known     bool
}

// ownerText is an owner in the batch's dictionary.
type ownerText struct{ workload, instance, zone, region, release uint32 }

// localKey is the name of a local end in the batch's dictionary.
type localKey struct{ workload, instance, zone, region, release uint32 }

// lastLookup remembers the table's last answer: rows are sorted by local and remote address.
type lastLookup struct {
	network ownership.NetworkID
	addr    ownership.Addr
	answer  ownership.Answer
	valid   bool
}

func newScratch() *scratch {
	return &scratch{
		rows: make([]uint32, 0, lookedUpAtOnce), keys: make([]ownership.Key, 0, lookedUpAtOnce), found: make([]ownership.Found, lookedUpAtOnce),
		owners: map[*ownership.Owner]ownerText{}, texts: map[string]uint32{}, locals: map[localKey]*ownership.Owner{},
	}
}

func (s *scratch) begin(a *Attributor, b *flow.Batch, v ownership.View) {
	s.a, s.b, s.v, s.slack = a, b, v, int64(a.table.Clock(b.ExporterID).Slack)
	s.tol = int64(a.cfg.Tolerance) + s.slack
	s.exporter = hashText(a.mirror.seed, b.ExporterID)
	if cap(s.networks) < len(b.Strings) {
		s.networks = make([]network, len(b.Strings))
	}
	s.networks = s.networks[:max(len(b.Strings), 1)]
	clear(s.networks)
}

// end counts what was met and lets go of the batch.
func (s *scratch) end() {
	m := &s.a.metrics
	m.agreed.Add(float64(s.agreed))
	m.disagreed.Add(float64(s.disagreed))
	m.alone.Add(float64(s.alone))
	m.unnamed.Add(float64(s.unnamed))
	m.kept.Add(float64(s.kept))
	clear(s.owners)
	clear(s.texts)
	clear(s.locals)
	clear(s.found) // it holds on to what the table has let go
	*s = scratch{
		rows: s.rows[:0], keys: s.keys[:0], found: s.found, networks: s.networks[:0], owners: s.owners, texts: s.texts, locals: s.locals,
	}
}

// lookedUpAtOnce is how many rows' addresses are looked for together: see ownership.View.Find.
const lookedUpAtOnce = 64

// name names rows, at most lookedUpAtOnce, and appends those that wait to open, which may be the front of rows.
func (s *scratch) name(rows []uint32, round uint32, open []uint32) []uint32 {
	s.keys = s.keys[:0]
	for i, row := range rows {
		k := s.key(row)
		// Rows are sorted by address: mostly the answer for the last row is this one's too.
		if i == 0 || k != s.keys[len(s.keys)-1] {
			s.keys = append(s.keys, k)
		}
	}
	s.v.Find(s.keys, s.found)
	n := 0
	for _, row := range rows {
		if s.key(row) != s.keys[n] {
			n++
		}
		if s.here = &s.found[n]; s.row(int(row), round) {
			open = append(open, row)
		}
	}
	s.here = nil
	return open
}

func (s *scratch) key(row uint32) ownership.Key {
	return ownership.Key{Network: s.network(int(row)).id, Addr: s.addr(flow.RemoteAddr, int(row))}
}

func (s *scratch) network(row int) *network {
	i := s.b.Get32(flow.Network, row)
	n := &s.networks[i]
	if !n.known {
		var text string
		if int(i) < len(s.b.Strings) {
			text = s.b.Strings[i]
		}
		n.id, n.hash, n.known = s.a.table.Network(text), hashText(s.a.mirror.seed, text), true
		n.hostLocal = s.b.Host != "" && strings.HasPrefix(text, s.b.Host) && strings.HasPrefix(text[len(s.b.Host):], "/")
	}
	return n
}

func (s *scratch) addr(f flow.U32, row int) ownership.Addr {
	if col := s.b.U32[f]; col != nil {
		return ownership.AddrFrom16(&s.b.Addrs[col[row]])
	}
	return ownership.Addr{}
}

// sight is the row's own end, as the other end knows it.
func (s *scratch) sight(row int) sight {
	b := s.b
	addr, port := known(b, row)
	return sight{
		tuple: tuple{
			net: s.network(row).hash, local: s.addr(addr, row), remote: s.addr(flow.RemoteAddr, row),
			localPort: uint16(b.Get32(port, row)), remotePort: uint16(b.Get32(flow.RemotePort, row)),
		},
		exporter: s.exporter, flow: b.Get64(flow.FlowID, row),
		start: clampTime(b.Get64(flow.StartTimeNs, row)), end: clampTime(b.Get64(flow.EndTimeNs, row)),
		role: b.Get32(flow.Role, row), slack: s.slack,
	}
}

// note makes the row a mirror for the record of its peer.
func (s *scratch) note(row int) {
	if s.b.Get32(flow.Kind, row) == flow.KindRollup {
		return
	}
	x := s.sight(row)
	x.owner = s.local(row)
	if x.owner != nil && !granted(s.b, row) {
		return // nobody else may be named by the word of one who may not say so
	}
	s.a.mirror.note(&x)
}

// known are the columns of the address and port by which the other end knows the row's own: what the host translates them to, if it does.
func known(b *flow.Batch, row int) (addr, port flow.U32) {
	if b.Get32(flow.NatLocalPort, row) != 0 {
		return flow.NatLocalAddr, flow.NatLocalPort
	}
	return flow.LocalAddr, flow.LocalPort
}

// granted: the exporter may say whose the row's own end is.
func granted(b *flow.Batch, row int) bool {
	if b.Grant == nil {
		return true
	}
	addr, _ := known(b, row)
	return b.Grant.Allows(text(b, b.Get32(flow.Network, row)), b.Addr(addr, row), text(b, b.Get32(flow.LocalWorkload, row)))
}

// localEvidence is what named the row's own end, and none where its exporter may not say so: package pairs goes by the rank of it.
func localEvidence(b *flow.Batch, row int) uint32 {
	if !granted(b, row) {
		return flow.EvidenceNone
	}
	return b.Get32(flow.LocalEvidence, row)
}

// local gives the name of the row's own end, nil if it has none.
func (s *scratch) local(row int) *ownership.Owner {
	b := s.b
	key := localKey{
		b.Get32(flow.LocalWorkload, row), b.Get32(flow.LocalInstance, row), b.Get32(flow.LocalZone, row),
		b.Get32(flow.LocalRegion, row), b.Get32(flow.LocalRelease, row),
	}
	if key.workload == 0 {
		return nil
	}
	o, ok := s.locals[key]
	if !ok {
		o = s.a.intern(ownership.Owner{
			Workload: b.Strings[key.workload], Instance: b.Strings[key.instance], Zone: text(b, key.zone),
			Region: text(b, key.region), Release: text(b, key.release),
		})
		s.locals[key] = o
	}
	return o
}

func text(b *flow.Batch, i uint32) string {
	if i == 0 {
		return ""
	}
	return b.Strings[i]
}

// intern gives one pointer for equal names while they are remembered, and lets go of the message they were cut from.
func (a *Attributor) intern(o ownership.Owner) *ownership.Owner {
	if p, ok := a.names.Get(o); ok {
		return p
	}
	clone := func(t string) string { return unique.Make(t).Value() }
	p := &ownership.Owner{
		Workload: clone(o.Workload), Instance: clone(o.Instance), Zone: clone(o.Zone), Region: clone(o.Region),
		Release: clone(o.Release),
	}
	a.names.Add(*p, p)
	return p
}

// put writes a value into an attribution column, which exists from its first value on.
func (s *scratch) put(f flow.U32, row int, v uint32) {
	col := s.b.U32[f]
	if col == nil {
		if v == 0 {
			return
		}
		col = s.b.Make32(f)
	}
	col[row] = v
}

func (s *scratch) text(t string) uint32 {
	if t == "" {
		return 0
	}
	for i := len(s.texts); i < len(s.b.AttrStrings); i++ { // not before it is needed: a look that names nothing writes no text
		s.texts[s.b.AttrStrings[i]] = uint32(i)
	}
	i, ok := s.texts[t]
	if !ok {
		i = uint32(len(s.b.AttrStrings))
		s.b.AttrStrings = append(s.b.AttrStrings, t)
		s.texts[t] = i
	}
	return i
}

func (s *scratch) ownerText(o *ownership.Owner) ownerText {
	t, ok := s.owners[o]
	if !ok {
		t = ownerText{s.text(o.Workload), s.text(o.Instance), s.text(o.Zone), s.text(o.Region), s.text(o.Release)}
		s.owners[o] = t
	}
	return t
}
