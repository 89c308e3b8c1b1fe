package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/protobuf/proto"

	elsewhere "tributary/collector/region"
	"tributary/proto/flowv1"
)

const (
	crossShare = 0.03 // of the connections go to a service of another region
	gather     = 50 * ms
	cutFor     = 10 * sec
)

// table says which addresses are which region's: those of its instances, and those of its hosts.
func (s *sim) table() (out []elsewhere.Entry) {
	for n := range s.cfg.regions {
		out = append(out, elsewhere.Entry{Region: regionName(n), Network: "default", Collectors: []string{"simulated:1"}, Prefixes: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n+1) << 4, 0, 0}), 12), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(n) << 4, 0}), 20),
		}})
	}
	return out
}

func regionName(n int) string { return fmt.Sprintf("region-%d", n) }

// openRegions makes the real resolver and the real server of a node. Messages between them are marshalled and unmarshalled; time, the link
// and the breaker's clock are simulated.
func (n *node) openRegions(clock func() time.Time) {
	var err error
	everybody := func(context.Context) bool { return true }
	if n.answers, err = elsewhere.NewServer(n.region.name, n.table, everybody, clock, n.metrics); err != nil {
		panic(err)
	}
	conf := elsewhere.Config{Region: n.region.name, Wake: func() { n.wake(0) }}
	virtual := elsewhere.Simulation{Now: clock, Call: n.call, Breaker: func() elsewhere.Breaker { return &fuse{now: n.now} }}
	if n.regions, err = elsewhere.NewSimulated(conf, virtual, n.region.sim.table(), n.metrics); err != nil {
		panic(err)
	}
}

// askRegions sends questions on their way, as late as the link makes them.
func (n *node) askRegions() {
	s := n.region.sim
	if !n.down {
		second := s.time.now-n.lastTick >= sec
		if second {
			n.lastTick = s.time.now
		}
		n.regions.Step(second)
	}
	s.time.after(gather+s.latency(), n.askRegions)
}

var errCut = errors.New("no answer")

// call is a request of one node to another.
func (n *node) call(name string, m *flowv1.ResolveRequest) (*flowv1.ResolveResponse, error) {
	for _, r := range n.region.sim.regions {
		if r.name != name {
			continue
		}
		there := r.reachable()
		if r.cut || n.region.cut || there == nil {
			return nil, errCut
		}
		got := new(flowv1.ResolveRequest)
		copyMessage(got, m)
		answer, err := there.answers.Resolve(context.Background(), got)
		if err != nil {
			return nil, err
		}
		back := new(flowv1.ResolveResponse)
		copyMessage(back, answer)
		return back, nil
	}
	return nil, errCut
}

// copyMessage sends a message over the wire.
func copyMessage(to, from proto.Message) {
	data, err := proto.Marshal(from)
	if err == nil {
		err = proto.Unmarshal(data, to)
	}
	if err != nil {
		panic(err)
	}
}

// sever cuts a region off from all others for a while.
func (r *region) sever() {
	r.cut = true
	r.sim.time.after(cutFor, func() { r.cut = false })
}

// fuse is a breaker in virtual time, with the rules of the real one.
type fuse struct {
	now      func() int64
	failures int
	failing  int64 // since
	until    int64
}

// State implements region.Breaker.
func (f *fuse) State() gobreaker.State {
	switch {
	case f.until == 0:
		return gobreaker.StateClosed
	case f.now() < f.until:
		return gobreaker.StateOpen
	}
	return gobreaker.StateHalfOpen
}

// Execute implements region.Breaker.
func (f *fuse) Execute(do func() (*flowv1.ResolveResponse, error)) (*flowv1.ResolveResponse, error) {
	if f.State() == gobreaker.StateOpen {
		return nil, gobreaker.ErrOpenState
	}
	r, err := do()
	if err == nil {
		f.failures, f.until = 0, 0
		return r, nil
	}
	if f.failures++; f.failures == 1 {
		f.failing = f.now()
	}
	if f.until != 0 || f.failures >= 3 && f.now()-f.failing >= 2*sec {
		f.until = f.now() + sec
	}
	return nil, err
}
