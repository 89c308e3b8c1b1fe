package transport

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"tributary/proto/flowv1"
	"tributary/service/spool"
)

func TestReconnectSendsTheSameBytesInOrder(t *testing.T) {
	c := &fakeCollector{}
	c.flows = func(n int, stream flowv1.Collector_FlowsServer) error {
		if n > 1 {
			return c.ackAll(n, stream)
		}
		for range 3 {
			if _, err := c.take(stream); err != nil {
				return err
			}
		}
		if err := stream.Send(ack(2, 2)); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "cut for the test")
	}
	c.serve(t, "")
	r := run(t, c.address, nil)
	eventually(t, "the collector is there", func() bool { return r.log.count("connected to the collector") == 1 })
	var want []string
	for seq := range uint64(5) {
		b := batch(seq+1, 100)
		want = append(want, wire(t, b))
		r.Add(b)
	}
	flush(t, r)
	got := c.batches()
	var seqs []uint64
	for _, b := range got {
		seqs = append(seqs, b.BatchSeq)
		if wire(t, b) != want[b.BatchSeq-1] {
			t.Errorf("batch %d arrived with other bytes", b.BatchSeq)
		}
	}
	second := seqs[3:]
	if !slices.IsSorted(second) || !slices.Equal(second, []uint64{1, 3, 4, 5}) {
		t.Errorf("sent %v; want the unacknowledged ones again, in order", seqs)
	}
	s, kept := r.Stats(), r.spool.Stats()
	if kept.Acked != (spool.Count{Batches: 5, Rows: 50}) || kept.Pending != (spool.Count{}) || s.Resent.Batches < 2 {
		t.Errorf("books: %+v, %+v", s, kept)
	}
	if now, ever := r.Connected(); !now || !ever {
		t.Errorf("connected now %v, ever %v", now, ever)
	}
	eventually(t, "both changes are logged", func() bool {
		return r.log.count("cut for the test") == 1 && r.log.count("connected to the collector again") == 1
	})
}

func TestCreditIsRespected(t *testing.T) {
	c := &fakeCollector{}
	proceed := make(chan struct{})
	c.flows = func(_ int, stream flowv1.Collector_FlowsServer) error {
		if err := stream.Send(&flowv1.FlowsResponse{CreditBytes: 300}); err != nil {
			return err
		}
		for range 2 {
			if _, err := c.take(stream); err != nil {
				return err
			}
		}
		<-proceed
		if err := stream.Send(&flowv1.FlowsResponse{ReceivedSeq: 2, CreditBytes: 300}); err != nil {
			return err
		}
		for {
			if _, err := c.take(stream); err != nil {
				return err
			}
		}
	}
	c.serve(t, "")
	r := run(t, c.address, nil)
	eventually(t, "the credit is known", func() bool {
		r.window.mu.Lock()
		defer r.window.mu.Unlock()
		return r.window.credit == 300
	})
	for seq := range uint64(6) {
		r.Add(batch(seq+1, 100))
	}
	eventually(t, "two batches arrive", func() bool { return len(c.seqs()) == 2 })
	time.Sleep(50 * time.Millisecond)
	if s := r.Stats(); s.Sent.Batches != 2 {
		t.Errorf("%d batches were sent on a credit of two and a half", s.Sent.Batches)
	}
	close(proceed)
	eventually(t, "two more arrive", func() bool { return len(c.seqs()) == 4 })
	time.Sleep(50 * time.Millisecond)
	if s := r.Stats(); s.Sent.Batches != 4 || r.spool.Stats().Pending.Batches != 6 {
		t.Errorf("books: %+v", s)
	}
}

