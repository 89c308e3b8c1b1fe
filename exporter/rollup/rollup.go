// Package rollup makes few rows out of many: what a full spool would have to drop is summed up by (local workload, network, remote address, service port,
// role, minute of end_time_ns), and by whether and how it was sampled or replayed, which no sum may mix.
//
// What it promises. Sums over rows stay exactly what they were: connections opened, failures, bytes, segments. A column that is the same in all rows of a
// group is kept, one that is not is missing; what is no sum and no name (times of handshakes, round trips, windows) is missing. A row of kind rollup covers
// interval_start_ns to end_time_ns, and has the key of one of the records in it, which is nowhere else any more; its record_seq is 0 if it opened connections.
//
// It is pure and keeps nothing. What is rolled up must be known to nobody else, or it would count twice: service/spool hands out no batch that it has rolled up.
package rollup

import (
	"fmt"
	"math"
	"sync"

	"google.golang.org/protobuf/proto"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// batchRows is how many rows a batch of rollups has at most.
const batchRows = 5000

// Roller rolls batches up. It is safe for concurrent use, one call at a time.
type Roller struct {
	mu     sync.Mutex // guards both
	opener *flow.Opener
	sealer *flow.Sealer
}

// New returns a roller.
func New() (*Roller, error) {
	opener, err := flow.NewOpener()
	if err != nil {
		return nil, err
	}
	sealer, err := flow.NewSealer()
	return &Roller{opener: opener, sealer: sealer}, err
}

// Roll returns batches that say the same as those of one run, under some of their sequence numbers, ascending as they are. An error says that one of them cannot
// be read, or that rolling up saves nothing; then nothing has been done.
func (r *Roller) Roll(in []spool.Batch) ([]spool.Batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := table{groups: make(map[key]*group)}
	var last flowv1.Batch
	b := new(flow.Batch) // its memory is used again; texts are never overwritten
	for _, kept := range in {
		last.Reset()
		if err := proto.Unmarshal(kept.Body, &last); err != nil {
			return nil, fmt.Errorf("batch %d: %w", kept.Seq, err)
		}
		if err := r.opener.Open(&last, b); err != nil {
			return nil, fmt.Errorf("batch %d: %w", kept.Seq, err)
		}
		for row := range b.Rows {
			t.add(b, row)
		}
	}
	return r.seal(in, t.order, &last)
}

// seal makes batches of the groups. The last one has the counters of the last batch that went into them.
func (r *Roller) seal(in []spool.Batch, groups []*group, last *flowv1.Batch) (out []spool.Batch, err error) {
	for len(groups) > 0 {
		if len(out) == len(in) {
			return nil, fmt.Errorf("rolling %d batches up saves nothing", len(in))
		}
		part := groups[:min(len(groups), batchRows)]
		groups = groups[len(part):]
		w := flow.NewBuilder(len(part))
		for _, g := range part {
			g.write(w)
		}
		columns, rows := w.Seal(nil)
		m := &flowv1.Batch{
			ExporterId: last.GetExporterId(), Host: last.GetHost(), BootId: last.GetBootId(), SealedTimeNs: last.GetSealedTimeNs(),
			BatchSeq: in[len(out)].Seq, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)),
			Codec: flowv1.Codec_CODEC_ZSTD, Payload: r.sealer.Compress(nil, columns),
		}
		if len(groups) == 0 {
			m.Counters = last.GetCounters()
		}
		body, err := proto.Marshal(m)
		if err != nil {
			return nil, err
		}
		out = append(out, spool.Batch{Run: in[len(out)].Run, Seq: m.BatchSeq, Rows: m.Rows, Body: body})
	}
	return out, nil
}

// key tells groups apart.
type key struct {
	workload, network string
	remote            [16]byte
	local, service    uint16 // the service's port; of a record without a role both are kept
	role, sample      uint32
	replay            uint32
	minute            uint64
}

const minute = 60_000_000_000

func keyOf(b *flow.Batch, row int) key {
	k := key{
		workload: b.Text(flow.LocalWorkload, row), network: b.Text(flow.Network, row), remote: b.Addr(flow.RemoteAddr, row),
		role: b.Get32(flow.Role, row), sample: b.Get32(flow.SampleRate, row), replay: b.Get32(flow.Replay, row), minute: b.Get64(flow.EndTimeNs, row) / minute,
	}
	local, remote := uint16(b.Get32(flow.LocalPort, row)), uint16(b.Get32(flow.RemotePort, row))
	switch k.role {
	case flow.RoleClient:
		k.service = remote
	case flow.RoleServer:
		k.local = local
	default:
		k.local, k.service = local, remote
	}
	return k
}

// sums32 are the numbers that add up; those of 64 bits are bytes.
var sums32 = [...]flow.U32{
	flow.TxSegs, flow.RxSegs, flow.RetransSegs, flow.RetransSyn, flow.RetransClosing, flow.RetransBytes, flow.LostSegs, flow.ReordSeen, flow.DeliveredCe, flow.RstSent,
	flow.RstReceived, flow.Rto, flow.BusyUs, flow.RwndLimitedUs, flow.SndbufLimitedUs,
}

// texts, values and addrs are kept where all rows agree.
var (
	texts = [...]flow.U32{
		flow.Comm, flow.Netns, flow.LocalInstance, flow.LocalZone, flow.LocalRegion, flow.LocalRelease,
	}
	values = [...]flow.U32{flow.RoleSource, flow.LocalEvidence, flow.LocalWhy}
)

