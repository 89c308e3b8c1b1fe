package attribute

import (
	"fmt"
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/ownership"
	"tributary/proto/flow"
)

// Config tunes naming. The zero value of a field means its default.
type Config struct {
	Tolerance     time.Duration // 100 ms: clock difference between hosts plus handshake time
	MirrorWait    time.Duration // 2 s: how long a row that only its peer's record can name waits for it, from its arrival
	MirrorEntries int           // 131072 records remembered as mirrors, about 120 bytes each
	NamedFlows    int           // 65536 flows with active records whose remote name is remembered
	// Refused says whether a claim of the address was refused because its exporter was not allowed to make it. It may be nil.
	Refused func(network string, addr ownership.Addr) bool
	// Regions answers for the addresses of other regions. It may be nil.
	Regions  Regions
	MaxAhead time.Duration // 10 s: a row that starts further ahead of our clock has a wrong clock; so has an exporter whose clock is off by more
}

// Regions knows which addresses are other regions', and asks there who has them.
type Regions interface {
	// Lookup says what is known of the owner by now, and asks if nothing is; the answer is pending and worth waiting for then. foreign false says that
	// the address is no other region's. It does not block.
	Lookup(network string, addr ownership.Addr, port uint16, at, tolerance int64) (a ownership.Answer, foreign bool)
}

func (c Config) withDefaults() Config {
	if c.Tolerance <= 0 {
		c.Tolerance = 100 * time.Millisecond
	}
	if c.MirrorWait <= 0 {
		c.MirrorWait = 2 * time.Second
	}
	if c.MirrorEntries <= 0 {
		c.MirrorEntries = 128 << 10
	}
	if c.NamedFlows <= 0 {
		c.NamedFlows = 64 << 10
	}
	if c.MaxAhead <= 0 {
		c.MaxAhead = 10 * time.Second
	}
	return c
}

// namesRemembered bounds the names of local ends that share one pointer.
const namesRemembered = 64 << 10

// exportersRemembered bounds the exporters that can be called by their ids in a disagreement.
const exportersRemembered = 16 << 10

// flowKey names a flow. exporter is a hash of the exporter's id.
type flowKey struct{ exporter, flow uint64 }

// name is what an end was named, and by what.
type name struct {
	owner    *ownership.Owner
	evidence uint32
}

// Attributor names rows. Make it with New.
type Attributor struct {
	cfg     Config
	table   *ownership.Table
	mirror  *mirror
	flows   *lru.Cache[flowKey, name]
	names   *lru.Cache[ownership.Owner, *ownership.Owner]
	scratch sync.Pool
	metrics metrics

	exporters     *lru.Cache[uint64, string] // ids by their hashes
	disagreements disagreements
}

// metrics count only what is known after the whole batch, so that rows do not touch shared memory.
type metrics struct {
	agreed, disagreed, alone, unnamed prometheus.Counter
	kept                              prometheus.Counter
}

// New makes an attributor that asks table, and registers its metrics.
func New(cfg Config, table *ownership.Table, reg prometheus.Registerer) (*Attributor, error) {
	a := &Attributor{cfg: cfg.withDefaults(), table: table}
	flows, err := lru.New[flowKey, name](a.cfg.NamedFlows)
	if err != nil {
		return nil, fmt.Errorf("memory of named flows: %w", err)
	}
	names, err := lru.New[ownership.Owner, *ownership.Owner](namesRemembered)
	if err != nil {
		return nil, fmt.Errorf("memory of names: %w", err)
	}
	a.flows, a.names = flows, names
	if a.exporters, err = lru.New[uint64, string](exportersRemembered); err != nil {
		return nil, fmt.Errorf("memory of exporters: %w", err)
	}
	a.mirror = newMirror(a.cfg.MirrorEntries)
	a.scratch.New = func() any { return newScratch() }
	mirrors := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tributary_collector_attribute_mirror_rows_total",
		Help: "Rows whose peer's own record was met: the claim agreed, disagreed (must stay 0), there was none, or the peer's record has no name.",
	}, []string{"result"})
	kept := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "tributary_collector_attribute_kept_names_rows_total",
		Help: "Later records of a flow that kept the remote name of its earlier ones.",
	})
	for _, c := range []prometheus.Collector{mirrors, kept} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of attribute: %w", err)
		}
	}
	a.metrics = metrics{
		mirrors.WithLabelValues("agreed"), mirrors.WithLabelValues("disagreed"), mirrors.WithLabelValues("alone"),
		mirrors.WithLabelValues("unnamed"), kept,
	}
	return a, nil
}