func TestClaimsArriveWhileBatchesAreBlocked(t *testing.T) {
	c := &fakeCollector{}
	release := make(chan struct{})
	c.flows = func(_ int, stream flowv1.Collector_FlowsServer) error { <-release; return nil }
	defer close(release)
	arrived := make(chan *flowv1.Claim, 100)
	c.control = func(_ int, stream flowv1.Collector_ControlServer) error {
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			for _, claim := range m.GetOwnership().GetClaims() {
				arrived <- claim
			}
		}
	}
	c.serve(t, "")
	claims := &fakeClaims{}
	r := run(t, c.address, func(config *Config) { config.Claims = claims })
	for seq := range uint64(40) {
		r.Add(batch(seq+1, 256<<10)) // 10 MB into windows of 64 kB
	}
	eventually(t, "the stream of claims stands", func() bool { return claims.subscribed() == 1 })
	eventually(t, "batches are under way", func() bool { return r.Stats().Sent.Batches > 0 })
	claims.change(&flowv1.Ownership{Claims: []*flowv1.Claim{{Workload: "shop/web"}}})
	select {
	case claim := <-arrived: // and the batches are blocked until the test ends
		if claim.GetWorkload() != "shop/web" {
			t.Errorf("claimed for %q", claim.GetWorkload())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a claim waits behind batches")
	}
	if s := r.spool.Stats(); s.Pending.Batches != 40 {
		t.Errorf("%d batches pending", s.Pending.Batches)
	}
}

func TestDrainAwaitsAcknowledgementsAndConnectsAgain(t *testing.T) {
	c := &fakeCollector{}
	c.flows = func(n int, stream flowv1.Collector_FlowsServer) error {
		if n > 1 {
			return c.ackAll(n, stream)
		}
		if _, err := c.take(stream); err != nil {
			return err
		}
		if err := stream.Send(&flowv1.FlowsResponse{Drain: true}); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
		if err := stream.Send(ack(1, 1)); err != nil {
			return err
		}
		_, err := c.take(stream) // the end of the stream
		return err
	}
	c.serve(t, "")
	r := run(t, c.address, nil)
	r.Add(batch(1, 100))
	eventually(t, "the drain arrived", func() bool { return r.books.drains.Load() == 1 })
	r.Add(batch(2, 100))
	flush(t, r)
	if diff := cmp.Diff([]uint64{1, 2}, c.seqs()); diff != "" {
		t.Error("a batch was sent twice or into the drained stream", diff)
	}
	if s, kept := r.Stats(), r.spool.Stats(); s.Resent.Batches != 0 || kept.Acked.Batches != 2 {
		t.Errorf("books: %+v, %+v", s, kept)
	}
}

