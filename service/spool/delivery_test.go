package spool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/exporter/transport"
	"tributary/proto/flowv1"
	"tributary/service/spool"
)

// syncedAfter is when a batch on a disk that is well survives a power cut: the sync of every second, and the one under way.
const syncedAfter = 2500 * time.Millisecond

// batch is what is known of one that was sealed.
type batch struct {
	run   int
	at    time.Time
	disk  bool // Add returned while everything was on disk, or it went there later: at
	doubt bool // the disk failed before it was synced, and a failed sync is not repeated
	lost  bool // it may be missing
}

// world is one schedule.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	disk  spool.FaultyDisk
	store *store
	trace []string

	mu   sync.Mutex
	node *collector // nil: away

	run       int
	seq       uint64
	spool     *spool.Spool
	transport *transport.Transport
	end       func()

	sealed map[string]*batch
	flips  int
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), disk: spool.NewFaultyDisk(seed), sealed: map[string]*batch{},
		store: &store{rng: rand.New(rand.NewPCG(seed, 4)), payloads: map[string][]byte{}, refused: map[string]bool{}},
	}
}

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

func (w *world) dial(ctx context.Context, _ string) (net.Conn, error) {
	w.mu.Lock()
	node := w.node
	w.mu.Unlock()
	if node == nil {
		return nil, errors.New("no collector for the test")
	}
	return node.listener.DialContext(ctx)
}

func (w *world) collector(up bool) {
	w.mu.Lock()
	node := w.node
	w.node = nil
	w.mu.Unlock()
	if node != nil {
		node.stop()
	}
	if up {
		w.mu.Lock()
		w.node = startCollector(w.store)
		w.mu.Unlock()
	}
	w.logf("collector up: %v", up)
}

// boot starts the exporter's next run.
func (w *world) boot() {
	w.run, w.seq = w.run+1, 0
	id := fmt.Sprintf("run-%d", w.run)
	quiet, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	var err error
	if w.spool, err = spool.New(spool.SmallOn(w.disk, id), registry, quiet); err != nil {
		w.t.Fatal(err)
	}
	w.transport, err = transport.New(transport.Config{
		Address: "collector", Dial: w.dial, Credentials: insecure.NewCredentials(), Spool: w.spool, ExporterID: id, Host: "host-a",
		Claims: noClaims{}, Counters: func() []*flowv1.Counter { return nil },
	}, registry, quiet)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var rooms sync.WaitGroup
	rooms.Go(func() { w.spool.Run(ctx) })
	rooms.Go(func() { _ = w.transport.Run(ctx) })
	w.end = func() {
		cancel()
		rooms.Wait()
	}
	synctest.Wait()
}

type noClaims struct{}

func (noClaims) Subscribe(context.Context) transport.Subscription {
	return transport.NewSubscription(nil, make(chan *flowv1.Ownership), func(o *flowv1.Ownership) *flowv1.Ownership { return o })
}

func (noClaims) VerifiedTo(int64) int64 { return 0 }

// seal adds some batches, the bytes of each its own.
func (w *world) seal() {
	for range 1 + w.rng.IntN(6) {
		w.seq++
		payload := make([]byte, 50+w.rng.IntN(3000))
		for i := range payload {
			payload[i] = byte(w.rng.Uint32())
		}
		id := fmt.Sprintf("run-%d", w.run)
		w.transport.Add(&flowv1.Batch{ExporterId: id, BatchSeq: w.seq, Rows: 7, Payload: payload, Host: "host-a"})
		s := w.spool.Stats()
		w.sealed[fmt.Sprintf("%s/%d", id, w.seq)] = &batch{run: w.run, at: time.Now(), disk: s.State == spool.DiskOK && s.InMemory.Batches == 0}
	}
}

func (w *world) sleep(most time.Duration) {
	time.Sleep(time.Duration(w.rng.Int64N(int64(most))))
	if s := w.spool.Stats(); s.State == spool.DiskOK && s.InMemory.Batches == 0 {
		for _, b := range w.sealed {
			if b.run == w.run && !b.disk {
				b.disk, b.at = true, time.Now() // the disk took it meanwhile
			}
		}
	}
}

