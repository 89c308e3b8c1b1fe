package session

import (
	"errors"
	"strings"
	"sync"
	"unique"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"tributary/collector/ownership"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Table is what claims and watermarks go to.
type Table interface {
	Claim(c *ownership.Claim, now int64) error
	Release(r *ownership.Release, now int64) error
	Watermark(w *ownership.Watermark) error
	// Seen notes that an exporter is there: until its first watermark nothing is called no_evidence.
	Seen(exporter, host string, clockNs, now int64) error
	Clock(exporter string) ownership.ClockError
}

// Publisher tells the other nodes. Its methods must not block, and own what they are given.
type Publisher interface {
	Publish(exporter, host string, stream int64, step *flowv1.OwnershipStep)
	Mark(w *flowv1.ExporterWatermark)
}

// ErrSuperseded says that the exporter has opened a newer stream, here or at another node.
var ErrSuperseded = errors.New("the exporter has opened a newer stream")

// Accepted is the result of a claim or release that was taken, NotAllowed that of a claim beyond the exporter's grant. The others are the names of
// ownership's reasons.
const (
	Accepted   = "accepted"
	NotAllowed = "not_allowed"
)

// maxRefused bounds the addresses of which it is remembered that a claim was not allowed.
const maxRefused = 16 << 10

// Observer is told what became of each claim and release.
type Observer interface {
	Claim(m *flowv1.Claim, result string)
	Release(result string)
}

// key is what a release names.
type key struct {
	network  string
	addr     [16]byte
	from, to uint16
}

// open is a claim without a release. pass says in which whole set it came last.
type open struct {
	pass  uint64
	from  int64
	owner unique.Handle[ownership.Owner]
}

// exporter is one run of an exporter.
type exporter struct {
	mu       sync.Mutex
	id, host string
	owner    Owner // who may speak as this exporter
	stream   int64 // the newest; 0: none is known
	local    bool  // it is at this node
	whole    bool  // and its whole set has come
	pass     uint64
	claims   map[key]open
	verified int64 // the last watermark
}

// Book holds the exporters. Make it with New.
type Book struct {
	table  Table
	others Publisher

	mu        sync.Mutex
	exporters *simplelru.LRU[string, *exporter]
	refused   *lru.Cache[place, struct{}]
	evicted   []*exporter // by Add, to be closed without the lock
}

// New makes an empty book of at most size runs of exporters. others may be nil: then nobody is told.
func New(size int, table Table, others Publisher) (*Book, error) {
	b := &Book{table: table, others: others}
	var err error
	if b.exporters, err = simplelru.NewLRU(size, func(_ string, e *exporter) { b.evicted = append(b.evicted, e) }); err != nil {
		return nil, err
	}
	b.refused, err = lru.New[place, struct{}](maxRefused)
	return b, err
}

// place is an address in a network.
type place struct {
	network string
	addr    [16]byte
}

// Refused says whether a claim of the address was refused lately because its exporter was not allowed to make it.
func (b *Book) Refused(network string, addr ownership.Addr) bool {
	return b.refused.Len() > 0 && b.refused.Contains(place{network, addr.As16()})
}

func (b *Book) noteRefused(k key) { b.refused.Add(place{strings.Clone(k.network), k.addr}, struct{}{}) }

// Seen notes that an exporter is there.
func (b *Book) Seen(id, host string, clockNs, now int64) error {
	return b.table.Seen(id, host, clockNs, now)
}

// Check returns ErrOtherIdentity if an exporter_id is known to belong to somebody else, at this node or another one.
func (b *Book) Check(id string, who Identity) error {
	e := b.peek(id)
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.owner.admits(who) {
		return ErrOtherIdentity
	}
	return nil
}

// peek finds the book of an exporter; nil if there is none.
func (b *Book) peek(id string) *exporter {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, _ := b.exporters.Peek(id)
	return e
}

// get finds or begins the book of an exporter; now is for the one that makes room.
func (b *Book) get(id, host string, now int64) *exporter {
	b.mu.Lock()
	e, ok := b.exporters.Get(id)
	if !ok {
		e = &exporter{id: id, host: host, claims: map[key]open{}}
		b.exporters.Add(id, e)
	}
	gone := b.evicted
	b.evicted = nil
	b.mu.Unlock()
	for _, g := range gone {
		g.mu.Lock()
		g.stream = latest // a stream that it may still have is superseded
		g.pass++
		b.sweep(g, now, nobody{})
		g.mu.Unlock()
	}
	return e
}

// latest is the number of no stream.
const latest = 1<<63 - 1

// MaxStream is the highest number that a hello may tell.
const MaxStream = 1<<62 - 1

// nobody is told nothing.
type nobody struct{}

// Claim implements Observer.
func (nobody) Claim(*flowv1.Claim, string) {}

// Release implements Observer.
func (nobody) Release(string) {}

// Stream is one Control stream of this node.
type Stream struct {
	b      *Book
	e      *exporter
	host   string
	number int64
	grant  *Grant
	clock  ownership.ClockError
}

// Open begins a stream: the exporter's older ones count no more, and it is itself refused as ErrSuperseded if a newer one was heard of, here or at another
// node. now is this node's clock. Other errors are ErrOtherIdentity and the table's refusal.
func (b *Book) Open(hello *flowv1.Hello, now int64, by Peer) (*Stream, error) {
	id, host, clockNs := hello.GetExporterId(), hello.GetHost(), hello.GetClockNs()
	if err := b.Check(id, by.Identity); err != nil {
		return nil, err
	}
	if err := b.table.Seen(id, host, clockNs, now); err != nil {
		return nil, err
	}
	e := b.get(id, host, now)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream == latest {
		return nil, ErrSuperseded // forgotten between get and here
	}
	if !e.owner.Take(by.Identity) {
		return nil, ErrOtherIdentity
	}
	number := hello.GetControlStream()
	switch {
	case number == 0:
		number = max(now, e.stream+1)
	case number <= e.stream:
		return nil, ErrSuperseded
	}
	b.begin(e, number, true)
	b.publish(e, &flowv1.OwnershipStep{ReceivedNs: now, Hello: true, ClockNs: clockNs, Identity: by.Identity.bytes()})
	return &Stream{b: b, e: e, host: host, number: number, grant: by.Grant}, nil
}

func (b *Book) begin(e *exporter, stream int64, local bool) {
	e.stream, e.local, e.whole = stream, local, false
	e.pass++
}

func (b *Book) publish(e *exporter, step *flowv1.OwnershipStep) {
	if b.others != nil && e.local {
		b.others.Publish(e.id, e.host, e.stream, step)
	}
}

// Ownership takes claims and releases.
func (s *Stream) Ownership(m *flowv1.Ownership, now int64, told Observer) error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if s.e.stream != s.number {
		return ErrSuperseded
	}
	taken := s.b.ownership(s.e, m, now, s.grant, told)
	s.b.publish(s.e, &flowv1.OwnershipStep{ReceivedNs: now, Ownership: taken})
	return nil
}