func TestImpossibleAnswersEndTheStreamAndAreCounted(t *testing.T) {
	for name, answer := range map[string]*flowv1.FlowsResponse{
		"never sent":         ack(1, 9),
		"zero":               {Acked: []*flowv1.SeqRange{{First: 0, Last: 1}}},
		"backwards":          {Acked: []*flowv1.SeqRange{{First: 2, Last: 1}}},
		"other exporter":     {ExporterId: "exp-2"},
		"rejects never sent": {Rejected: []*flowv1.Rejected{{BatchSeq: 2}}},
		"received":           {ReceivedSeq: 2},
		"other's ack":        {ExporterId: "exp-2", Acked: []*flowv1.SeqRange{{First: 1, Last: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &fakeCollector{}
			c.flows = func(n int, stream flowv1.Collector_FlowsServer) error {
				if n > 1 {
					return c.ackAll(n, stream)
				}
				if _, err := c.take(stream); err != nil {
					return err
				}
				if err := stream.Send(answer); err != nil {
					return err
				}
				_, err := c.take(stream)
				return err
			}
			c.serve(t, "")
			r := run(t, c.address, nil)
			r.Add(batch(1, 100))
			flush(t, r)
			if n := r.books.protocolErrors.Load(); n != 1 {
				t.Errorf("%d protocol errors", n)
			}
			if s, kept := r.Stats(), r.spool.Stats(); kept.Acked.Batches != 1 || s.Resent.Batches != 1 {
				t.Errorf("books: %+v, %+v", s, kept)
			}
		})
	}
}

// A collector whose every answer makes no sense is asked less and less often: each time all that is pending is sent again.
func TestSenselessAnswersAreNotAskedForAgainAtOnce(t *testing.T) {
	c := &fakeCollector{}
	var streams atomic.Int32
	c.flows = func(_ int, stream flowv1.Collector_FlowsServer) error {
		streams.Add(1)
		if err := stream.Send(ack(1, 9)); err != nil {
			return err
		}
		_, err := c.take(stream)
		return err
	}
	c.serve(t, "")
	r := run(t, c.address, nil)
	r.Add(batch(1, 100))
	time.Sleep(2 * time.Second)
	if n := streams.Load(); n > 7 { // at 0, 0.1, 0.3, 0.7, 1.5 s, each wait a fifth shorter at most; on a busy machine fewer
		t.Errorf("%d streams in two seconds", n)
	}
}

func TestNothingIsLostWhileTheCollectorIsAway(t *testing.T) {
	c := &fakeCollector{}
	c.serve(t, "")
	address := c.address
	c.server.Stop()
	r := run(t, address, nil)
	r.Add(batch(1, 100))
	eventually(t, "the reason is said", func() bool { return r.log.count("cannot reach the collector yet") == 1 })
	if r.log.count("connection refused") != 1 {
		t.Error("the log does not say why")
	}
	if now, ever := r.Connected(); now || ever {
		t.Error("connected to nobody")
	}
	back := &fakeCollector{}
	back.serve(t, address)
	flush(t, r)
	if diff := cmp.Diff([]uint64{1}, back.seqs()); diff != "" {
		t.Error(diff)
	}
}

// TestBatchesOfEarlierRunsAreSettledUnderTheirName fills a spool, and lets the next run send and settle what is in it.
func TestBatchesOfEarlierRunsAreSettledUnderTheirName(t *testing.T) {
	dir := t.TempDir()
	before := spoolOn(t, dir, "exp-0")
	for seq := range uint64(3) {
		old := batch(seq+1, 100)
		old.ExporterId = "exp-0"
		before.Append(seq+1, 10, []byte(wire(t, old)))
	}
	before.Append(4, 10, []byte("not a batch"))
	before.Append(5, 10, []byte(wire(t, batch(5, 100)))) // another run's
	before.stop()

	c := &fakeCollector{}
	c.flows = func(_ int, stream flowv1.Collector_FlowsServer) error {
		for {
			b, err := c.take(stream)
			if err != nil {
				return err
			}
			answer := ack(b.GetBatchSeq(), b.GetBatchSeq())
			if answer.ExporterId = b.GetExporterId(); b.GetBatchSeq() == 2 {
				answer.Acked, answer.Rejected = nil, []*flowv1.Rejected{{BatchSeq: 2, Reason: "malformed"}}
			}
			if err := stream.Send(answer); err != nil {
				return err
			}
		}
	}
	c.serve(t, "")
	kept := spoolOn(t, dir, "exp-1")
	r := run(t, c.address, func(config *Config) { config.Spool = kept.Spool })
	r.Add(batch(1, 100))
	eventually(t, "all is settled", func() bool { s := kept.Stats(); return s.Recovered.Batches == 5 && s.Pending.Batches == 0 })
	var got []string
	for _, b := range c.batches() {
		got = append(got, fmt.Sprint(b.GetExporterId(), "/", b.GetBatchSeq()))
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"exp-0/1", "exp-0/2", "exp-0/3", "exp-1/1"}, got); diff != "" {
		t.Error(diff)
	}
	s := kept.Stats()
	if s.Acked.Batches != 3 || s.Rejected.Batches != 3 || s.Quarantined.Batches != 3 || s.Quarantined.Rows != 30 || r.books.protocolErrors.Load() != 0 {
		t.Errorf("books: %+v", s)
	}
}
