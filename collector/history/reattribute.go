package history

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tributary/collector/attribute"
	"tributary/collector/ownership"
	"tributary/collector/schema"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// Options say what to ask again.
type Options struct {
	Since, Until time.Time     // of end_time_ns
	Tolerance    time.Duration // as hold_tolerance
	Internal     []netip.Prefix
	MaxClock     time.Duration // as max_clock_error
	DryRun       bool          // count, and write nothing
	// Regions answers for other regions' addresses; nil where there are none. They are asked what they know by now.
	Regions attribute.Regions
}

// Result counts rows.
type Result struct {
	Events  int            `json:"events"`  // of the history that were said again
	Asked   int            `json:"asked"`   // rows without a name
	Named   int            `json:"named"`   // of these, which have one now
	Settled int            `json:"settled"` // which are not pending any more, and have no name
	Why     map[string]int `json:"why"`     // of those without a name
}

const (
	batchRows  = 20_000  // asked together
	commitRows = 200_000 // written together
	// regionPatience is longer than a region's breaker takes to find out that it is down.
	regionPatience = 4 * time.Second
	// evidenceAfter is how long evidence may come after a row: the history is read that much beyond the last row.
	evidenceAfter = 5 * time.Minute
)

// unnamedSQL lists rows that an answer may change, one exporter after the other: what is external stays so.
const unnamedSQL = `SELECT exporter_id, host, flow_id, record_seq, version, network, kind, role, close_reason, start_observed, rx_bytes, rx_segs, connect_us, min_rtt_us,
    ` + schema.KnownAs + `, remote_addr, remote_port, toUnixTimestamp64Nano(start_time_ns) AS start_ns, toUnixTimestamp64Nano(interval_start_ns) AS interval_ns,
    toUnixTimestamp64Nano(end_time_ns) AS end_ns, local_evidence, remote_why
FROM {database}.flows
WHERE end_time_ns >= fromUnixTimestamp64Nano({from:Int64}) AND end_time_ns < fromUnixTimestamp64Nano({to:Int64})
    AND remote_why NOT IN ('named', 'external')
ORDER BY exporter_id`

// unnamed is such a row.
type unnamed struct {
	Exporter      string     `json:"exporter_id"`
	Host          string     `json:"host"`
	FlowID        uint64     `json:"flow_id"`
	RecordSeq     uint32     `json:"record_seq"`
	Version       uint32     `json:"version"`
	Network       string     `json:"network"`
	Kind          string     `json:"kind"`
	Role          string     `json:"role"`
	CloseReason   string     `json:"close_reason"`
	StartObserved bool       `json:"start_observed"`
	RxBytes       uint64     `json:"rx_bytes"`
	RxSegs        uint32     `json:"rx_segs"`
	ConnectUs     uint32     `json:"connect_us"`
	MinRttUs      uint32     `json:"min_rtt_us"`
	KnownAddr     netip.Addr `json:"known_addr"` // its own, as the remote end knows it
	RemoteAddr    netip.Addr `json:"remote_addr"`
	KnownPort     uint32     `json:"known_port"`
	RemotePort    uint32     `json:"remote_port"`
	Start         int64      `json:"start_ns"`
	Interval      int64      `json:"interval_ns"`
	End           int64      `json:"end_ns"`
	LocalEvidence string     `json:"local_evidence"`
	Why           string     `json:"remote_why"`
}

// rename is a row of renames.
type rename struct {
	Job       string `json:"job"`
	Run       uint64 `json:"run"`
	Exporter  string `json:"exporter_id"`
	FlowID    uint64 `json:"flow_id"`
	RecordSeq uint32 `json:"record_seq"`
	Version   uint32 `json:"version"`
	Workload  string `json:"remote_workload"`
	Instance  string `json:"remote_instance"`
	Zone      string `json:"remote_zone"`
	Region    string `json:"remote_region"`
	Release   string `json:"remote_release"`
	Evidence  string `json:"remote_evidence"`
	Why       string `json:"remote_why"`
	End       stamp  `json:"end_time_ns"`
}

// job is one run.
type job struct {
	o      Options
	store  *schema.Client
	said   *replay
	view   ownership.View
	attr   *attribute.Attributor
	opener *flow.Opener
	result Result
	run    uint64
	rows   []unnamed
	staged int // names in renames that are not in flows_raw yet
}

