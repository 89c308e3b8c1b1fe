package ownership

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// Addr is an IPv6 or IPv4-mapped address as two big-endian words: hashing from registers avoids the stall of storing bytes
// and loading them again as words (150 ns of 200 at a million addresses).
type Addr struct{ Hi, Lo uint64 }

// AddrFrom16 reads an address in network byte order; IPv4 is mapped (::ffff/96).
func AddrFrom16(a *[16]byte) Addr {
	return Addr{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])}
}

// AddrFrom reads a netip.Addr; IPv4 becomes mapped. A zone is dropped: the network says what the zone would.
func AddrFrom(a netip.Addr) Addr {
	b := a.As16()
	return AddrFrom16(&b)
}

// As16 gives the address in network byte order.
func (a Addr) As16() (b [16]byte) {
	binary.BigEndian.PutUint64(b[:8], a.Hi)
	binary.BigEndian.PutUint64(b[8:], a.Lo)
	return b
}

// Netip gives the address for display, IPv4 unmapped.
func (a Addr) Netip() netip.Addr { return netip.AddrFrom16(a.As16()).Unmap() }

// Owner is who a range belongs to. Owners handed out by the table are immutable and shared: equal owners that are alive in the
// table at the same time are the same pointer.
type Owner struct {
	Workload, Instance, Zone, Region, Release string
	// Derived says that Instance was made up from the workload and host because nobody named one. Two ranges of a derived
	// instance may be two different processes, so a gap between them is never bridged.
	Derived bool
	// Assigned says that a feed of assignments names the owner, not an exporter that sees the address on an interface. It is an answer only where no
	// claim has anything to say.
	Assigned bool
}

// Claim opens a range: from From on, Addr in Network (and, unless both ports are 0, ports PortFrom..PortTo inclusive) belongs to
// Owner, as far as Exporter's watermarks reach.
type Claim struct {
	Exporter, Host   string
	Network          string
	Addr             Addr
	PortFrom, PortTo uint16
	Owner            Owner
	From             int64
}

// Release closes the exporter's open range of the address and ports at At: the owner gave the address up, which is never bridged.
type Release struct {
	Exporter, Network string
	Addr              Addr
	PortFrom, PortTo  uint16
	At                int64
	// Shared: the owner still has the address, but from some moment after At on it stands for connections of others too. So the range names nobody past its end,
	// however little.
	Shared bool
	// Absent: the range is not in the exporter's whole set. It ends even if it began after At, which is 0 before the first watermark: left open,
	// it would name one who is gone.
	Absent bool
}

// Watermark says that every open claim of the exporter was verified up to VerifiedTo (exporter's clock). ReceivedAt is the
// collector's clock.
type Watermark struct {
	Exporter, Host         string
	VerifiedTo, ReceivedAt int64
	// ClockNs is the exporter's clock when it sent this; 0 if unknown. Without any reading a clock is taken for right.
	ClockNs int64
}

// Reason says why a mutation was refused. The set is closed; Reasons lists it.
type Reason uint8

// The reasons of refusal.
const (
	BadName      Reason = iota + 1 // a name is empty where it may not be, too long, not UTF-8, or has control characters
	BadAddress                     // unspecified, multicast, or the IPv4 broadcast
	BadPorts                       // to before from, or from 0 with to set
	FromFuture                     // a time further ahead of the collector's clock than MaxAhead
	BadTime                        // a time of zero or before
	ToBeforeFrom                   // released before it was claimed
	OutOfOrder                     // an older claim of another owner than the exporter's open range
	UnknownRange                   // a release without an open range
	ExporterFull                   // too many ranges of one exporter
	AddressFull                    // too many open ranges of one address
	TableFull                      // the bound on ranges or addresses, and nothing left to forget
	NamesFull                      // the bound on owners, networks or exporters
	BadClock                       // kept, but names nobody: the exporter's clock is off by more than MaxClockError
	reasonCount
)

var reasonNames = [reasonCount]string{
	"", "bad_name", "bad_address", "bad_ports", "from_future", "bad_time", "to_before_from", "out_of_order",
	"unknown_range", "exporter_full", "address_full", "table_full", "names_full", "bad_clock",
}

func (r Reason) String() string { return reasonNames[r] }

// Reasons lists every reason of refusal, for metrics that start at 0.
func Reasons() []Reason {
	out := make([]Reason, 0, reasonCount-1)
	for r := BadName; r < reasonCount; r++ {
		out = append(out, r)
	}
	return out
}