// crash ends the run by a kill or a power cut, and says what may be missing then.
func (w *world) crash(cut bool) {
	now := time.Now()
	w.logf("crash of run %d, power cut: %v", w.run, cut)
	for _, b := range w.sealed {
		safe := b.disk
		if cut {
			safe = safe && !b.doubt && now.Sub(b.at) > syncedAfter
		}
		b.lost = b.lost || !safe && (cut || b.run == w.run)
	}
	if cut {
		w.disk.Cut()
	} else {
		w.disk.Kill()
	}
	w.end()
	w.disk.Heal()
	w.boot()
}

// doubt notes which batches a fault of the disk may have hit before their sync.
func (w *world) doubt() {
	for _, b := range w.sealed {
		b.doubt = b.doubt || time.Since(b.at) < syncedAfter
	}
}

func (w *world) step() {
	switch w.rng.IntN(30) {
	case 0:
		w.crash(false)
	case 1:
		w.crash(true)
	case 2:
		w.collector(false)
	case 3:
		w.collector(true)
	case 4:
		w.store.mu.Lock()
		w.store.stalled = !w.store.stalled
		w.store.mu.Unlock()
		w.logf("answers stalled or not")
	case 5:
		w.disk.Fill(w.rng.IntN(5000))
		w.doubt()
		w.logf("disk fills")
	case 6:
		w.disk.Fail()
		w.doubt()
		w.logf("disk fails")
	case 7, 8, 11, 12, 13, 14:
		w.disk.Heal()
		w.logf("disk heals")
	case 9:
		if w.disk.Flip() {
			w.flips++
			w.logf("bit flipped")
		}
	case 10:
		w.sleep(45 * time.Second)
	default:
		w.seal()
		w.sleep(time.Second)
	}
	w.balanced()
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.trace {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func (w *world) balanced() {
	s := w.spool.Stats()
	out := s.Acked.Rows + s.Rejected.Rows + s.Pending.Rows
	for _, d := range s.Dropped {
		out += d.Rows
	}
	if in := s.Appended.Rows + s.Recovered.Rows + s.Recalled.Rows; in != out {
		w.fail("books: %d in, %d out: %+v", in, out, s)
	}
}

// judge heals everything; within 30 s all must be settled, and nothing missing that was to be kept.
func (w *world) judge() {
	w.disk.Heal()
	w.store.mu.Lock()
	w.store.stalled, w.store.calm = false, true
	w.store.mu.Unlock()
	w.collector(true)
	time.Sleep(30 * time.Second)
	w.balanced()
	if s := w.spool.Stats(); s.Pending.Batches != 0 || s.State != spool.DiskOK {
		w.fail("30 s after the last fault: %+v", s)
	}
	var missing []string
	for key, b := range w.sealed {
		if !b.lost && !w.store.has(key) {
			missing = append(missing, key)
		}
	}
	if len(missing) > w.flips {
		w.fail("%d batches are missing and %d bits were flipped: %v", len(missing), w.flips, missing)
	}
	for key := range w.store.payloads {
		if w.sealed[key] == nil {
			w.fail("%s was stored and never sealed", key)
		}
	}
	if len(w.store.wrong) > 0 {
		w.fail("came again with other bytes: %v", w.store.wrong)
	}
}

func deliver(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, seed)
		defer w.collector(false)
		defer func() { w.end() }()
		w.collector(true)
		w.boot()
		for range 120 {
			w.step()
		}
		w.judge()
	})
}

// TestDeliverySchedules runs spool and transport together, over gRPC in memory, against collectors and a disk that fail: exporters
// killed, power cut, collectors away and back, silent, refusing, breaking streams between storing and answering, disks full, failing and
// flipped. The seed fixes the faults and the inputs, not the order of goroutines: what must hold decides, not a trace. To repeat one:
// -run TestDeliverySchedules/seed=17.
func TestDeliverySchedules(t *testing.T) {
	var next atomic.Uint64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := next.Add(1); seed <= deliveries && !t.Failed(); seed = next.Add(1) {
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { deliver(t, seed) })
			}
		})
	}
	wg.Wait()
}

const deliveries = 40