// Reattribute asks again for every row without a name.
func Reattribute(ctx context.Context, server schema.Server, o Options) (Result, error) {
	store := schema.NewClient(server, 2)
	defer store.Close()
	j := &job{o: o, store: store, run: rand.Uint64(), result: Result{Why: map[string]int{}}}
	internal := o.Internal
	if internal == nil {
		internal = ownership.DefaultInternal()
	}
	var err error
	j.said, err = say(ctx, store, ownership.Config{Internal: internal, MaxClockError: o.MaxClock, Retention: before + o.Until.Sub(o.Since) + time.Hour}, o.Since, o.Until.Add(evidenceAfter))
	if err != nil {
		return j.result, err
	}
	j.result.Events = j.said.events
	j.view = j.said.table.View(j.said.last)
	// No record can be another's mirror here: only those without a name are read.
	if j.attr, err = attribute.New(attribute.Config{Tolerance: o.Tolerance, MirrorEntries: 1, Regions: o.Regions}, j.said.table, prometheus.NewRegistry()); err != nil {
		return j.result, err
	}
	if j.opener, err = flow.NewOpener(); err != nil {
		return j.result, err
	}
	err = store.EachRow(ctx, statement(store, unnamedSQL, map[string]string{
		"from": strconv.FormatInt(o.Since.UnixNano(), 10), "to": strconv.FormatInt(o.Until.UnixNano(), 10),
	}), func(line []byte) error {
		var r unnamed
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("understand a row: %w", err)
		}
		if n := len(j.rows); n >= batchRows || n > 0 && j.rows[n-1].Exporter != r.Exporter {
			if err := j.ask(ctx); err != nil {
				return err
			}
		}
		j.rows = append(j.rows, r)
		return nil
	})
	if err == nil {
		err = j.ask(ctx)
	}
	if err == nil {
		err = j.commit(ctx)
	}
	return j.result, err
}

// ask asks for the rows that were gathered, all of one exporter, and writes the answers.
func (j *job) ask(ctx context.Context) error {
	if len(j.rows) == 0 {
		return nil
	}
	b, err := j.batch()
	if err != nil {
		return fmt.Errorf("rows of %s: %w", j.rows[0].Exporter, err)
	}
	open := j.attr.Begin(b, j.view, nil)
	if j.o.Regions != nil {
		open = j.await(ctx, b, open)
	}
	j.attr.GiveUp(b, open, 1)
	byKey := make(map[[2]uint64]*unnamed, len(j.rows))
	for i := range j.rows {
		byKey[[2]uint64{j.rows[i].FlowID, uint64(j.rows[i].RecordSeq)}] = &j.rows[i]
	}
	var out []rename
	for row := range b.Rows {
		was := byKey[[2]uint64{b.Get64(flow.FlowID, row), uint64(b.Get32(flow.RecordSeq, row))}]
		if n, ok := j.answer(b, row, was); ok {
			out = append(out, n)
		}
	}
	j.result.Asked += len(j.rows)
	j.rows = j.rows[:0]
	if j.o.DryRun {
		return nil
	}
	if err := j.stage(ctx, out); err != nil {
		return err
	}
	if j.staged < commitRows {
		return nil
	}
	return j.commit(ctx)
}

// await asks again while other regions' answers come in, and returns the rows that have none.
func (j *job) await(ctx context.Context, b *flow.Batch, open []uint32) []uint32 {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for last := time.Now(); len(open) > 0 && time.Since(last) < regionPatience; {
		select {
		case <-ctx.Done():
			return open
		case <-tick.C:
		}
		before := len(open)
		if open = j.attr.Again(b, j.view, open, 1, false); len(open) < before {
			last = time.Now()
		}
	}
	return open
}

// answer makes a row's new version, if there is something new to say.
func (j *job) answer(b *flow.Batch, row int, was *unnamed) (n rename, ok bool) {
	text := func(f flow.U32) string { return b.Text(f, row) }
	why := flow.WhyNames.Name(b.Get32(flow.RemoteWhy, row))
	switch {
	case why == flow.WhyNames[flow.WhyNamed]:
		j.result.Named++
	case (was.Why == flow.WhyNames[flow.WhyPending]) && b.Get32(flow.RemoteWhy, row) != flow.WhyPending:
		j.result.Settled++
		j.result.Why[why]++
	default:
		j.result.Why[was.Why]++
		return n, false
	}
	return rename{
		Run: j.run, Exporter: was.Exporter, FlowID: was.FlowID, RecordSeq: was.RecordSeq, Version: max(b.Get32(flow.Version, row), was.Version+1),
		Workload: text(flow.RemoteWorkload), Instance: text(flow.RemoteInstance), Zone: text(flow.RemoteZone), Region: text(flow.RemoteRegion),
		Release: text(flow.RemoteRelease), Evidence: flow.EvidenceNames.Name(b.Get32(flow.RemoteEvidence, row)), Why: why,
		End: stamp(was.End),
	}, true
}