// Watermark takes a watermark. The error is ErrSuperseded or the table's refusal.
func (s *Stream) Watermark(m *flowv1.Watermark, now int64) error {
	s.e.mu.Lock()
	defer s.e.mu.Unlock()
	if s.e.stream != s.number {
		return ErrSuperseded
	}
	if s.b.others != nil {
		s.b.others.Mark(&flowv1.ExporterWatermark{
			ExporterId: s.e.id, Host: s.host, Stream: s.number, VerifiedToNs: m.GetVerifiedToNs(), ClockNs: m.GetClockNs(), ReceivedNs: now,
		})
	}
	return s.b.watermark(s.e, m.GetVerifiedToNs(), m.GetClockNs(), now)
}

// Clock says what is thought of the exporter's clock, and whether it has become or ceased to be bad since the last call.
func (s *Stream) Clock() (c ownership.ClockError, turned bool) {
	c = s.b.table.Clock(s.e.id)
	turned = c.Bad != s.clock.Bad
	s.clock = c
	return c, turned
}

// watermark applies one. The caller holds the exporter's lock.
func (b *Book) watermark(e *exporter, verifiedTo, clockNs, now int64) error {
	err := b.table.Watermark(&ownership.Watermark{Exporter: e.id, Host: e.host, VerifiedTo: verifiedTo, ReceivedAt: now, ClockNs: clockNs})
	if err == nil {
		e.verified = max(e.verified, verifiedTo)
	}
	return err
}

