package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/exporter/transport"
	"tributary/proto/flow"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// replayerEnv makes this program one replaying exporter; it holds a replayerConfig.
const replayerEnv = "TRIBUTARY_FAULTS_REPLAYER"

// replayerConfig says who a replaying exporter is. What it makes is no capture: rows of a made-up workload that talks to addresses outside, so that what must be
// stored is known to the byte. Its spool and its transport are the real ones.
type replayerConfig struct {
	Name    string        `json:"name"`
	Number  byte          `json:"number"`
	Address string        `json:"address"` // of its link
	Spool   string        `json:"spool"`
	Journal string        `json:"journal"`
	Quiet   string        `json:"quiet"` // while this file is there nothing is made
	Rows    int           `json:"rows"`  // of a batch
	Every   time.Duration `json:"every"` // between two batches
}

// spoolMost is the bound of a replayer's spool.
const spoolMost = 24 << 20

// status is what a replayer says several times a second.
type status struct {
	Run         string            `json:"run"`
	Appended    uint64            `json:"appended"` // rows, as all of these
	Pending     uint64            `json:"pending"`
	Acked       uint64            `json:"acked"`
	DiskBytes   int64             `json:"disk_bytes"`
	MemoryBytes int64             `json:"memory_bytes"`
	OnDisk      bool              `json:"on_disk"`
	Quiet       bool              `json:"quiet"`
	Counters    map[string]uint64 `json:"counters"` // what exporter_health must end up with
}

const (
	statusEvery = 100 * ms
	keepAcked   = time.Minute // as the exporter's
)

// replay is the whole life of a replaying exporter.
func replay(text string) error {
	var c replayerConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails
	r := &replayed{config: c, run: c.Name + "-" + hex.EncodeToString(random), rows: flow.NewBuilder(c.Rows)}
	if err := r.open(); err != nil {
		return err
	}
	defer r.journal.Close()
	keeping, end := context.WithCancel(context.Background())
	var rooms sync.WaitGroup
	rooms.Go(func() { r.spool.Run(keeping) })
	rooms.Go(func() { _ = r.transport.Run(ctx) }) // until the end
	rooms.Go(func() { r.tell(ctx) })
	err := r.make(ctx)
	end()
	rooms.Wait()
	return err
}

// replayed is a replaying exporter from inside.
type replayed struct {
	config    replayerConfig
	run       string
	rows      *flow.Builder
	journal   *os.File
	spool     *spool.Spool
	transport *transport.Transport
}

func (r *replayed) open() (err error) {
	if r.journal, err = os.OpenFile(r.config.Journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	log, registry := slog.New(slog.NewTextHandler(os.Stderr, nil)), prometheus.NewRegistry()
	c := spool.Default()
	c.Run, c.Host, c.BootID, c.FS, c.MaxBytes, c.KeepAcked = r.run, r.config.Name, strings.TrimSpace(string(boot)), spool.Dir(r.config.Spool), spoolMost, keepAcked
	if r.spool, err = spool.New(c, registry, log); err != nil {
		return err
	}
	r.transport, err = transport.New(transport.Config{
		Address: r.config.Address, Credentials: insecure.NewCredentials(), Spool: r.spool, ExporterID: r.run, Host: r.config.Name, BootID: c.BootID,
		Version: "campaign", Claims: nobody{}, Counters: r.counters,
	}, registry, log)
	return err
}

// make seals batches, and writes down each before and after the spool has it.
func (r *replayed) make(ctx context.Context) error {
	tick := time.NewTicker(r.config.Every)
	defer tick.Stop()
	for seq := uint64(1); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if r.quiet() {
			continue
		}
		b, line := r.seal(seq)
		seq++
		if err := r.write(line); err != nil {
			return err
		}
		r.transport.Add(b)
		s := r.spool.Stats()
		line.Kept, line.Sealed = s.State == spool.DiskOK && s.InMemory.Batches == 0, time.Now().UnixNano()
		if err := r.write(line); err != nil {
			return err
		}
	}
}

func (r *replayed) quiet() bool {
	_, err := os.Stat(r.config.Quiet)
	return err == nil
}

func (r *replayed) write(e entry) error {
	text, err := json.Marshal(e)
	if err == nil {
		_, err = r.journal.Write(append(text, '\n')) // the page cache outlives every fault but a power cut of this machine
	}
	return err
}

