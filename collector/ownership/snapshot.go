package ownership

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// A snapshot is a stream of records, each a byte for its kind and varints: strings are numbered where they first occur, and so are
// exporters and owners. It ends with a record of its own, so that a part of one is not taken for the whole. Checksums are the caller's.
const (
	snapshotEnd      = 0
	snapshotEntry    = 1
	snapshotExporter = 2
	snapshotOwner    = 3
	snapshotVersion  = 1

	ownerDerived  = 1
	ownerAssigned = 2

	slotsAtOnce = 8192 // between them writers get their turn
)

// Snapshot writes everything that the table knows. Writers wait for a few thousand addresses at a time, readers not at all. What changes
// meanwhile may be in it or not: replay what was said since before the call.
func (t *Table) Snapshot(w io.Writer) error {
	s := newSnapshotWriter(t, w)
	for s.entries() {
	}
	return s.end()
}

func newSnapshotWriter(t *Table, w io.Writer) *snapshotWriter {
	s := &snapshotWriter{t: t, w: bufio.NewWriterSize(w, 64<<10), exporters: map[uint32]uint64{}, owners: map[uint32]uint64{}}
	s.number(snapshotVersion)
	return s
}

func (s *snapshotWriter) end() error {
	s.kind(snapshotEnd)
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write a snapshot of ownership: %w", err)
	}
	return nil
}

type snapshotWriter struct {
	t                 *Table
	w                 *bufio.Writer // keeps its first error for Flush
	ix                *index        // as of the last call of entries
	next              int           // slot
	restarts          int
	e                 entry
	exporters, owners map[uint32]uint64
	buf               [binary.MaxVarintLen64]byte
}

func (s *snapshotWriter) kind(k byte)     { _ = s.w.WriteByte(k) }
func (s *snapshotWriter) number(v uint64) { _, _ = s.w.Write(binary.AppendUvarint(s.buf[:0], v)) }
func (s *snapshotWriter) signed(v int64)  { _, _ = s.w.Write(binary.AppendVarint(s.buf[:0], v)) }
func (s *snapshotWriter) text(v string) {
	s.number(uint64(len(v)))
	_, _ = s.w.WriteString(v)
}

// entries writes the next few and says whether there are more. Where the index was rebuilt meanwhile it begins anew: better twice than not at all;
// the third time writers wait for all of it.
func (s *snapshotWriter) entries() (more bool) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if ix := t.index.Load(); ix != s.ix {
		s.ix, s.next = ix, 0
		s.restarts++
	}
	last := min(s.next+slotsAtOnce, s.ix.len())
	if s.restarts > 2 {
		last = s.ix.len()
	}
	for ; s.next < last; s.next++ {
		if t.take(s.ix, uint32(s.next), &s.e); s.e.slot != noSlot {
			s.entry()
		}
	}
	return last < s.ix.len()
}

func (s *snapshotWriter) entry() {
	e := &s.e
	for i := range e.pieces {
		s.exporter(e.pieces[i].exporter)
		s.owner(e.pieces[i].owner)
	}
	s.kind(snapshotEntry)
	s.text(s.t.networkRefs[e.net].name)
	s.number(e.addr.Hi)
	s.number(e.addr.Lo)
	s.number(uint64(e.lost))
	s.number(uint64(len(e.pieces)))
	for i := range e.pieces {
		p := &e.pieces[i]
		s.signed(p.from)
		s.signed(p.to)
		s.number(s.exporters[p.exporter])
		s.number(s.owners[p.owner])
		s.number(uint64(p.flags))
		s.number(uint64(p.ports))
	}
}

func (s *snapshotWriter) exporter(x uint32) {
	if _, ok := s.exporters[x]; ok {
		return
	}
	s.exporters[x] = uint64(len(s.exporters))
	slot := s.t.exporters.at(x)
	s.kind(snapshotExporter)
	s.text(slot.who.Load().id)
	s.text(slot.who.Load().host)
	s.signed(slot.verified.Load())
	s.signed(slot.advanced.Load())
	s.signed(slot.slack.Load())
	barred := uint64(0)
	if slot.barred.Load() {
		barred = 1
	}
	s.number(barred)
	c := slot.clock
	s.number(uint64(c.readings))
	s.number(uint64(c.present))
	s.signed(c.ahead)
	for _, v := range append(c.recent[:], c.least[:]...) {
		s.signed(v)
	}
}