// Tolerance is the time by which a record's clock may differ.
func (a *Attributor) Tolerance() time.Duration { return a.cfg.Tolerance }

// Begin takes a fresh batch: its rows become mirrors for others, the attribution columns are made and filled as far as is known.
// It returns the rows that wait for evidence on its way, appended to open. Rows that say pending and are not among them wait for
// an exporter that stands still.
func (a *Attributor) Begin(b *flow.Batch, v ownership.View, open []uint32) []uint32 {
	s := a.scratch.Get().(*scratch)
	defer a.scratch.Put(s)
	s.begin(a, b, v)
	if !a.exporters.Contains(s.exporter) {
		a.exporters.Add(s.exporter, strings.Clone(b.ExporterID))
	}
	prepare(b)
	for row := range b.Rows {
		s.note(row)
	}
	for first := 0; first < b.Rows; first += lookedUpAtOnce {
		s.rows = s.rows[:0]
		for row := first; row < min(first+lookedUpAtOnce, b.Rows); row++ {
			s.rows = append(s.rows, uint32(row))
		}
		open = s.name(s.rows, 1, open)
	}
	s.end()
	return open
}

// Again asks anew for rows that waited and returns, in the same memory, those that still do. patient false stops at nothing; true
// stops at the first row that still waits, because the batch cannot leave anyway: that row and all before it are returned. round
// is 1 until the rows were first handed on, then 2: a later name must win over an earlier one.
func (a *Attributor) Again(b *flow.Batch, v ownership.View, open []uint32, round uint32, patient bool) []uint32 {
	s := a.scratch.Get().(*scratch)
	defer a.scratch.Put(s)
	s.begin(a, b, v)
	defer s.end()
	if patient {
		for n := len(open); n > 0; n-- {
			if s.row(int(open[n-1]), round) {
				return open[:n]
			}
		}
		return open[:0]
	}
	still := open[:0]
	for len(open) > 0 {
		n := min(lookedUpAtOnce, len(open))
		still = s.name(open[:n], round, still)
		open = open[n:]
	}
	return still
}

// GiveUp makes rows that still wait late: nobody will ask for them again.
func (a *Attributor) GiveUp(b *flow.Batch, open []uint32, round uint32) {
	for _, row := range open {
		if b.U32[flow.RemoteWhy][row] == flow.WhyPending {
			b.U32[flow.RemoteWhy][row] = flow.WhyLate
			b.U32[flow.Version][row] = version(localEvidence(b, int(row)), flow.EvidenceNone, round)
		}
	}
}

// prepare makes the columns that every batch has. The others are made by the first row that needs them.
func prepare(b *flow.Batch) {
	for _, f := range [...]flow.U32{flow.Version, flow.RemoteWorkload, flow.RemoteInstance, flow.RemoteEvidence, flow.RemoteWhy} {
		b.Make32(f)
	}
	b.AttrStrings = append(b.AttrStrings[:0], "")
}

// version ranks the evidence of both ends (the local end's as localEvidence has it) in the high bits, the remote end's first, and the round below: whatever the order of
// arrival, better evidence wins, and of equal evidence the later look.
func version(local, remote, round uint32) uint32 {
	return remoteRank[remote]<<28 | localRank[local]<<24 | round
}

var remoteRank = [...]uint32{
	flow.EvidenceAssignment: 1, flow.EvidenceStatic: 1, flow.EvidenceClaim: 2, flow.EvidenceMirror: 3,
}

var localRank = [...]uint32{
	flow.EvidenceProgram: 1, flow.EvidenceUnit: 2, flow.EvidenceStatic: 3, flow.EvidenceAddress: 4, flow.EvidenceCertificate: 5,
	flow.EvidencePort: 6, flow.EvidenceNetns: 7, flow.EvidenceCgroup: 8, flow.EvidenceSocket: 9,
}

// whyOf translates the table's answers.
var whyOf = [...]uint32{
	ownership.Named: flow.WhyNamed, ownership.NoEvidence: flow.WhyNoEvidence, ownership.Gap: flow.WhyGap,
	ownership.Conflict: flow.WhyConflict, ownership.Shared: flow.WhySharedAddress, ownership.External: flow.WhyExternal,
	ownership.Pending: flow.WhyPending, ownership.Clock: flow.WhyClock, ownership.PeerRegionDown: flow.WhyPeerRegionDown,
}

func hashText(seed maphash.Seed, s string) uint64 { return maphash.String(seed, s) }

func clampTime(ns uint64) int64 { return int64(min(ns, math.MaxInt64/2)) }
