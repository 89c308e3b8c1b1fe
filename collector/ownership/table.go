package ownership

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/cpu"
)

const (
	open         = math.MaxInt64 // the To of a range that has no end yet
	maxWalk      = 64
	maxExporters = 1<<20 - 2
	second       = 1_000_000_000
)

// Table is the cache. Make it with New; its methods may be called from any goroutine.
type Table struct {
	cfg      Config
	seed     [2]uint64
	internal []prefix

	index     atomic.Pointer[index]
	added     atomic.Uint32 // counts insertions into the index
	log       *recordLog
	owners    *slab[ownerSlot]
	exporters *slab[exporterSlot]
	networks  sync.Map     // string -> uint32; ids are never used twice
	clocks    sync.Map     // exporter -> ClockError, where it is not 0
	mostSlack atomic.Int64 // of all exporters
	complete  atomic.Int64 // see Complete

	_           cpu.CacheLinePad // between what readers read and what writers write: a line that both want goes to and fro
	mu          sync.Mutex       // serialises writers; readers never take it
	used        uint32           // index slots that are not empty
	ownerIDs    map[Owner]uint32
	exporterIDs map[string]uint32
	networkRefs map[uint32]*networkRef
	lastNetwork uint32
	hand        uint32 // the slot where forgetting goes on
	addresses   int
	liveRanges  int
	words       []uint64 // a record on its way to the log
	parting     []uint32 // owners of ranges that the entry to be saved has lost
	mine, other entry    // what the present call works on, and what makes room for it

	stats stats
}

// New makes an empty table.
func New(cfg Config) *Table {
	t := &Table{
		cfg: cfg.withDefaults(), seed: [2]uint64{rand.Uint64() | 1, rand.Uint64() | 1},
		log: newRecordLog(), owners: newSlab[ownerSlot](), exporters: newSlab[exporterSlot](),
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
