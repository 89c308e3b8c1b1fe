package identity

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

const (
	// sharedFor is how long an address is claimed for nobody after it was last seen to stand for others too; while it is, that is looked at again every sharedAgain.
	// It is long, because where the kernel does not tell of them the first translations after it are seen late (docs/ownership.md), and because it is the news of first ones that cost.
	sharedFor, sharedAgain = 24 * time.Hour, time.Minute
	// sharedEdge is how long before a check the verified moment lies: what begins within a collector's tolerance (100 ms by default) after the end of a range is
	// still its owner's, as an address is that is handed on; one that stands for others from a moment on is not.
	sharedEdge = 200 * time.Millisecond
)

// sharing is what is known of addresses that stand for others.
type sharing struct {
	checking sync.Mutex // held during a check, while Book.mu is not

	// Guarded by Book.mu.
	whole   map[uint32][]netip.Addr // of each namespace the addresses that would be claimed whole
	seen    map[sharedKey]int64     // when an address was last seen to stand for others, wall clock ns
	checked int64                   // until when the check before verified
	asked   bool                    // about what was there at the start
}

type sharedKey struct {
	netns uint32
	addr  netip.Addr
}

// checkSharing asks which addresses stand for others too, and releases what is claimed of them whole, as of sharedEdge before the check before. It returns until when
// claims may be called verified as far as that goes.
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
	answers := make(map[sharedKey]int64)
	for inum, of := range ask {
		for _, a := range b.opts.Shared(inum, of.own, of.whole) {
			answers[sharedKey{inum, a}] = began
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for k, at := range s.seen {
		if _, again := answers[k]; !again && at < began-int64(sharedFor) {
			delete(s.seen, k)
			changed = true
		}
	}
	for k, at := range answers {
		if _, known := s.seen[k]; !known {
			changed = true
			b.log.Warn("an address stands for connections of others too, whose addresses this host translates: it is claimed for nobody; an entry of the identity file can have ports of it",
				"address", k.addr, "netns", k.netns)
		}
		s.seen[k] = at
	}
	if changed {
		b.refresh(s.checked)
	}
	s.checked = began - int64(sharedEdge)
	return s.checked
}

// learnSharing asks about the addresses that are there at the start, before any is claimed. A collector bridges the seconds of a restart between two claims of one owner: a
// first translation in them is still tracked now, and there is no second claim.
func (b *Book) learnSharing() {
	b.checkSharing()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sharing.asked = true
	b.refresh(b.verified)
}

// question are the addresses of a namespace that would be claimed whole, and those that are.
type question struct{ own, whole []netip.Addr }

// unsharedSpaces returns the namespaces to ask about: those with addresses that are claimed whole, and those of which nothing was seen for a while. The caller holds mu.
func (b *Book) unsharedSpaces(now int64) map[uint32]question {
	s := &b.sharing
	ask := map[uint32]question{}
	for inum, own := range s.whole {
		of, due := question{own: own}, false
		for _, a := range own {
			at, shared := s.seen[sharedKey{inum, a}]
			if !shared {
				of.whole = append(of.whole, a)
			}
			due = due || at < now-int64(sharedAgain)
		}
		if due {
			ask[inum] = of
		}
	}
	return ask
}

// sharedAnywhere is isShared in any namespace. The caller holds mu.
func (b *Book) sharedAnywhere(addr [16]byte) bool {
	ip := netip.AddrFrom16(addr).Unmap()
	for k := range b.sharing.seen {
		if k.addr == ip {
			return true
		}
	}
	return false
}

// isShared says whether an address must not be claimed whole. The caller holds mu.
func (b *Book) isShared(inum uint32, addr netip.Addr) bool {
	_, shared := b.sharing.seen[sharedKey{inum, addr}]
	return shared
}
