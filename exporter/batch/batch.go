package batch

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/exporter/event"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// MaxRows bounds Config.Rows: so many rows stay below flow.MaxPayloadBytes even without compression.
const MaxRows = 10_000

// Config says what batches look like.
type Config struct {
	ExporterID string // one run of one exporter; at most flow.MaxNameBytes bytes
	Host       string
	BootID     string
	Rows       int  // rows of a full batch, 1 to MaxRows
	Compress   bool // zstd
	Replay     bool // the rows come from a recording
	// Counters returns the exporter's cumulative counters; called once a batch, at sealing. nil means none.
	Counters func() []*flowv1.Counter
	// Most returns how many bytes the payload of the next batch should have at most, 0 for no bound. nil means none. A batch that turns out larger is sealed all
	// the same; those after it get fewer rows. One that has a bound and keeps to it carries no counters: with them it would not.
	Most func() int
	// Emit takes over each sealed batch, in the order of batch_seq. Required.
	Emit func(*flowv1.Batch)
}

// Local is what the exporter knows about the local end of a connection, and what its host does to the addresses. Evidence and Why are values of flow.EvidenceNames
// and flow.WhyNames; a Local without a Workload has a Why, at least flow.WhyNoEvidence.
type Local struct {
	Comm     string // the program's name as text, "" unknown
	Network  string // the address space of the local address
	Workload string
	Instance string
	Zone     string
	Region   string
	Release  string
	Evidence uint32
	Why      uint32
	// Peer is where the connection really goes, where that is not the socket's remote address; else the zero value.
	Peer netip.AddrPort
	// Nat is what the local end is called where the remote end is, where this host translates it; else the zero value.
	Nat netip.AddrPort
}

// Times are an event's moments on the wall clock, ns since 1970. Converted together, so that their order stays.
type Times struct {
	Start         int64
	IntervalStart int64
	End           int64
}

// Reason says why a batch was sealed.
type Reason string

// The reasons of sealing.
const (
	Full     Reason = "full"     // no other row fits
	Age      Reason = "age"      // its first row has waited long enough
	Shutdown Reason = "shutdown" // the exporter stops
)

// Batcher builds batches. It is used by one goroutine at a time.
type Batcher struct {
	config  Config
	builder *flow.Builder
	sealer  *flow.Sealer      // nil without compression
	netns   map[uint32]string // the text of inode numbers, bounded
	metrics *metrics

	most  int // bytes of the open batch's payload; 0: no bound
	guess int // rows that will fit into so many

	seq        uint64
	refused    atomic.Uint64
	columns    []byte // reused
	compressed []byte // reused
}

// New returns an empty batcher whose first batch has batch_seq 1.
func New(config Config, registerer prometheus.Registerer) (*Batcher, error) {
	if config.Rows < 1 || config.Rows > MaxRows {
		return nil, fmt.Errorf("a batch has 1 to %d rows, not %d", MaxRows, config.Rows)
	}
	b := &Batcher{config: config, builder: flow.NewBuilder(config.Rows), netns: make(map[uint32]string), metrics: newMetrics(registerer), guess: firstGuess}
	if config.Compress {
		var err error
		if b.sealer, err = flow.NewSealer(); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// Rows returns how many rows wait for their batch to be sealed.
func (b *Batcher) Rows() int { return b.builder.Rows() }

// Refused returns how many rows were left out because of their times. It may be called from any goroutine.
func (b *Batcher) Refused() uint64 { return b.refused.Load() }

// Earliest and latest time that flow.Batch accepts: a clock that is further off is broken.
var (
	minTime = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	maxTime = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
)

// Add appends one row and seals the batch if it is full then. first reports that the row opened a batch that is still
// open: its owner sees to it that Flush is called in time.
func (b *Batcher) Add(e *event.Event, at Times, local *Local) (first bool) {
	if at.Start < minTime || at.IntervalStart < at.Start || at.End < at.IntervalStart || at.End > maxTime {
		b.refused.Add(1)
		b.metrics.refused.Inc()
		return false
	}
	w := b.builder
	w.AddRow()
	b.addIdentity(e, local)
	addMoments(w, e, at)
	addCounters(w, e)
	w.Set32(flow.Replay, bit(b.config.Replay))
	b.metrics.open.Set(float64(w.Rows()))
	if w.Rows() == 1 && b.config.Most != nil {
		b.most = b.config.Most()
	}
	if w.Full() || b.most > 0 && w.Rows() >= b.guess {
		b.Flush(Full)
		return false
	}
	return w.Rows() == 1
}

// firstGuess is how many rows are expected to fit a bounded batch before one was sealed.
const firstGuess = 6

// learn adapts the guess to what rows rows took: quickly down, slowly up.
func (b *Batcher) learn(rows, bytes int) {
	switch {
	case bytes > b.most:
		b.guess = max(1, min(b.guess, rows)*3/4)
	case rows >= b.guess && bytes+bytes/rows+bytes/8 < b.most:
		b.guess++
	}
}

// Flush seals what is there, if anything.
func (b *Batcher) Flush(reason Reason) {
	if b.builder.Rows() == 0 {
		return
	}
	columns, rows := b.builder.Seal(b.columns[:0])
	b.columns = columns
	payload, codec := columns, flowv1.Codec_CODEC_NONE
	if b.sealer != nil {
		b.compressed = b.sealer.Compress(b.compressed[:0], columns)
		payload, codec = b.compressed, flowv1.Codec_CODEC_ZSTD
	}
	b.seq++
	sealed := &flowv1.Batch{
		ExporterId: b.config.ExporterID, BatchSeq: b.seq, Rows: uint32(rows), Codec: codec,
		ColumnsBytes: uint32(len(columns)), Payload: slices.Clone(payload),
		Host: b.config.Host, BootId: b.config.BootID, SealedTimeNs: time.Now().UnixNano(),
	}
	b.metrics.sealed(reason, rows, len(columns), len(payload))
	bounded := b.most > 0 && len(payload) <= b.most
	if b.most > 0 {
		b.learn(rows, len(payload))
	}
	if b.config.Counters != nil && !bounded {
		sealed.Counters = b.config.Counters()
	}
	b.config.Emit(sealed)
}
