package attribute

import (
	"sync"

	"tributary/collector/ownership"
)

// Disagreement is a record whose remote end the ranges, or the flow's earlier records, name otherwise than the peer's own record does. There must be none.
type Disagreement struct {
	EndTimeNs    int64 // of the record
	Network      string
	Addr         ownership.Addr // the remote end
	Port         uint16
	Exporter     string // whose record it is
	FlowID       uint64
	RecordSeq    uint32
	Named        ownership.Owner
	Evidence     uint32
	Peer         ownership.Owner // as the peer says
	PeerExporter string          // whose record says so; "" if it is not known any more
}

// maxDisagreements bounds those that are remembered: the newest.
const maxDisagreements = 1000

// disagreements are the newest ones. The zero value is empty.
type disagreements struct {
	mu   sync.Mutex
	list []Disagreement // a ring once it is full
	next int
}

func (d *disagreements) add(x *Disagreement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.list) < maxDisagreements {
		d.list = append(d.list, *x)
		return
	}
	d.list[d.next] = *x
	d.next = (d.next + 1) % maxDisagreements
}

// Disagreements are those that this node has met, the newest first; at most limit, and never more than a thousand.
func (a *Attributor) Disagreements(limit int) []Disagreement {
	d := &a.disagreements
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]Disagreement, 0, min(limit, len(d.list)))
	for i := 1; i <= len(d.list) && len(out) < limit; i++ {
		out = append(out, d.list[(d.next-i+len(d.list))%len(d.list)])
	}
	return out
}
