package ownership

import (
	"math"
	"sync/atomic"
)

// A record is all that is known of one (network, address), in words of 8 bytes, newest range first:
//
//	key      1 word, or 3: see key
//	ranges   2 words each: from 42 bits, duration 34, owner 24, exporter 20, flags 8
//	ports    half a word each, only if a range has ports
//	lost     1 word, only if the history is incomplete
//
// A record is never changed once it is in the index: a new one takes its place. So a reader sees all of an address as of one moment.
type record []atomic.Uint64

const (
	tick = 1_000_000 // ns: times of ranges are kept to the millisecond, which no two hosts agree on

	countMask = 1<<7 - 1 // of a key's first word: how many ranges
	hasPorts  = 1 << 7
	hasLost   = 1 << 8
	wideKey   = 1 << 9
	varying   = countMask | hasPorts | hasLost // what is not of the key

	narrowNet   = 1 << 20 // networks below it fit a narrow key
	fromShift   = 22
	latestFrom  = 1<<42 - 1 // in ticks: the year 2109
	durLowBits  = 20
	endless     = 1<<34 - 1 // in ticks, 198 days: the duration of a range without an end
	ownerShift  = 40
	maxOwners   = 1<<24 - 2
	shortestRec = 3
	frontWords  = 7 // a wide key and two ranges
	longestRec  = 3 + 2*maxWalk + maxWalk/2 + 1
)

// narrow: IPv4 in one of the first million networks is one word at the beginning of a record; every other key is three.
func narrow(net uint32, a Addr) bool         { return a.Hi == 0 && a.Lo>>32 == 0xffff && net < narrowNet }
func narrowKey(net uint32, lo uint64) uint64 { return lo<<32 | uint64(net)<<12 }
func wideKeyOf(net uint32) uint64            { return uint64(net)<<32 | wideKey }

// front is what most look-ups read of a record: the key and the two newest ranges, if there are two.
type front [frontWords]atomic.Uint64

// is compares without a branch: which form a key has cannot be foreseen.
func (r *front) is(k *Key) bool {
	first, net := r[0].Load()&^varying, uint32(k.Network)
	wide := -(first / wideKey & 1) // all ones: the second and third word count
	asWide := (first ^ wideKeyOf(net)) | (r[1].Load() ^ k.Addr.Hi) | (r[2].Load() ^ k.Addr.Lo)
	asNarrow := (first ^ narrowKey(net, k.Addr.Lo)) | k.Addr.Hi | (k.Addr.Lo>>32 ^ 0xffff) | uint64(net)/narrowNet
	return asWide&wide|asNarrow&^wide == 0
}

// newest says where the newest range begins.
func newest(first uint64) uint64 { return 1 + first/wideKey&1*2 }

// key gives back the key.
func (r record) key() (net uint32, a Addr) {
	w := r[0].Load()
	if w&wideKey != 0 {
		return uint32(w >> 32), Addr{r[1].Load(), r[2].Load()}
	}
	return uint32(w>>12) & (narrowNet - 1), Addr{0, 0xffff<<32 | w>>32}
}

// shape says where things are: the ranges begin at the word at. What a reader sees while the place is written over may be anything; then
// the record is empty.
func (r record) shape() (first uint64, at, ranges, size int) {
	first = r[0].Load()
	at = 1 + int(first/wideKey&1)*2
	ranges = int(first & countMask)
	size = at + 2*ranges + int(first/hasPorts&1)*((ranges+1)/2) + int(first/hasLost&1)
	if size > len(r) || ranges > maxWalk {
		return 0, 1, 0, 1
	}
	return first, at, ranges, size
}

// lost is up to when the history is incomplete, in Unix seconds; 0: complete.
func (r record) lost() uint32 {
	first, _, _, size := r.shape()
	if first&hasLost == 0 {
		return 0
	}
	return uint32(r[size-1].Load())
}

// piece is one range of a record.
type piece struct {
	from, to        int64 // to is open where there is no end yet
	owner, exporter uint32
	flags           flags
	ports           ports
}

func beginOf(a uint64) int64 { return int64(a>>fromShift) * tick }

// times are the bounds of a range, from its first word and its second.
func times(a, b uint64) (from, to int64) {
	from = beginOf(a)
	dur := int64(a>>8&(1<<(fromShift-8)-1)<<durLowBits | b&(1<<durLowBits-1))
	if dur == endless {
		return from, open
	}
	return from, from + dur*tick
}

func ownerOf(b uint64) uint32    { return uint32(b >> ownerShift) }
func exporterOf(b uint64) uint32 { return uint32(b>>durLowBits) & (1<<20 - 1) }

