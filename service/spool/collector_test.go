package spool_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"tributary/proto/flowv1"
)

// store is what the collectors of a schedule have stored, which no fault touches, and what they refused.
type store struct {
	mu       sync.Mutex
	rng      *rand.Rand
	payloads map[string][]byte
	refused  map[string]bool
	repeated int
	stalled  bool // no answers
	calm     bool // no stream is broken or drained any more
	wrong    []string
}

// collector is one life of a collector.
type collector struct {
	flowv1.UnimplementedCollectorServer
	*store
	listener *bufconn.Listener
	server   *grpc.Server
	served   chan struct{}
}

func startCollector(s *store) *collector {
	c := &collector{store: s, listener: bufconn.Listen(256 << 10), server: grpc.NewServer(), served: make(chan struct{})}
	flowv1.RegisterCollectorServer(c.server, c)
	go func() {
		defer close(c.served)
		_ = c.server.Serve(c.listener)
	}()
	return c
}

func (c *collector) stop() {
	c.server.Stop()
	<-c.served
}

func (c *collector) Control(stream grpc.BidiStreamingServer[flowv1.ControlRequest, flowv1.ControlResponse]) error {
	<-stream.Context().Done()
	return nil
}

// Flows stores what comes, answers later, in any order, and breaks the stream now and then, sometimes between the two.
func (c *collector) Flows(stream grpc.BidiStreamingServer[flowv1.FlowsRequest, flowv1.FlowsResponse]) error {
	answers := make(chan *flowv1.FlowsResponse, 4096)
	var late sync.WaitGroup
	defer late.Wait()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	late.Go(func() { c.answer(ctx, stream, answers) })
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetBatch() == nil {
			continue
		}
		answers <- c.take(m.GetBatch())
		if c.mischief(200) {
			return status.Error(codes.Unavailable, "broken for the test")
		}
	}
}

func (c *collector) answer(ctx context.Context, stream grpc.BidiStreamingServer[flowv1.FlowsRequest, flowv1.FlowsResponse], answers <-chan *flowv1.FlowsResponse) {
	var waiting []*flowv1.FlowsResponse
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-answers:
			waiting = append(waiting, a)
		case <-time.After(time.Duration(50+c.number(400))*time.Millisecond + time.Duration(c.number(1000))):
		}
		for len(waiting) > 0 && c.chance(2) && !c.silent() {
			i := c.number(len(waiting))
			waiting[i].Drain = c.mischief(300)
			if stream.Send(waiting[i]) != nil {
				return
			}
			waiting = append(waiting[:i], waiting[i+1:]...)
		}
	}
}

// take stores a batch, or refuses it for good.
func (c *collector) take(b *flowv1.Batch) *flowv1.FlowsResponse {
	c.mu.Lock()
	defer c.mu.Unlock()
	seq, key := b.GetBatchSeq(), fmt.Sprintf("%s/%d", b.GetExporterId(), b.GetBatchSeq())
	r := &flowv1.FlowsResponse{ExporterId: b.GetExporterId(), ReceivedSeq: seq, CreditBytes: 20_000}
	switch {
	case seq%23 == 0:
		c.refused[key] = true
		r.Rejected = []*flowv1.Rejected{{BatchSeq: seq, Reason: "refused for the test"}}
		return r
	case c.payloads[key] == nil:
		c.payloads[key] = b.GetPayload()
	case !bytes.Equal(c.payloads[key], b.GetPayload()):
		c.wrong = append(c.wrong, key)
	default:
		c.repeated++
	}
	r.Acked = []*flowv1.SeqRange{{First: seq, Last: seq}}
	return r
}

func (s *store) number(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

func (s *store) chance(one int) bool { return s.number(one) == 0 }

// mischief is a chance that ends with the schedule.
func (s *store) mischief(one int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.calm && s.rng.IntN(one) == 0
}

func (s *store) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stalled
}

func (s *store) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payloads[key] != nil || s.refused[key]
}