// batch makes a batch of the rows, as their exporter would have, of what naming looks at.
func (j *job) batch() (*flow.Batch, error) {
	w := flow.NewBuilder(len(j.rows))
	for i := range j.rows {
		r := &j.rows[i]
		w.AddRow()
		w.Set64(flow.FlowID, r.FlowID)
		w.Set32(flow.RecordSeq, r.RecordSeq)
		w.SetText(flow.Network, r.Network)
		w.Set32(flow.Kind, numberOf(flow.KindNames, r.Kind))
		w.Set32(flow.Role, numberOf(flow.RoleNames, r.Role))
		w.Set32(flow.CloseReason, numberOf(flow.CloseReasonNames, r.CloseReason))
		w.Set32(flow.LocalEvidence, numberOf(flow.EvidenceNames, r.LocalEvidence))
		if r.StartObserved {
			w.Set32(flow.StartObserved, 1)
		}
		w.Set64(flow.RxBytes, r.RxBytes)
		w.Set32(flow.RxSegs, r.RxSegs)
		w.Set32(flow.ConnectUs, r.ConnectUs)
		w.Set32(flow.MinRttUs, r.MinRttUs)
		w.SetAddr(flow.LocalAddr, r.KnownAddr.As16())
		w.SetAddr(flow.RemoteAddr, r.RemoteAddr.As16())
		w.Set32(flow.LocalPort, r.KnownPort)
		w.Set32(flow.RemotePort, r.RemotePort)
		w.Set64(flow.StartTimeNs, uint64(max(r.Start, 1)))
		w.Set64(flow.IntervalStartNs, uint64(max(r.Interval, r.Start, 1)))
		w.Set64(flow.EndTimeNs, uint64(max(r.End, r.Interval, r.Start, 1)))
	}
	columns, rows := w.Seal(nil)
	b := new(flow.Batch)
	err := j.opener.Open(&flowv1.Batch{
		ExporterId: j.rows[0].Exporter, Host: j.rows[0].Host, BatchSeq: 1, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns,
	}, b)
	b.ReceivedTimeNs = j.view.Now()
	return b, err
}

func numberOf(names flow.Enum, name string) uint32 {
	for i, n := range names {
		if n == name {
			return uint32(i)
		}
	}
	return 0
}

// stage writes what is new of the new versions.
func (j *job) stage(ctx context.Context, renames []rename) error {
	if len(renames) == 0 {
		return nil
	}
	for i := range renames {
		renames[i].Job, renames[i].Run = "reattribute", j.run
	}
	if err := schema.Insert(ctx, j.store, "renames", slices.Values(renames)); err != nil {
		return fmt.Errorf("write names: %w", err)
	}
	j.staged += len(renames)
	return nil
}

// commit writes the new versions whole, out of the rows that are there.
func (j *job) commit(ctx context.Context) error {
	if j.staged == 0 {
		return nil
	}
	s := statement(j.store, insertSQL(), map[string]string{
		"run":  strconv.FormatUint(j.run, 10),
		"from": strconv.FormatInt(j.o.Since.UnixNano(), 10), "to": strconv.FormatInt(j.o.Until.UnixNano(), 10),
	})
	if err := j.store.Exec(ctx, s); err != nil {
		return fmt.Errorf("write new versions: %w", err)
	}
	j.run, j.staged = j.run+1, 0
	return nil
}

// insertSQL copies rows under their new versions: every column but those of renames is as it was.
func insertSQL() string {
	renamed := map[string]bool{
		"version": true, "remote_workload": true, "remote_instance": true, "remote_zone": true, "remote_region": true, "remote_release": true,
		"remote_evidence": true, "remote_why": true,
	}
	names := schema.Names()
	columns := make([]string, len(names))
	for i, name := range names {
		columns[i] = "f." + name
		if renamed[name] {
			columns[i] = "r." + name
		}
	}
	return "INSERT INTO {database}.flows_raw (" + strings.Join(names, ", ") + ")\nSELECT " + strings.Join(columns, ", ") + `
FROM (SELECT * FROM {database}.flows
    WHERE end_time_ns >= fromUnixTimestamp64Nano({from:Int64}) AND end_time_ns < fromUnixTimestamp64Nano({to:Int64})
    AND (exporter_id, flow_id, record_seq) IN (SELECT exporter_id, flow_id, record_seq FROM {database}.renames WHERE job = 'reattribute' AND run = {run:UInt64})) AS f
INNER JOIN (SELECT * FROM {database}.renames WHERE job = 'reattribute' AND run = {run:UInt64}) AS r
    ON f.exporter_id = r.exporter_id AND f.flow_id = r.flow_id AND f.record_seq = r.record_seq
WHERE f.version < r.version`
}

func statement(store *schema.Client, text string, params map[string]string) schema.Statement {
	return schema.Statement{
		Text: strings.ReplaceAll(text, "{database}", store.Server().Database), Params: params, Settings: map[string]string{"max_execution_time": "600"},
	}
}
