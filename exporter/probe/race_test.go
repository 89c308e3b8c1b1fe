package probe

import (
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"tributary/exporter/event"
)

// Connections that end at any moment of a walk that never rests: every byte is in
// exactly one record, whichever of walk and end came first.
func TestWalkAndCloseRace(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{ActiveFirst: 1, ActiveEvery: 1, SynFirst: time.Hour}, s.inum)
	l := s.listen("127.0.0.1:0")
	const workers, rounds = 4, 250
	var mu sync.Mutex
	sent := map[uint16]uint64{}
	conns := make(chan *net.TCPConn, workers*rounds)
	for range workers * rounds {
		client, server := s.pair(l)
		go drainAndClose(server)
		conns <- client
	}
	close(conns)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for conn := range conns {
				n := uint64(0)
				for range 1 + rand.IntN(20) {
					w, _ := conn.Write(make([]byte, 1+rand.IntN(5000)))
					n += uint64(w)
				}
				mu.Lock()
				sent[port(conn.LocalAddr())] = n
				mu.Unlock()
				conn.Close()
			}
		})
	}
	wg.Wait()
	sums, active := sumFlows(t, c.ends(2*workers*rounds))
	for p, n := range sent {
		if got := sums[[2]uint16{p, port(l.Addr())}]; got != [2]uint64{n, 0} {
			t.Errorf("client %d: tx and rx %d, sent %d", p, got, n)
		}
		if got := sums[[2]uint16{port(l.Addr()), p}]; got != [2]uint64{0, n} {
			t.Errorf("server of %d: tx and rx %d, sent %d", p, got, n)
		}
	}
	k := c.balanced(2 * workers * rounds)
	t.Logf("%d active records, %d raced", active, k.ActiveRaced)
	if active < 2*workers*rounds {
		t.Errorf("only %d active records: the walk hardly met the connections", active)
	}
}

func drainAndClose(conn *net.TCPConn) {
	buf := make([]byte, 8192)
	for {
		if _, err := conn.Read(buf); err != nil {
			conn.Close()
			return
		}
	}
}

// sumFlows adds up each flow's records and checks that nothing follows its end.
func sumFlows(t *testing.T, events []event.Event) (sums map[[2]uint16][2]uint64, active int) {
	t.Helper()
	sums = map[[2]uint16][2]uint64{}
	ended := map[uint64]bool{}
	next := map[uint64]uint32{}
	for _, e := range events {
		if ended[e.FlowID] || e.RecordSeq != next[e.FlowID] {
			t.Errorf("%s comes after the end or out of order", e.String())
		}
		next[e.FlowID]++
		if e.Kind == event.KindActive {
			active++
		} else {
			ended[e.FlowID] = true
		}
		key := [2]uint16{e.LocalPort, e.RemotePort}
		sum := sums[key]
		sums[key] = [2]uint64{sum[0] + e.TxBytes, sum[1] + e.RxBytes}
	}
	return sums, active
}