func (s *snapshotWriter) owner(id uint32) {
	if _, ok := s.owners[id]; ok {
		return
	}
	s.owners[id] = uint64(len(s.owners))
	o := s.t.owners.at(id).owner.Load()
	s.kind(snapshotOwner)
	for _, v := range [...]string{o.Workload, o.Instance, o.Zone, o.Region, o.Release} {
		s.text(v)
	}
	flags := uint64(0)
	if o.Derived {
		flags |= ownerDerived
	}
	if o.Assigned {
		flags |= ownerAssigned
	}
	s.number(flags)
}

var errSnapshot = errors.New("not a snapshot of ownership, or a damaged one")

// Restore fills an empty table from a snapshot. Ranges that the bounds leave no room for are left out. After an error the table is
// half filled and must not be used.
func (t *Table) Restore(r io.Reader) error {
	s := &snapshotReader{t: t, r: bufio.NewReaderSize(r, 64<<10)}
	if s.number() != snapshotVersion {
		return errSnapshot
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for s.err == nil {
		switch k, err := s.r.ReadByte(); {
		case err != nil:
			s.err = errSnapshot
		case k == snapshotEntry:
			s.entry()
		case k == snapshotExporter:
			s.exporter()
		case k == snapshotOwner:
			s.owner()
		case k == snapshotEnd:
			t.measureSlack()
			return nil
		default:
			s.err = errSnapshot
		}
	}
	return s.err
}

type snapshotReader struct {
	t         *Table
	r         *bufio.Reader
	exporters []uint32
	owners    []Owner
	err       error
}

func (s *snapshotReader) fail() {
	if s.err == nil {
		s.err = errSnapshot
	}
}

func (s *snapshotReader) number() uint64 {
	v, err := binary.ReadUvarint(s.r)
	if err != nil {
		s.fail()
		return 0
	}
	return v
}

func (s *snapshotReader) signed() int64 {
	v, err := binary.ReadVarint(s.r)
	if err != nil {
		s.fail()
		return 0
	}
	return v
}

// text reads a name; the bound is the table's.
func (s *snapshotReader) text(mayBeEmpty bool) string {
	n := s.number()
	if s.err != nil || n > uint64(s.t.cfg.MaxNameBytes) {
		s.fail()
		return ""
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.r, b); err != nil || !s.t.nameOK(string(b), mayBeEmpty) {
		s.fail()
		return ""
	}
	return string(b)
}

func (s *snapshotReader) exporter() {
	id, host := s.text(false), s.text(true)
	verified, advanced, slack, barred := s.signed(), s.signed(), s.signed(), s.number()
	var c clock
	readings, present := s.number(), s.number()
	c.ahead = s.signed()
	for i := range c.recent {
		c.recent[i] = s.signed()
	}
	for i := range c.least {
		c.least[i] = s.signed()
	}
	if readings > math.MaxInt32 || present >= windows || verified < 0 || slack < 0 || slack > widestSlack || barred > 1 {
		s.fail()
	}
	if s.err != nil {
		return
	}
	c.readings, c.present = int(readings), int(present)
	x, ok := s.t.internExporter(id, host)
	if ok {
		slot := s.t.exporters.at(x)
		slot.verified.Store(whole(verified))
		slot.advanced.Store(advanced)
		slot.slack.Store(slack)
		slot.barred.Store(barred == 1)
		slot.clock = &c
		slot.vouch()
		if e := (ClockError{Slack: time.Duration(slack), Bad: barred == 1}); e != (ClockError{}) {
			s.t.clocks.Store(slot.who.Load().id, e)
		}
	}
	s.exporters = append(s.exporters, x) // 0 where there was no room
}

func (s *snapshotReader) owner() {
	o := Owner{Workload: s.text(false), Instance: s.text(true), Zone: s.text(true), Region: s.text(true), Release: s.text(true)}
	flags := s.number()
	if flags > ownerDerived|ownerAssigned {
		s.fail()
	}
	o.Derived, o.Assigned = flags&ownerDerived != 0, flags&ownerAssigned != 0
	s.owners = append(s.owners, o)
}

func (s *snapshotReader) entry() {
	t, e := s.t, &s.t.mine
	network := s.text(false)
	a := Addr{s.number(), s.number()}
	lost, count := s.number(), s.number()
	if !unicast(a) || lost > math.MaxUint32 || count > maxWalk {
		s.fail()
	}
	if s.err != nil {
		return
	}
	t.load(network, a, e)
	for ; count > 0 && s.err == nil; count-- {
		s.rangeOf(network, e)
	}
	if len(e.pieces) > 0 && s.err == nil {
		e.lost = max(e.lost, uint32(lost))
		t.save(e)
	}
}

func (s *snapshotReader) rangeOf(network string, e *entry) {
	from, to := s.signed(), s.signed()
	x, o, f, p := s.number(), s.number(), s.number(), s.number()
	if x >= uint64(len(s.exporters)) || o >= uint64(len(s.owners)) || f > math.MaxUint8 || p > math.MaxUint32 ||
		!portsOK(ports(p).from(), ports(p).to()) || from < tick || from/tick > latestFrom || to < from {
		s.fail()
	}
	if s.err != nil || s.exporters[x] == 0 {
		return
	}
	t, exporter := s.t, s.exporters[x]
	if s.full(e, exporter) || known(e, whole(from), exporter, ports(p)) {
		return
	}
	c := Claim{Network: network, PortFrom: ports(p).from(), PortTo: ports(p).to(), Owner: s.owners[o]}
	m := meeting{old: -1, from: whole(from)}
	if t.open(&c, exporter, e, m) != 0 {
		return
	}
	for i := range e.pieces {
		// What was added last is the first of those with its start.
		if e.pieces[i].from == m.from {
			if e.pieces[i].flags = flags(f); to != open {
				e.pieces[i].to = whole(to)
			}
			break
		}
	}
	t.stats.claims.Add(1)
}

// full says that the table has no room for one more range.
func (s *snapshotReader) full(e *entry, exporter uint32) bool {
	t := s.t
	return t.liveRanges >= t.cfg.MaxRanges || t.addresses >= t.cfg.MaxAddresses || int(t.exporters.refs[exporter]) >= t.cfg.MaxPerExporter ||
		t.log.words >= fullWords || len(e.pieces) >= t.cfg.MaxPerAddress
}

// known says that the range is there already: an entry that moved while it was written may stand in the snapshot twice.
func known(e *entry, from int64, exporter uint32, p ports) bool {
	for i := range e.pieces {
		if o := &e.pieces[i]; o.from == from && o.exporter == exporter && o.ports == p {
			return true
		}
	}
	return false
}

// Open calls f with every claim that is open, and up to when its exporter has verified it, until f returns false. Writers wait.
func (t *Table) Open(f func(c *Claim, verified int64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e, ix := &t.other, t.index.Load()
	for slot := range uint32(ix.len()) {
		if t.take(ix, slot, e); e.slot == noSlot {
			continue
		}
		for i := range e.pieces {
			p := &e.pieces[i]
			if p.to != open {
				continue
			}
			x := t.exporters.at(p.exporter)
			name := x.who.Load()
			c := Claim{
				Exporter: name.id, Host: name.host, Network: t.networkRefs[e.net].name, Addr: e.addr, PortFrom: p.ports.from(), PortTo: p.ports.to(),
				Owner: *t.owners.at(p.owner).owner.Load(), From: p.from,
			}
			if !f(&c, x.verified.Load()) {
				return
			}
		}
	}
}