// ownership applies claims, releases and the end of a whole set, and returns what of it was taken. The caller holds the exporter's lock.
func (b *Book) ownership(e *exporter, m *flowv1.Ownership, now int64, grant *Grant, told Observer) *flowv1.Ownership {
	taken := &flowv1.Ownership{Releases: m.GetReleases(), Full: m.GetFull()}
	for _, c := range m.GetClaims() {
		result := b.claim(e, c, now, grant)
		if result == Accepted {
			taken.Claims = append(taken.Claims, c)
		}
		told.Claim(c, result)
	}
	for _, r := range m.GetReleases() {
		k, result := keyOf(r.GetNetwork(), r.GetAddr(), r.GetPortFrom(), r.GetPortTo())
		if result == "" {
			result = b.close(e, k, &ownership.Release{At: r.GetAtNs(), Shared: r.GetReason() == flowv1.ReleaseReason_RELEASE_REASON_SHARED}, now)
		}
		told.Release(result)
	}
	if m.GetFull() {
		e.whole = true
		b.sweep(e, now, told)
	}
	return taken
}

func (b *Book) claim(e *exporter, m *flowv1.Claim, now int64, grant *Grant) string {
	k, result := keyOf(m.GetNetwork(), m.GetAddr(), m.GetPortFrom(), m.GetPortTo())
	if result != "" {
		return result
	}
	if !grant.Allows(k.network, k.addr, m.GetWorkload()) {
		b.noteRefused(k)
		return NotAllowed
	}
	owner := ownerOf(m)
	err := b.table.Claim(&ownership.Claim{
		Exporter: e.id, Host: e.host, Network: k.network, Addr: ownership.AddrFrom16(&k.addr), PortFrom: k.from, PortTo: k.to,
		Owner: owner, From: m.GetFromNs(),
	}, now)
	if err != nil {
		return resultOf(err)
	}
	e.claims[k] = open{pass: e.pass, from: m.GetFromNs(), owner: unique.Make(owner)}
	return Accepted
}

func ownerOf(m *flowv1.Claim) ownership.Owner {
	return ownership.Owner{
		Workload: m.GetWorkload(), Instance: m.GetInstance(), Zone: m.GetZone(), Region: m.GetRegion(), Release: m.GetRelease(),
		Derived: m.GetInstanceDerived(), Assigned: m.GetEvidence() == flowv1.Evidence_EVIDENCE_ASSIGNMENT,
	}
}

// close ends the exporter's range and returns Accepted or the reason of the refusal. A release that comes twice can be of the range before, and the table
// refuses it: then the claim stays in the book, because the next whole set must find it there to end it.
func (b *Book) close(e *exporter, k key, r *ownership.Release, now int64) string {
	r.Exporter, r.Network, r.Addr, r.PortFrom, r.PortTo = e.id, k.network, ownership.AddrFrom16(&k.addr), k.from, k.to
	result := resultOf(b.table.Release(r, now))
	if result == Accepted || result == ownership.UnknownRange.String() {
		delete(e.claims, k)
	}
	return result
}

// sweep closes what is not in the whole set that is now complete. The exporter had verified it up to its last watermark at least; when
// after that it ended nobody knows, so it ends there, or where it began if that came later.
func (b *Book) sweep(e *exporter, now int64, told Observer) {
	for k, c := range e.claims {
		if c.pass != e.pass {
			told.Release(b.close(e, k, &ownership.Release{At: e.verified, Absent: true}, now))
		}
	}
	e.pass++ // what comes now belongs to the next set
}

// keyOf validates what names a range on the wire; reason is "" if it is sound.
func keyOf(network string, addr []byte, from, to uint32) (k key, reason string) {
	switch {
	case len(addr) != 16:
		return k, ownership.BadAddress.String()
	case from > 65535 || to > 65535:
		return k, ownership.BadPorts.String()
	case len(network) > flow.MaxStringBytes:
		return k, ownership.BadName.String()
	}
	return key{network, [16]byte(addr), uint16(from), uint16(to)}, ""
}

func resultOf(err error) string {
	var refused *ownership.RefusedError
	switch {
	case err == nil:
		return Accepted
	case errors.As(err, &refused):
		return refused.Reason.String()
	}
	return "internal"
}
