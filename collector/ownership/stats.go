package ownership

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// Forgotten says why a range was forgotten. The set is closed.
type Forgotten uint8

// The reasons of forgetting.
const (
	ForgottenAge     Forgotten = iota // ended longer ago than the retention
	ForgottenAddress                  // the bound of one address
	ForgottenTable                    // the bound of the table
	forgottenCount
)

func (f Forgotten) String() string {
	return [forgottenCount]string{"age", "address_full", "table_full"}[f]
}

type stats struct {
	claims, repeats, releases, watermarks atomic.Uint64
	refused                               [reasonCount]atomic.Uint64
	forgotten                             [forgottenCount]atomic.Uint64
}

// Stats are the table's counters (since New) and sizes. Ranges = Claims - the sum of Forgotten: the books of the table.
type Stats struct {
	Claims     uint64 // ranges opened
	Repeats    uint64 // claims that said nothing new
	Releases   uint64
	Watermarks uint64
	Refused    map[Reason]uint64 // every reason is present
	Forgotten  map[Forgotten]uint64

	Ranges, Addresses, Owners, Networks, Exporters int
	// BadClocks are the exporters whose claims name nobody (ClockError.Bad), Slack the widest slack of all exporters.
	BadClocks int
	Slack     time.Duration
	// Bytes is what log, index and slabs occupy; names come on top.
	Bytes int
}

// Stats reads counters and sizes.
func (t *Table) Stats() Stats {
	s := Stats{
		Claims: t.stats.claims.Load(), Repeats: t.stats.repeats.Load(), Releases: t.stats.releases.Load(),
		Watermarks: t.stats.watermarks.Load(), Refused: map[Reason]uint64{}, Forgotten: map[Forgotten]uint64{},
	}
	for _, r := range Reasons() {
		s.Refused[r] = t.stats.refused[r].Load()
	}
	for f := ForgottenAge; f < forgottenCount; f++ {
		s.Forgotten[f] = t.stats.forgotten[f].Load()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Ranges, s.Addresses, s.Owners, s.Exporters = t.liveRanges, t.addresses, t.owners.live, t.exporters.live
	s.Networks, s.Slack = len(t.networkRefs), time.Duration(t.mostSlack.Load())
	for _, x := range t.exporterIDs {
		if t.exporters.at(x).barred.Load() {
			s.BadClocks++
		}
	}
	s.Bytes = t.index.Load().len()*4 + t.log.bytes() + t.owners.bytes() + t.exporters.bytes()
	return s
}

func (s *slab[T]) bytes() int {
	var v T
	return len(*s.dir.Load())*slabLen*int(unsafe.Sizeof(v)) + (cap(s.free)+cap(s.refs))*4
}
