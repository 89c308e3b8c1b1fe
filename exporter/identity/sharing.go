package identity

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// sharedFor is how long an address is claimed for nobody after it was last seen to stand for others too; while it is, that is looked at again every sharedAgain.
	sharedFor, sharedAgain = 10 * time.Minute, time.Minute
	// sharedEdge is how long before a check the verified moment lies: what begins within a collector's tolerance (100 ms by default) after the end of a range is
	// still its owner's, as an address is that is handed on; one that stands for others from a moment on is not.
	sharedEdge = 200 * time.Millisecond
	// checkedAtOnce bounds the namespaces beside the own one that are asked about with one watermark; more take two turns.
	checkedAtOnce = 32
	// longestRest is how long a namespace may go without being asked about: the watermark, which is sent each second, waits for it, and collectors wait
	// three seconds for a watermark. Where the kernel's list takes so long that it must rest for longer, nothing is claimed whole.
	longestRest = 1500 * time.Millisecond
)

// sharing is what is known of addresses that stand for others.
type sharing struct {
	checking sync.Mutex // held during a check, while Book.mu is not

	// Guarded by Book.mu.
	whole   map[uint32][]netip.Addr // of each namespace the addresses that would be claimed whole
	seen    map[sharedKey]int64     // when an address was last seen to stand for others, wall clock ns
	asked   map[uint32]int64        // when a namespace was last asked about, wall clock ns
	opaque  map[uint32]bool         // namespaces that rest for too long to be known
	checked int64                   // until when claims may be called verified
}

type sharedKey struct {
	netns uint32
	addr  netip.Addr
}

// shares is what was said of a namespace.
type shares struct {
	shared []netip.Addr
	asked  bool
	rest   time.Duration
}

// checkSharing asks which addresses stand for others too, and releases what is claimed of them whole, as of what was verified before. It returns until when
// claims may be called verified as far as that goes: sharedEdge before that was asked of each namespace.
func (b *Book) checkSharing() (verified int64) {
	if b.opts.Shared == nil {
		return math.MaxInt64
	}
	s := &b.sharing
	s.checking.Lock()
	defer s.checking.Unlock()
	began := b.clock().wall
	b.mu.Lock()
	ask := b.unsharedSpaces(began)
	b.mu.Unlock()
	said := make(map[uint32]shares)
	for inum, own := range ask {
		shared, asked, rest := b.opts.Shared(inum, own)
		said[inum] = shares{shared, asked, rest}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for inum, answer := range said {
		changed = b.noteShared(inum, &answer, began) || changed
	}
	if b.forgetShared(began) || changed {
		b.refresh(s.checked)
	}
	s.checked = max(s.checked, b.allAsked(began)-int64(sharedEdge))
	return s.checked
}

// forgetShared forgets what has stood for nobody else for long, and namespaces without claims. The caller holds mu.
func (b *Book) forgetShared(now int64) (changed bool) {
	s := &b.sharing
	for k, at := range s.seen {
		if at < now-int64(sharedFor) && s.asked[k.netns] > at {
			delete(s.seen, k)
			changed = true
		}
	}
	for inum := range s.asked {
		if s.whole[inum] == nil {
			delete(s.asked, inum)
			delete(s.opaque, inum)
		}
	}
	return changed
}

// noteShared notes what was said of a namespace at a moment. The caller holds mu.
func (b *Book) noteShared(inum uint32, said *shares, at int64) (changed bool) {
	s := &b.sharing
	if said.asked {
		s.asked[inum] = at
	}
	switch opaque := s.opaque[inum]; {
	case !opaque && said.rest > longestRest:
		s.opaque[inum], changed = true, true
		b.log.Warn("connection tracking has so many entries that it cannot be known each second whether addresses stand for others: they are claimed for nobody", "netns", inum)
	case opaque && said.asked && said.rest <= longestRest/2:
		delete(s.opaque, inum)
		changed = true
	}
	for _, addr := range said.shared {
		k := sharedKey{inum, addr}
		if _, known := s.seen[k]; !known {
			changed = true
			b.log.Warn("an address stands for connections of others too, whose addresses this host translates: it is claimed for nobody; an entry of the identity file can have ports of it",
				"address", addr, "netns", inum)
		}
		s.seen[k] = at
	}
	return changed
}

// allAsked is until when every namespace with a whole claim has been asked about. The caller holds mu.
func (b *Book) allAsked(now int64) int64 {
	until := now
	for inum, own := range b.sharing.whole {
		if slices.ContainsFunc(own, func(a netip.Addr) bool { return !b.isShared(inum, a) }) {
			until = min(until, b.sharing.asked[inum])
		}
	}
	return until
}

// unsharedSpaces returns the namespaces to ask about: the own one, and of the others those that were not for longest; but not for what is known. The caller holds mu.
func (b *Book) unsharedSpaces(now int64) map[uint32][]netip.Addr {
	s := &b.sharing
	var others []uint32
	ask := map[uint32][]netip.Addr{}
	for inum, own := range s.whole {
		if !slices.ContainsFunc(own, func(a netip.Addr) bool { return s.seen[sharedKey{inum, a}] < now-int64(sharedAgain) }) {
			continue
		}
		if inum == b.presence.own {
			ask[inum] = own
		} else {
			others = append(others, inum)
		}
	}
	slices.SortFunc(others, func(x, y uint32) int { return cmp.Or(cmp.Compare(s.asked[x], s.asked[y]), cmp.Compare(x, y)) })
	for _, inum := range others[:min(max(checkedAtOnce, (len(others)+1)/2), len(others))] {
		ask[inum] = s.whole[inum]
	}
	return ask
}

// isShared says whether an address must not be claimed whole. The caller holds mu.
func (b *Book) isShared(inum uint32, addr netip.Addr) bool {
	_, shared := b.sharing.seen[sharedKey{inum, addr}]
	return shared || b.sharing.opaque[inum]
}
