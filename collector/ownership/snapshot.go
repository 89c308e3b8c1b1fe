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

	entriesAtOnce = 4096 // between them writers get their turn
)

// Snapshot writes everything that the table knows. Writers wait for a few thousand addresses at a time, readers not at all. What changes
// meanwhile may be in it or not: replay what was said since before the call.
func (t *Table) Snapshot(w io.Writer) error {
	s := &snapshotWriter{t: t, w: bufio.NewWriterSize(w, 64<<10), exporters: map[uint32]uint64{}, owners: map[uint32]uint64{}}
	s.number(snapshotVersion)
	for n, more := uint32(1), true; more; n += entriesAtOnce {
		more = s.entries(n, n+entriesAtOnce)
	}
	s.kind(snapshotEnd)
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("write a snapshot of ownership: %w", err)
	}
	return nil
}

type snapshotWriter struct {
	t                 *Table
	w                 *bufio.Writer // keeps its first error for Flush
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

// entries writes those from first to before last and says whether there are more.
func (s *snapshotWriter) entries(first, last uint32) bool {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := first; n < min(last, t.entries.next); n++ {
		if t.entries.at(n).net.Load() != 0 {
			s.entry(n)
		}
	}
	return last < t.entries.next
}

func (s *snapshotWriter) entry(n uint32) {
	t, e := s.t, s.t.entries.at(n)
	count := uint64(0)
	for i := e.head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		w := who(t.node(i).who.Load())
		s.exporter(w.exporter())
		s.owner(w.owner())
		count++
	}
	s.kind(snapshotEntry)
	s.text(t.networkRefs[e.net.Load()].name)
	s.number(e.hi.Load())
	s.number(e.lo.Load())
	s.number(uint64(e.lost.Load()))
	s.number(count)
	for i := e.head.Load(); i != 0; {
		r := t.node(i)
		w, l := who(r.who.Load()), link(r.link.Load())
		s.signed(r.from.Load())
		s.signed(r.to.Load())
		s.number(s.exporters[w.exporter()])
		s.number(s.owners[w.owner()])
		s.number(uint64(w) & whoFlags)
		s.number(uint64(l.ports()))
		i = l.next()
	}
}

// whoFlags are the bits of a who that stand for no number: claims, looseness and released.
const whoFlags = 1<<8 - 1

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
		slot.verified.Store(verified)
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
	network := s.text(false)
	a := Addr{s.number(), s.number()}
	lost, count := s.number(), s.number()
	if !unicast(a) || lost > math.MaxUint32 || count > maxWalk {
		s.fail()
	}
	for ; count > 0 && s.err == nil; count-- {
		s.rangeOf(network, a, uint32(lost))
	}
}

func (s *snapshotReader) rangeOf(network string, a Addr, lost uint32) {
	from, to := s.signed(), s.signed()
	x, o, flags, ports := s.number(), s.number(), s.number(), s.number()
	if x >= uint64(len(s.exporters)) || o >= uint64(len(s.owners)) || flags > whoFlags || ports > math.MaxUint32 ||
		!portsOK(uint16(ports>>16), uint16(ports)) || from <= 0 || to < from {
		s.fail()
	}
	if s.err != nil || s.exporters[x] == 0 {
		return
	}
	t := s.t
	c := Claim{Network: network, Addr: a, PortFrom: uint16(ports >> 16), PortTo: uint16(ports), Owner: s.owners[o], From: from}
	full := t.liveRanges >= t.cfg.MaxRanges || t.entries.live >= t.cfg.MaxAddresses || int(t.exporters.at(s.exporters[x]).refs) >= t.cfg.MaxPerExporter
	if full || s.known(&c, s.exporters[x]) || t.open(&c, s.exporters[x], meeting{from: from}) != 0 {
		return
	}
	n := t.find(uint32(t.Network(network)), a)
	e := t.entries.at(n)
	e.lost.Store(lost)
	for i := e.head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		// What was linked last is the first of those with its start.
		if r := t.node(i); r.from.Load() == from {
			w := who(r.who.Load())
			r.who.Store(uint64(packWho(w.owner(), w.exporter())&^whoFlags | who(flags)))
			r.to.Store(to)
			break
		}
	}
	t.stats.claims.Add(1)
}

// known says that the range is there already, or its address full: an entry that moved while it was written may stand in the snapshot twice.
func (s *snapshotReader) known(c *Claim, x uint32) bool {
	t := s.t
	n := t.find(uint32(t.Network(c.Network)), c.Addr)
	if n == 0 {
		return false
	}
	count := 0
	for i := t.entries.at(n).head.Load(); i != 0; i = link(t.node(i).link.Load()).next() {
		r := t.node(i)
		ports := link(r.link.Load()).ports()
		if r.from.Load() == c.From && who(r.who.Load()).exporter() == x && ports == packLink(c.PortFrom, c.PortTo, 0).ports() {
			return true
		}
		count++
	}
	return count >= t.cfg.MaxPerAddress
}

// Open calls f with every claim that is open, and up to when its exporter has verified it, until f returns false. Writers wait.
func (t *Table) Open(f func(c *Claim, verified int64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := uint32(1); n < t.entries.next; n++ {
		e := t.entries.at(n)
		if e.net.Load() == 0 {
			continue
		}
		for i := e.head.Load(); i != 0; {
			r := t.node(i)
			w, l := who(r.who.Load()), link(r.link.Load())
			i = l.next()
			if r.to.Load() != open {
				continue
			}
			x := t.exporters.at(w.exporter())
			name := x.who.Load()
			c := Claim{
				Exporter: name.id, Host: name.host, Network: t.networkRefs[e.net.Load()].name, Addr: e.addr(), PortFrom: l.portFrom(), PortTo: l.portTo(),
				Owner: *t.owners.at(w.owner()).owner.Load(), From: r.from.Load(),
			}
			if !f(&c, x.verified.Load()) {
				return
			}
		}
	}
}
