package identity

import (
	"context"
	"net/netip"
	"sort"

	"tributary/proto/flow"
	"tributary/service/config"
)

// changesWaiting is how many steps a subscriber may be behind.
const changesWaiting = 1024

// claimKey tells claims apart: one key of two owners is two claims, and the collector sees the conflict.
type claimKey struct {
	Key
	workload, instance string
}

func keyOf(c *Claim) claimKey { return claimKey{c.Key, c.Workload, c.Instance} }

// reader is one subscription.
type reader struct{ changes chan Change }

// Subscribe returns all open claims and a channel of every change after them, in order. The channel is closed when ctx ends,
// and when the subscriber is more than 1024 steps behind: it subscribes again then and has the whole set.
func (b *Book) Subscribe(ctx context.Context) (full []Claim, changes <-chan Change) {
	r := &reader{make(chan Change, changesWaiting)}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.claims {
		full = append(full, c)
	}
	sort.Slice(full, func(i, j int) bool { return full[i].Addr != full[j].Addr && lessAddr(full[i].Addr, full[j].Addr) })
	b.readers[r] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.unsubscribe(r)
	})
	return full, r.changes
}

func lessAddr(a, b [16]byte) bool { return string(a[:]) < string(b[:]) }

func (b *Book) unsubscribe(r *reader) {
	if _, there := b.readers[r]; there {
		delete(b.readers, r)
		close(r.changes)
	}
}

// VerifiedTo returns until when all open claims are verified, wall clock ns and at most now; 0 while the addresses have not been
// listed. It reads what the kernel has queued; when it returns, every change up to that moment is in the subscribers' channels.
func (b *Book) VerifiedTo(now int64) int64 {
	unshared := b.checkSharing()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.look(false)
	return min(b.verified, now, unshared)
}

// refresh brings the claims up to date with addresses and owners. What is not owned any more is released as of lastSeen.
func (b *Book) refresh(lastSeen int64) {
	p := &b.presence
	p.dirty = false
	if p.socket == nil {
		return // nothing is claimed before addresses are watched
	}
	want := b.wanted(b.clock().wall)
	b.noteHere()
	if b.opts.Shared != nil && !b.sharing.asked {
		return // of what stands for others nothing is claimed, not even for a moment
	}
	held := map[Key]bool{}
	for _, c := range want {
		held[c.Key] = true
	}
	var change Change
	for k, c := range b.claims {
		if next, ok := want[k]; ok && next.Owner == c.Owner {
			continue
		}
		delete(b.claims, k)
		reason := Gone
		switch {
		case held[c.Key]:
			reason = Moved
		case b.sharedAnywhere(c.Addr):
			reason = Shared
		case b.present(c.Addr):
			reason = Stopped
		}
		change.Releases = append(change.Releases, Release{c, max(lastSeen, c.FromNs), reason})
	}
	for k, c := range want {
		if _, ok := b.claims[k]; !ok {
			b.claims[k] = c
			change.Claims = append(change.Claims, c)
		}
	}
	b.publish(change)
}

// releaseAll ends every claim; the next refresh opens them anew.
func (b *Book) releaseAll(at int64, reason Reason) {
	var change Change
	for _, c := range b.claims {
		change.Releases = append(change.Releases, Release{c, max(at, c.FromNs), reason})
	}
	clear(b.claims)
	b.presence.dirty = true
	b.publish(change)
}

// publish counts a change and gives it to the subscribers. One that does not keep up is cut off rather than waited for.
func (b *Book) publish(change Change) {
	if len(change.Releases)+len(change.Claims) == 0 {
		return
	}
	b.metrics.claims.Add(uint64(len(change.Claims)))
	for i := range change.Releases {
		b.metrics.releases[change.Releases[i].Reason].Add(1)
	}
	for r := range b.readers {
		select {
		case r.changes <- change:
		default:
			b.metrics.behind.Add(1)
			b.unsubscribe(r)
		}
	}
}

// present reports whether an address is on any interface that is watched.
func (b *Book) present(addr [16]byte) bool {
	for _, s := range b.presence.spaces {
		for a := range s.addrs {
			if a.addr == addr {
				return true
			}
		}
	}
	return false
}

// wanted returns what is to be claimed: the owners of all addresses that are present, each from now on.
func (b *Book) wanted(from int64) map[claimKey]Claim {
	want := map[claimKey]Claim{}
	b.sharing.whole = map[uint32][]netip.Addr{}
	byNetns, byAddr := b.claimers()
	static := b.static()
	for inum, s := range b.presence.spaces {
		for a := range s.addrs {
			ip := netip.AddrFrom16(a.addr).Unmap()
			if !claimable(ip) {
				continue
			}
			add := func(o *Owner, p config.Ports) {
				c := Claim{Key{b.Network(inum, a.addr), a.addr, p.From, p.To}, *o, from}
				want[keyOf(&c)] = c
			}
			whole := byNetns[inum]
			if whole == nil {
				for _, o := range byAddr[a.addr] {
					if o.entry.Ports.All() {
						whole = o.addr
					} else {
						add(o.port, o.entry.Ports)
					}
				}
			}
			if whole == nil && inum == b.presence.own {
				whole = static
			}
			if whole == nil {
				continue
			}
			b.sharing.whole[inum] = append(b.sharing.whole[inum], ip)
			if !b.isShared(inum, ip) {
				add(whole, config.Ports{})
			}
		}
	}
	return want
}

// claimers are the owners of the entries by what they own.
func (b *Book) claimers() (byNetns map[uint32]*Owner, byAddr map[[16]byte][]*entryOwners) {
	byNetns, byAddr = b.containerNetns(), map[[16]byte][]*entryOwners{}
	for i := range b.owners {
		o := &b.owners[i]
		if inum, ok := b.presence.paths[o.entry.Netns]; ok && o.entry.Netns != "" {
			byNetns[inum] = o.netns
		}
		for _, a := range o.entry.Addresses {
			byAddr[a.As16()] = append(byAddr[a.As16()], o)
		}
	}
	return byNetns, byAddr
}

// Absent lists, in sentences, what the identity file names but this host has not: it is not claimed.
func (b *Book) Absent() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	placed := map[*entry]bool{}
	for _, at := range b.presence.places {
		placed[at.entry] = true
	}
	for i := range b.owners {
		e := b.owners[i].entry
		if _, ok := b.presence.paths[e.Netns]; e.Netns != "" && !ok {
			out = append(out, e.Workload+": "+e.Netns+" is no network namespace")
		}
		if (e.Cgroup != "" || e.Unit != "" || e.Container != "") && !placed[e] {
			out = append(out, e.Workload+": cgroup "+first(e.Cgroup, e.Unit, e.Container)+" does not exist")
		}
		for _, a := range e.Addresses {
			if !b.present(a.As16()) {
				out = append(out, e.Workload+": "+a.String()+" is on no interface of this host")
			}
		}
	}
	return out
}

// evidences are the values of the label evidence.
var evidences = []uint32{
	flow.EvidenceNone, flow.EvidenceCgroup, flow.EvidenceNetns, flow.EvidencePort, flow.EvidenceAddress, flow.EvidenceUnit,
	flow.EvidenceProgram, flow.EvidenceStatic,
}