// group is one row of kind rollup in the making.
type group struct {
	key

	flowID          uint64
	seq             uint32
	opens           bool // the row whose key it has opened a connection
	start, from, to uint64
	connections     uint32
	failures        uint32
	reason          uint32 // close_reason of the failures
	reasons         bool   // there is one
	tx, rx          uint64
	sums            [len(sums32)]uint32
	texts           [len(texts)]string
	values          [len(values)]uint32
	localAddr       [16]byte
}

// table finds a row's group.
type table struct {
	groups map[key]*group
	order  []*group
}

func (t *table) add(b *flow.Batch, row int) {
	k := keyOf(b, row)
	g := t.groups[k]
	if g == nil || !g.fits(b, row) {
		g = newGroup(k, b, row)
		t.groups[k] = g
		t.order = append(t.order, g)
	}
	g.add(b, row)
}

func newGroup(k key, b *flow.Batch, row int) *group {
	g := &group{
		key: k, flowID: b.Get64(flow.FlowID, row), seq: b.Get32(flow.RecordSeq, row), start: math.MaxUint64, from: math.MaxUint64,
		localAddr: b.Addr(flow.LocalAddr, row),
	}
	for i, f := range texts {
		g.texts[i] = b.Text(f, row)
	}
	for i, f := range values {
		g.values[i] = b.Get32(f, row)
	}
	return g
}

// fits reports whether no sum would overflow.
func (g *group) fits(b *flow.Batch, row int) bool {
	for i, f := range sums32 {
		if v := b.Get32(f, row); g.sums[i]+v < v {
			return false
		}
	}
	return g.connections+b.Get32(flow.Connections, row) >= g.connections && g.failures+b.Get32(flow.Failures, row) >= g.failures
}

func (g *group) add(b *flow.Batch, row int) {
	opens := b.Get32(flow.StartObserved, row) != 0 && b.Get32(flow.RecordSeq, row) == 0
	if opens {
		g.connections += b.Get32(flow.Connections, row)
		if !g.opens {
			g.opens, g.flowID, g.seq = true, b.Get64(flow.FlowID, row), 0
		}
	}
	if n := b.Get32(flow.Failures, row); n > 0 {
		g.failures += n
		g.noteReason(b.Get32(flow.CloseReason, row))
	}
	for i, f := range sums32 {
		g.sums[i] += b.Get32(f, row)
	}
	g.tx += b.Get64(flow.TxBytes, row)
	g.rx += b.Get64(flow.RxBytes, row)
	g.start = min(g.start, b.Get64(flow.StartTimeNs, row))
	g.from = min(g.from, b.Get64(flow.IntervalStartNs, row))
	g.to = max(g.to, b.Get64(flow.EndTimeNs, row))
	g.keepWhatIsSame(b, row)
}

// noteReason keeps the reason of failures while there is one.
func (g *group) noteReason(reason uint32) {
	if g.reasons && g.reason != reason {
		reason = flow.CloseUnknown
	}
	g.reason, g.reasons = reason, true
}

func (g *group) keepWhatIsSame(b *flow.Batch, row int) {
	for i, f := range texts {
		if g.texts[i] != b.Text(f, row) {
			g.texts[i] = ""
		}
	}
	for i, f := range values {
		if g.values[i] != b.Get32(f, row) {
			g.values[i] = 0
		}
	}
	if g.localAddr != b.Addr(flow.LocalAddr, row) {
		g.localAddr = [16]byte{}
	}
}

// write appends the row.
func (g *group) write(w *flow.Builder) {
	w.AddRow()
	w.Set64(flow.FlowID, g.flowID)
	w.Set32(flow.RecordSeq, g.seq)
	w.Set32(flow.Kind, flow.KindRollup)
	w.Set32(flow.Role, g.role)
	w.Set32(flow.SampleRate, g.sample)
	w.Set32(flow.Replay, g.replay)
	w.Set32(flow.Connections, g.connections)
	w.Set32(flow.Failures, g.failures)
	w.Set32(flow.CloseReason, g.reason)
	w.Set64(flow.StartTimeNs, g.start)
	w.Set64(flow.IntervalStartNs, g.from)
	w.Set64(flow.EndTimeNs, g.to)
	w.Set64(flow.TxBytes, g.tx)
	w.Set64(flow.RxBytes, g.rx)
	w.SetText(flow.LocalWorkload, g.workload)
	w.SetText(flow.Network, g.network)
	w.SetAddr(flow.LocalAddr, g.localAddr)
	w.SetAddr(flow.RemoteAddr, g.remote)
	w.Set32(flow.LocalPort, uint32(g.local))
	w.Set32(flow.RemotePort, uint32(g.service))
	if g.opens {
		w.Set32(flow.StartObserved, 1)
	}
	for i, f := range sums32 {
		w.Set32(f, g.sums[i])
	}
	for i, f := range texts {
		w.SetText(f, g.texts[i])
	}
	for i, f := range values {
		v := g.values[i]
		if f == flow.LocalWhy && g.workload == "" && v == flow.WhyNamed { // they differ
			v = flow.WhyNoEvidence
		}
		w.Set32(f, v)
	}
}