// The bytes of a row are a function of its flow_id, so that the store can say which rows are not as they were made.
const (
	txModulus, txLeast = 977, 100
	rxModulus, rxLeast = 1009, 2000
	rowsWrong          = "countIf(tx_bytes != 100 + flow_id % 977 OR rx_bytes != 2000 + flow_id % 1009)"
)

func (r *replayed) seal(seq uint64) (*flowv1.Batch, entry) {
	now, w := uint64(time.Now().UnixNano()), r.rows
	line := entry{Run: r.run, Seq: seq, Rows: r.config.Rows}
	for i := range uint64(r.config.Rows) {
		id := (seq-1)*uint64(r.config.Rows) + i + 1
		tx, rx := txLeast+id%txModulus, rxLeast+id%rxModulus
		line.Tx, line.Rx = line.Tx+tx, line.Rx+rx
		w.AddRow()
		w.Set64(flow.FlowID, id)
		w.Set32(flow.Kind, flow.KindClosed)
		w.Set32(flow.Role, flow.RoleClient)
		w.Set32(flow.StartObserved, 1)
		w.Set32(flow.Connections, 1)
		w.Set32(flow.SampleRate, 1)
		w.SetText(flow.Network, "default")
		w.SetText(flow.LocalWorkload, workloadOf(r.config.Name))
		w.Set32(flow.LocalEvidence, flow.EvidenceStatic)
		w.SetAddr(flow.LocalAddr, netip.AddrFrom4([4]byte{10, 200, r.config.Number, byte(id % 250)}).As16())
		w.SetAddr(flow.RemoteAddr, netip.AddrFrom4([4]byte{198, 51, 100, byte(id % 199)}).As16())
		w.Set32(flow.LocalPort, uint32(1024+id%60_000))
		w.Set32(flow.RemotePort, 443)
		w.Set64(flow.TxBytes, tx)
		w.Set64(flow.RxBytes, rx)
		for _, t := range []flow.U64{flow.StartTimeNs, flow.IntervalStartNs, flow.EndTimeNs} {
			w.Set64(t, now)
		}
	}
	columns, rows := w.Seal(nil)
	return &flowv1.Batch{
		ExporterId: r.run, Host: r.config.Name, BatchSeq: seq, Rows: uint32(rows), ColumnsBytes: uint32(len(columns)), Payload: columns,
		SealedTimeNs: int64(now), Counters: r.counters(),
	}, line
}

func workloadOf(name string) string { return "faults/" + name }

// tell prints a status several times a second.
func (r *replayed) tell(ctx context.Context) {
	out, tick := json.NewEncoder(os.Stdout), time.NewTicker(statusEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		quiet, s := r.quiet(), r.spool.Stats()
		st := status{
			Run: r.run, Appended: s.Appended.Rows, Pending: s.Pending.Rows, Acked: s.Acked.Rows, DiskBytes: s.DiskBytes, MemoryBytes: s.MemoryBytes,
			OnDisk: s.State == spool.DiskOK && !s.Scanning, Quiet: quiet, Counters: map[string]uint64{},
		}
		for _, c := range r.counters() {
			st.Counters[c.GetName()] = c.GetValue()
		}
		if out.Encode(st) != nil {
			return // nobody listens
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// counters are the books that travel, under the names that every exporter gives them.
func (r *replayed) counters() []*flowv1.Counter {
	s := r.spool.Stats()
	list := []*flowv1.Counter{
		{Name: "spool.appended_rows", Value: s.Appended.Rows},
		{Name: "spool.recovered_rows", Value: s.Recovered.Rows + s.Recalled.Rows},
		{Name: "spool.acked_rows", Value: s.Acked.Rows},
		{Name: "spool.rejected_rows", Value: s.Rejected.Rows},
	}
	for _, reason := range spool.Reasons() {
		list = append(list, &flowv1.Counter{Name: fmt.Sprintf("spool.dropped_rows_%s", reason), Value: s.Dropped[reason].Rows})
	}
	return list
}

// nobody claims anything.
type nobody struct{}

// Subscribe implements transport.Claims.
func (nobody) Subscribe(ctx context.Context) transport.Subscription {
	none := make(chan *flowv1.Ownership)
	context.AfterFunc(ctx, func() { close(none) })
	return transport.NewSubscription(nil, none, func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

// VerifiedTo implements transport.Claims.
func (nobody) VerifiedTo(now int64) int64 { return now }
