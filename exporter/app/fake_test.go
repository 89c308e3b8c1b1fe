package app

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"tributary/proto/flow"
	"tributary/proto/flowv1"
)

// collector is a real gRPC server that keeps every row and acknowledges it.
type collector struct {
	flowv1.UnimplementedCollectorServer
	address string

	mu       sync.Mutex
	rows     map[[2]uint64]row // by flow_id and record_seq
	last     map[string]uint64 // counters of the last batch
	mark     int               // watermarks
	said     []string          // claims and releases
	host     string            // of the last batch
	exporter string
}

type row struct {
	role, kind, workload, network, comm string
	localPort, remotePort               uint32
	remote                              netip.Addr
	tx, rx                              uint64
	errno, sampleRate                   uint32
	replay                              bool
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{address: listener.Addr().String(), rows: make(map[[2]uint64]row), last: make(map[string]uint64)}
	server := grpc.NewServer()
	flowv1.RegisterCollectorServer(server, c)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return c
}

func (c *collector) Flows(stream flowv1.Collector_FlowsServer) error {
	opener, err := flow.NewOpener()
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetBatch() == nil {
			continue
		}
		b := new(flow.Batch)
		if err := opener.Open(m.GetBatch(), b); err != nil {
			return err
		}
		c.keep(b)
		c.mu.Lock()
		c.host, c.exporter = m.GetBatch().GetHost(), m.GetBatch().GetExporterId()
		c.mu.Unlock()
		seq := m.GetBatch().GetBatchSeq()
		if err := stream.Send(&flowv1.FlowsResponse{ReceivedSeq: seq, Acked: []*flowv1.SeqRange{{First: seq, Last: seq}}}); err != nil {
			return err
		}
	}
}

func (c *collector) Control(stream flowv1.Collector_ControlServer) error {
	if err := stream.Send(&flowv1.ControlResponse{Message: &flowv1.ControlResponse_Welcome{Welcome: &flowv1.Welcome{CollectorId: "c"}}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		c.mu.Lock()
		if m.GetWatermark() != nil {
			c.mark++
		}
		for _, release := range m.GetOwnership().GetReleases() {
			c.said = append(c.said, "release "+release.GetWorkload())
		}
		for _, claim := range m.GetOwnership().GetClaims() {
			c.said = append(c.said, "claim "+claim.GetWorkload())
		}
		c.mu.Unlock()
	}
}

func (c *collector) keep(b *flow.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u32 := func(f flow.U32, i int) uint32 {
		if b.U32[f] == nil {
			return 0
		}
		return b.U32[f][i]
	}
	u64 := func(f flow.U64, i int) uint64 {
		if b.U64[f] == nil {
			return 0
		}
		return b.U64[f][i]
	}
	for i := range b.Rows {
		c.rows[[2]uint64{u64(flow.FlowID, i), uint64(u32(flow.RecordSeq, i))}] = row{
			role: flow.RoleNames[u32(flow.Role, i)], kind: flow.KindNames[u32(flow.Kind, i)],
			workload: b.Strings[u32(flow.LocalWorkload, i)], network: b.Strings[u32(flow.Network, i)], comm: b.Strings[u32(flow.Comm, i)],
			localPort: u32(flow.LocalPort, i), remotePort: u32(flow.RemotePort, i),
			remote: netip.AddrFrom16(b.Addrs[u32(flow.RemoteAddr, i)]).Unmap(),
			tx:     u64(flow.TxBytes, i), rx: u64(flow.RxBytes, i), errno: u32(flow.Errno, i), sampleRate: u32(flow.SampleRate, i), replay: u32(flow.Replay, i) == 1,
		}
	}
	for _, counter := range b.Counters {
		c.last[counter.Name] = counter.Value
	}
}

// awaitWatermarks waits for n more watermarks; one is sent every second.
func (c *collector) awaitWatermarks(t *testing.T, n int) {
	t.Helper()
	marks := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.mark
	}
	began := marks()
	for deadline := time.Now().Add(30 * time.Second); marks() < began+n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d watermarks within 30 s, want %d", marks()-began, n)
		}
	}
}

func (c *collector) count(match func(row) bool) (n int, tx, rx uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.rows {
		if match(r) {
			n, tx, rx = n+1, tx+r.tx, rx+r.rx
		}
	}
	return n, tx, rx
}
