package identity

import (
	"net/netip"

	"tributary/proto/flow"
)

// Listener names the owner of a listening socket; StartNs is now. One that listens on every address of its namespace and that nothing
// finer names is the workload's to which all addresses there belong, by claim; if those are several workloads', it is unnamed: conflict.
func (b *Book) Listener(s Socket) (Owner, uint32) {
	if !netip.AddrFrom16(s.Addr).Unmap().IsUnspecified() {
		return b.Local(s)
	}
	t := b.table.Load()
	owner, gap := t.find(&s)
	if owner != nil || gap {
		return b.Local(s)
	}
	b.mu.Lock()
	claimed, several := b.onlyClaim(&s)
	b.mu.Unlock()
	switch {
	case several:
		return t.host, flow.WhyConflict
	case claimed != nil:
		return *claimed, flow.WhyNamed
	}
	return b.Local(s)
}

// onlyClaim returns the owner of all claimed addresses of the namespace that serve the port; several says that there is more than one.
func (b *Book) onlyClaim(s *Socket) (owner *Owner, several bool) {
	space := b.presence.spaces[s.NetnsIno]
	if space == nil {
		return nil, false
	}
	_, byAddr := b.claimers()
	for a := range space.addrs {
		for _, o := range byAddr[a.addr] {
			next := o.addr
			if !o.entry.Ports.All() {
				next = o.port
			}
			if !o.entry.Ports.Contain(s.Port) {
				continue
			}
			if owner != nil && *owner != *next {
				return nil, true
			}
			owner = next
		}
	}
	return owner, false
}
