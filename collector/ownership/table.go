package ownership

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
)

const (
	open         = math.MaxInt64 // the To of a range that has no end yet
	maxWalk      = 64
	maxExporters = 1<<24 - 2
	maxClaims    = 1<<3 - 1
	second       = 1_000_000_000
)

// entry is one (network, address).
type entry struct {
	hi, lo atomic.Uint64
	net    atomic.Uint32
	head   atomic.Uint32 // newest range, by from
	gen    atomic.Uint32 // changes between a range's unlinking and its next use
	lost   atomic.Uint32 // history is incomplete up to here, in Unix seconds; 0: complete

	// home is room for one of the entry's ranges. Most addresses have one: entry and range are then one cache line.
	home rangeNode
}

// homeBit marks the number of a range that lives in its entry; the rest is the entry's number.
const homeBit = 1 << 31

// node gives the range with a number.
func (t *Table) node(i uint32) *rangeNode {
	if i&homeBit != 0 {
		return &t.entries.at(i &^ homeBit).home
	}
	return t.ranges.at(i)
}

func (e *entry) addr() Addr { return Addr{e.hi.Load(), e.lo.Load()} }

// rangeNode is one range. who packs owner (32 bits), exporter (24), claims (3), looseness (4) and released; link packs the ports
// (portFrom, portTo) and the next older node.
type rangeNode struct {
	from, to  atomic.Int64
	who, link atomic.Uint64
}

type who uint64

const (
	released   who = 1      // the owner gave the address up
	looseUnit  who = 1 << 1 // see loose
	loosest    who = 15
	oneClaim   who = 1 << 5
	looseFirst     = 8 * int64(1e6) // half of the smallest looseness, 16 ms
)

func packWho(owner, exporter uint32) who { return who(owner)<<32 | who(exporter)<<8 | oneClaim }

func (w who) owner() uint32    { return uint32(w >> 32) }
func (w who) exporter() uint32 { return uint32(w>>8) & (1<<24 - 1) }
func (w who) claims() uint8    { return uint8(w>>5) & maxClaims }
func (w who) released() bool   { return w&released != 0 }

// loose is how long after the end of an ended range its owner may still have been there: the end is the last moment that was verified, and the
// release says that it was noticed later. 16 ms to 131 s by powers of two, rounded up; math.MaxInt64 beyond.
func (w who) loose() int64 {
	switch c := w / looseUnit & loosest; c {
	case 0:
		return 0
	case loosest:
		return math.MaxInt64
	default:
		return looseFirst << c
	}
}

// withLoose replaces the looseness.
func (w who) withLoose(d int64) who {
	w &^= loosest * looseUnit
	c := who(0)
	for ; c < loosest && (c == 0 && d > 0 || c > 0 && d > looseFirst<<c); c++ {
	}
	return w | c*looseUnit
}

type link uint64

func packLink(portFrom, portTo uint16, next uint32) link {
	return link(portFrom)<<48 | link(portTo)<<32 | link(next)
}

func (l link) next() uint32     { return uint32(l) }
func (l link) portFrom() uint16 { return uint16(l >> 48) }
func (l link) portTo() uint16   { return uint16(l >> 32) }
func (l link) ports() uint32    { return uint32(l >> 32) }

// Table is the cache. Make it with New; its methods may be called from any goroutine.
type Table struct {
	cfg      Config
	seed     [2]uint64
	internal []prefix

	index     atomic.Pointer[index]
	entries   *slab[entry]
	ranges    *slab[rangeNode]
	owners    *slab[ownerSlot]
	exporters *slab[exporterSlot]
	networks  sync.Map     // string -> uint32; ids are never used twice
	clocks    sync.Map     // exporter -> ClockError, where it is not 0
	mostSlack atomic.Int64 // of all exporters
	complete  atomic.Int64 // see Complete

	mu          sync.Mutex // serialises writers; readers never take it
	used        uint32     // index slots that are not empty
	ownerIDs    map[Owner]uint32
	exporterIDs map[string]uint32
	networkRefs map[uint32]*networkRef
	lastNetwork uint32
	hand        uint32 // where forgetting goes on
	liveRanges  int

	stats stats
}

// New makes an empty table.
func New(cfg Config) *Table {
	t := &Table{
		cfg: cfg.withDefaults(), seed: [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1},
		entries: newSlab[entry](), ranges: newSlab[rangeNode](), owners: newSlab[ownerSlot](), exporters: newSlab[exporterSlot](),
		ownerIDs: map[Owner]uint32{}, exporterIDs: map[string]uint32{}, networkRefs: map[uint32]*networkRef{},
	}
	t.index.Store(newIndex(1024))
	t.complete.Store(math.MaxInt64)
	for _, p := range t.cfg.Internal {
		t.internal = append(t.internal, makePrefix(p))
	}
	return t
}

// Complete says up to when the table knows everything that other nodes were told, in our clock. A look-up later than that waits where another
// owner could be unknown: for an address that nobody is known to have, and for one that somebody has had for a short time only. A table that
// is never told stands alone and knows everything.
func (t *Table) Complete(upTo int64) { t.complete.Store(upTo) }

// prefix is a netip.Prefix as two masked words.
type prefix struct{ addr, mask Addr }

func makePrefix(p netip.Prefix) prefix {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	m := Addr{}
	switch {
	case bits >= 128:
		m = Addr{math.MaxUint64, math.MaxUint64}
	case bits > 64:
		m = Addr{math.MaxUint64, ^uint64(0) << (128 - bits)}
	case bits > 0:
		m = Addr{^uint64(0) << (64 - bits), 0}
	}
	a := AddrFrom(p.Addr())
	return prefix{Addr{a.Hi & m.Hi, a.Lo & m.Lo}, m}
}

func (t *Table) isInternal(a Addr) bool {
	for i := range t.internal {
		if p := &t.internal[i]; a.Hi&p.mask.Hi == p.addr.Hi && a.Lo&p.mask.Lo == p.addr.Lo {
			return true
		}
	}
	return false
}