func (p *piece) pack() (a, b uint64) {
	from, dur := p.from/tick, int64(endless)
	if p.to != open {
		// Of one that lasted for longer than half a year the beginning is forgotten.
		dur = min(p.to/tick-from, endless-1)
		from = p.to/tick - dur
	}
	a = uint64(from)<<fromShift | uint64(dur)>>durLowBits<<8 | uint64(p.flags)
	b = uint64(p.owner)<<ownerShift | uint64(p.exporter)<<durLowBits | uint64(dur)&(1<<durLowBits-1)
	return a, b
}

// flags packs how often a range was claimed (3 bits), how loose its end is (4), and whether it was released.
type flags uint8

const (
	released   flags = 1      // the owner gave the address up
	looseUnit  flags = 1 << 1 // see loose
	loosest    flags = 15
	oneClaim   flags = 1 << 5
	maxClaims        = 1<<3 - 1
	looseFirst       = 8 * int64(1e6) // half of the smallest looseness, 16 ms
)

func (f flags) claims() uint8  { return uint8(f>>5) & maxClaims }
func (f flags) released() bool { return f&released != 0 }

// loose is how long after the end of an ended range its owner may still have been there: the end is the last moment that was verified, and the
// release says that it was noticed later. 16 ms to 131 s by powers of two, rounded up; math.MaxInt64 beyond.
func (f flags) loose() int64 {
	switch c := f / looseUnit & loosest; c {
	case 0:
		return 0
	case loosest:
		return math.MaxInt64
	default:
		return looseFirst << c
	}
}

// withLoose replaces the looseness.
func (f flags) withLoose(d int64) flags {
	f &^= loosest * looseUnit
	c := flags(0)
	for ; c < loosest && (c == 0 && d > 0 || c > 0 && d > looseFirst<<c); c++ {
	}
	return f | c*looseUnit
}

// ports packs the first and the last port of a range; 0 is all of them.
type ports uint32

func packPorts(from, to uint16) ports { return ports(from)<<16 | ports(to) }
func (p ports) from() uint16          { return uint16(p >> 16) }
func (p ports) to() uint16            { return uint16(p) }

// entry is a record taken apart, for writers.
type entry struct {
	net    uint32
	addr   Addr
	slot   uint32 // of the index; noSlot: the address is not in the table
	lost   uint32 // the history is incomplete up to here, in Unix seconds; 0: complete
	pieces []piece
	room   [maxWalk + 1]piece // behind pieces
}

const noSlot = math.MaxUint32

// read takes a record apart.
func (e *entry) read(r record) {
	first, at, n, _ := r.shape()
	e.net, e.addr = r.key()
	e.lost, e.pieces = r.lost(), e.room[:n]
	for i := range e.pieces {
		a, b := r[at+2*i].Load(), r[at+2*i+1].Load()
		p := &e.pieces[i]
		p.from, p.to = times(a, b)
		p.owner, p.exporter, p.flags, p.ports = ownerOf(b), exporterOf(b), flags(a), 0
		if first&hasPorts != 0 {
			p.ports = r.ports(at, n, i)
		}
	}
}

// ports are those of the ith of n ranges, which begin at the word at.
func (r record) ports(at, n, i int) ports { return ports(r[at+2*n+i/2].Load() >> (i % 2 * 32)) }

// pack puts an entry together, in buf.
func (e *entry) pack(buf []uint64) []uint64 {
	first := uint64(len(e.pieces))
	if narrow(e.net, e.addr) {
		first |= narrowKey(e.net, e.addr.Lo)
		buf = append(buf[:0], first)
	} else {
		first |= wideKeyOf(e.net)
		buf = append(buf[:0], first, e.addr.Hi, e.addr.Lo)
	}
	ported := false
	for i := range e.pieces {
		a, b := e.pieces[i].pack()
		buf = append(buf, a, b)
		ported = ported || e.pieces[i].ports != 0
	}
	if ported {
		first |= hasPorts
		for i := 0; i < len(e.pieces); i += 2 {
			w := uint64(e.pieces[i].ports)
			if i+1 < len(e.pieces) {
				w |= uint64(e.pieces[i+1].ports) << 32
			}
			buf = append(buf, w)
		}
	}
	if e.lost != 0 {
		first |= hasLost
		buf = append(buf, uint64(e.lost))
	}
	buf[0] = first
	return buf
}

// add puts a range before the first that began no later.
func (e *entry) add(p piece) {
	i := 0
	for i < len(e.pieces) && e.pieces[i].from > p.from {
		i++
	}
	e.pieces = e.pieces[:len(e.pieces)+1]
	copy(e.pieces[i+1:], e.pieces[i:])
	e.pieces[i] = p
}

// remove takes the ith range out.
func (e *entry) remove(i int) {
	e.pieces = append(e.pieces[:i], e.pieces[i+1:]...)
}