// RefusedError says why a claim, release or watermark was not taken. The table is unchanged. (BadClock is only counted.)
type RefusedError struct {
	Reason Reason
	What   string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s refused: %s", e.What, e.Reason) }

// Why is the reason of an answer without a name; Named is one with. The order is that of flow.Why's first values, but the
// numbers are this package's own.
type Why uint8

// The answers.
const (
	Named Why = iota
	NoEvidence
	Gap
	Conflict
	Shared
	External
	Pending
	Clock          // the only evidence is of an exporter whose clock is off by more than MaxClockError
	PeerRegionDown // the address is another region's, which does not answer: no table says so, but collector/region
	whyCount
)

var whyNames = [whyCount]string{"named", "no_evidence", "gap", "conflict", "shared_address", "external", "pending", "clock", "peer_region_down"}

func (w Why) String() string { return whyNames[w] }

// Answer is what the table knows about one address at one moment.
type Answer struct {
	// Owner is set exactly when Why is Named.
	Owner *Owner
	Why   Why
	// Wait says that the evidence is on its way: exporters are alive whose watermarks have not passed the moment yet. Why is
	// Pending then. Pending without Wait means that the exporter stands still: evidence may come, nobody knows when.
	Wait bool
	// Edge says that the moment give or take the tolerance is not inside what was verified of Owner: it is the only one who comes near.
	// Good for a connection that was answered, not for an attempt that nobody answered.
	Edge bool
	// From and Until: the same answer holds, with the same tolerance, for every moment from From to Until and every port, if there
	// is such a time; else From is after Until, or both are 0. For callers who look up rows that are sorted by address.
	From, Until int64
}

// HoldsAt says that the answer is also the one for at.
func (a *Answer) HoldsAt(at int64) bool { return a.From <= at && at <= a.Until }

// Range is one range as whois shows it.
type Range struct {
	Owner            Owner
	Exporter, Host   string
	PortFrom, PortTo uint16
	From, To         int64 // To of an open range is its exporter's watermark
	Open, Released   bool
	Claims           uint8 // how often it was claimed, at most 7
	// Blurred: it was released, and nobody knows from when on others spoke under the address: it stands for them too since, or the end was noticed minutes later.
	Blurred bool
	// ClockError is by how much From and To may be off, if that is more than usual. BadClock: it is so much that the range names nobody.
	ClockError time.Duration
	BadClock   bool
}

// Config bounds the table. The zero value of a field means its default.
type Config struct {
	MaxRanges      int // 4 Mi
	MaxAddresses   int // 2 Mi, at most 16 Mi
	MaxPerAddress  int // 64, at most 64: open and ended ranges of one address
	MaxPerExporter int // 131072: open and ended ranges of one exporter
	MaxOwners      int // 1 Mi, at most 16 Mi
	MaxNetworks    int // 1 Mi
	MaxExporters   int // 64 Ki, at most 1 Mi: runs of exporters that have ranges or are alive
	MaxNameBytes   int // 512

	Retention  time.Duration // 2 h: how long an ended range is kept
	MaxAhead   time.Duration // 10 s: how far ahead of our clock a claimed time may be
	Standstill time.Duration // 3 s: an exporter whose watermark did not advance for so long is not waited for
	DeadAfter  time.Duration // 60 s: after so long without a watermark, a range's end is taken for an end
	Bridge     time.Duration // 15 s: the longest gap between two ranges of one instance that is bridged

	MaxClockError time.Duration // 2 s: the claims of an exporter whose clock is off by more name nobody

	// QuietUntil: before this time nothing is called no_evidence, because the exporters are still (re)connecting after the
	// collector's own start; an address that nobody has claimed yet is pending, and not worth waiting for, and so is one whose owner was not
	// seen for as long as Bridge. 0 for none.
	QuietUntil int64

	// Internal are the prefixes whose addresses may belong to a workload; an address outside them that nobody claims is
	// external at once. Nil means DefaultInternal.
	Internal []netip.Prefix
}

// DefaultInternal are the private, shared, loopback and link-local ranges.
func DefaultInternal() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
		netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
		netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("::1/128"),
	}
}

func (c Config) withDefaults() Config {
	def := func(v *int, d, limit int) {
		if *v <= 0 {
			*v = d
		}
		*v = min(*v, limit)
	}
	def(&c.MaxRanges, 4<<20, 1<<30)
	def(&c.MaxAddresses, 2<<20, maxEntries)
	def(&c.MaxPerAddress, maxWalk, maxWalk)
	def(&c.MaxPerExporter, 128<<10, 1<<30)
	def(&c.MaxOwners, 1<<20, maxOwners)
	def(&c.MaxNetworks, 1<<20, 1<<30)
	def(&c.MaxExporters, 64<<10, maxExporters)
	def(&c.MaxNameBytes, 512, 64<<10)
	dur := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	dur(&c.Retention, 2*time.Hour)
	dur(&c.MaxAhead, 10*time.Second)
	dur(&c.Standstill, 3*time.Second)
	dur(&c.DeadAfter, 60*time.Second)
	dur(&c.Bridge, 15*time.Second)
	dur(&c.MaxClockError, 2*time.Second)
	if c.Internal == nil {
		c.Internal = DefaultInternal()
	}
	return c
}
