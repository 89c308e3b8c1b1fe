package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"tributary/proto/flowv1"
)

const (
	claims     = 200
	claimPause = 20 * time.Millisecond
	stillFor   = 3 * time.Second
)

// blackHole takes connections and never answers: a store that hangs.
func blackHole() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		var held []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				for _, conn := range held {
					conn.Close()
				}
				return
			}
			held = append(held, conn)
		}
	}()
	return l, nil
}

func measureStalled(ctx context.Context, o options, dir string) error {
	hole, err := blackHole()
	if err != nil {
		return err
	}
	defer hole.Close()
	c, err := newCollector(o, dir, "--clickhouse", "http://"+hole.Addr().String())
	if err != nil {
		return err
	}
	if err := c.start(ctx, "/healthz"); err != nil {
		return err
	}
	defer c.stop(syscall.SIGKILL)
	ctx, cancel := context.WithCancel(ctx)
	var pushing sync.WaitGroup
	defer pushing.Wait()
	defer cancel()
	p := &pushers{address: c.listen}
	p.more(ctx, &pushing, o.blocked)
	if err := p.still(ctx); err != nil {
		return err
	}
	latencies, err := claimTimes(ctx, c)
	if err != nil {
		return err
	}
	fmt.Printf("claims while every sink is blocked and %d exporters are stalled: %d claims, median %.1f ms, 99th %.1f ms, slowest %.1f ms\n",
		o.blocked, len(latencies), ms(latencies[len(latencies)/2]), ms(latencies[len(latencies)*99/100]), ms(latencies[len(latencies)-1]))
	p.more(ctx, &pushing, o.stalled-o.blocked)
	if err := p.still(ctx); err != nil {
		return err
	}
	memory, err := c.memory()
	if err != nil {
		return err
	}
	fmt.Printf("%d stalled exporters: %d batches taken from them, the collector's largest resident set %.0f MiB\n", o.stalled, p.sent.Load(), float64(memory)/(1<<20))
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pushers send batches without regard to credit until nothing is taken any more.
type pushers struct {
	address string
	n       int
	sent    atomic.Int64
}

func (p *pushers) more(ctx context.Context, running *sync.WaitGroup, n int) {
	for range n {
		id := fmt.Sprintf("pusher-%d", p.n)
		p.n++
		running.Go(func() {
			conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return
			}
			defer conn.Close()
			stream, err := flowv1.NewCollectorClient(conn).Flows(ctx)
			if err != nil || stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Hello{Hello: hello(id)}}) != nil {
				return
			}
			for seq := uint64(1); ; seq++ {
				if stream.Send(&flowv1.FlowsRequest{Message: &flowv1.FlowsRequest_Batch{Batch: sealed(id, seq, 1000)}}) != nil {
					return
				}
				p.sent.Add(1)
			}
		})
	}
}

// still waits until nothing has moved for a while.
func (p *pushers) still(ctx context.Context) error {
	last, since := int64(-1), time.Now()
	for ctx.Err() == nil && time.Since(since) < stillFor {
		if now := p.sent.Load(); now != last {
			last, since = now, time.Now()
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ctx.Err()
}

// claimTimes claims one address after the other and returns how long it took until the collector knew each, sorted.
func claimTimes(ctx context.Context, c *collector) ([]time.Duration, error) {
	conn, err := grpc.NewClient(c.listen, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := flowv1.NewCollectorClient(conn).Control(ctx)
	if err != nil {
		return nil, err
	}
	send := func(m *flowv1.ControlRequest) error { return stream.Send(m) }
	if err := send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Hello{Hello: hello("claimant")}}); err != nil {
		return nil, err
	}
	var out []time.Duration
	for i := range claims {
		addr := net.IPv4(10, 99, byte(i>>8), byte(i))
		began := time.Now()
		claim := &flowv1.Claim{Network: "default", Addr: addr.To16(), Workload: "shop/web", Instance: "i", FromNs: began.UnixNano()}
		if err := send(&flowv1.ControlRequest{Message: &flowv1.ControlRequest_Ownership{Ownership: &flowv1.Ownership{Claims: []*flowv1.Claim{claim}}}}); err != nil {
			return nil, err
		}
		for known := false; !known; {
			if known, err = c.knows(ctx, addr); err != nil {
				return nil, err
			}
		}
		out = append(out, time.Since(began))
		time.Sleep(claimPause)
	}
	slices.Sort(out)
	return out, nil
}

// knows asks the API whether an address was claimed.
func (c *collector) knows(ctx context.Context, addr net.IP) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.api+"/v1/whois?address="+addr.String(), nil)
	if err != nil {
		return false, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	var told struct{ Ranges []struct{ Workload string } }
	err = json.NewDecoder(answer.Body).Decode(&told)
	return len(told.Ranges) > 0, err
}
