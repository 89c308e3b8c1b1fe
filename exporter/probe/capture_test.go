package probe

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// prime is a number of connections that no round number of anything else explains.
const prime = 23

func TestOrderlyConnectionsAreExact(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(addr, func(t *testing.T) {
			s := newSpace(t)
			c := newCapture(t, Options{}, s.inum)
			l := s.listen(addr)
			type want struct {
				client, up, down int
				clientFirst      bool
			}
			var wants []want
			for i := range prime {
				client, server := s.pair(l)
				w := want{int(port(client.LocalAddr())), 1 + i*i*997, 3 + i*131071, i%2 == 0}
				if w.clientFirst {
					exchange(t, client, server, w.up, w.down, client, server)
				} else {
					exchange(t, client, server, w.up, w.down, server, client)
				}
				wants = append(wants, w)
			}
			events := c.ends(2 * prime)
			ids := map[uint64]bool{}
			for _, w := range wants {
				cl := find(t, events, event.KindClosed, uint16(w.client), port(l.Addr()))
				sv := find(t, events, event.KindClosed, port(l.Addr()), uint16(w.client))
				checkEnd(t, cl, event.RoleClient, w.up, w.down, w.clientFirst)
				checkEnd(t, sv, event.RoleServer, w.down, w.up, !w.clientFirst)
				if !sv.Accepted || cl.Accepted {
					t.Errorf("accepted: client %v, server %v", cl.Accepted, sv.Accepted)
				}
				if sv.Start < cl.Start || sv.SockCookie == cl.SockCookie || cl.NetnsCookie != sv.NetnsCookie {
					t.Errorf("ends do not fit each other:\n%+v\n%+v", cl, sv)
				}
				ids[cl.FlowID], ids[sv.FlowID] = true, true
			}
			if len(ids) != 2*prime {
				t.Errorf("%d flow ids for %d connection ends", len(ids), 2*prime)
			}
			k := c.balanced(2 * prime)
			if k.Opened != 2*prime || k.Removed != 2*prime || k.EndsUnobserved != 0 {
				t.Errorf("counters: %+v", k)
			}
		})
	}
}

func checkEnd(t *testing.T, e event.Event, role event.Role, tx, rx int, closedFirst bool) {
	t.Helper()
	reason := event.CloseFinRemote
	if closedFirst {
		reason = event.CloseFinLocal
	}
	if e.Role != role || e.CloseReason != reason || e.Errno != 0 || !e.StartObserved {
		t.Errorf("%s: want %s %s, start observed", e.String(), role, reason)
	}
	if e.TxBytes != uint64(tx) || e.RxBytes != uint64(rx) || e.TxBytesBefore+e.RxBytesBefore != 0 {
		t.Errorf("%s: want tx %d rx %d", e.String(), tx, rx)
	}
	if e.PID != selfPID() || e.CommString() != "probe.test" || e.CgroupID == 0 || e.SockCgroupID == 0 {
		t.Errorf("%s: want pid %d and a cgroup (%d, %d)", e.String(), selfPID(), e.CgroupID, e.SockCgroupID)
	}
	if e.Start == 0 || e.Start > e.End || e.End-e.Start > 10e9 || e.IntervalStart != e.Start || e.RecordSeq != 0 {
		t.Errorf("%s: times %d %d %d", e.String(), e.Start, e.IntervalStart, e.End)
	}
	if e.SrttUs == 0 || e.MinRttUs == 0 || e.MinRttUs > 1e6 || e.SndCwnd == 0 || e.MSS == 0 || e.TxSegs == 0 || e.RxSegs == 0 {
		t.Errorf("%s: path values missing: %+v", e.String(), e)
	}
}

func TestRefusedConnects(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	for _, addr := range []string{"127.0.0.1:9", "[::1]:9"} {
		for range 7 {
			if _, err := s.dial(addr); !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatalf("dial: %v, want refused", err)
			}
		}
	}
	for _, e := range c.ends(14) {
		if e.Kind != event.KindFailed || e.Role != event.RoleClient || e.CloseReason != event.CloseRefused ||
			e.Errno != uint16(unix.ECONNREFUSED) || e.LastState != event.StateSynSent || e.RemotePort != 9 ||
			e.LocalPort == 0 || e.RstReceived != 1 || e.PID != selfPID() || e.TxBytes+e.RxBytes != 0 {
			t.Errorf("%s", e.String())
		}
	}
	c.balanced(14)
}

// Where nothing happens the reader rests, and then the first record wakes it: nothing else would.
func TestRestingReaderIsWoken(t *testing.T) {
	s := newSpace(t)
	c := &capture{t: t, probe: start(t, Options{}, s.inum), inums: map[uint32]bool{s.inum: true}, walkEvery: time.Hour}
	c.read()
	for n := 1; n <= 30; n++ {
		time.Sleep(time.Duration(n%4) * 25 * time.Millisecond) // polls are 20 ms apart: asleep, about to be, and awake
		if _, err := s.dial("127.0.0.1:9"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatalf("dial: %v, want refused", err)
		}
		c.ends(n)
	}
	c.balanced(30)
}

func TestResets(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	l := s.listen("127.0.0.1:0")
	client, server := s.pair(l)
	send(t, client, server, 1234)
	client.SetLinger(0)
	client.Close()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("read: %v, want reset", err)
	}
	server.Close()
	events := c.ends(2)
	at := port(client.LocalAddr())
	cl := find(t, events, event.KindClosed, at, port(l.Addr()))
	sv := find(t, events, event.KindClosed, port(l.Addr()), at)
	if cl.CloseReason != event.CloseRstLocal || cl.RstSent != 1 || cl.RstReceived != 0 || cl.TxBytes != 1234 {
		t.Errorf("%s", cl.String())
	}
	if sv.CloseReason != event.CloseRstRemote || sv.RstSent != 0 || sv.RstReceived != 1 || sv.RxBytes != 1234 ||
		sv.Errno != uint16(unix.ECONNRESET) {
		t.Errorf("%s", sv.String())
	}
}

func TestStalledReaderLosesExactlyWhatIsCounted(t *testing.T) {
	s := newSpace(t)
	c := &capture{t: t, probe: start(t, Options{RingBytes: 4096}, s.inum), inums: map[uint32]bool{s.inum: true}}
	l := s.listen("127.0.0.1:0")
	for range prime {
		client, server := s.pair(l)
		exchange(t, client, server, 10, 20, client, server)
	}
	waitFor(t, func() bool { k, _ := c.probe.Counters(); return k.Ends == 2*prime })
	k := c.balancedWithLoss(2 * prime)
	if k.RingFull == 0 || k.Submitted == 0 {
		t.Fatalf("a ring of one page took everything: %+v", k)
	}
	c.read()
	if events := c.ends(int(k.Submitted)); len(events) != int(k.Submitted) {
		t.Errorf("%d records, %d submitted", len(events), k.Submitted)
	}
}

func (c *capture) balancedWithLoss(ends uint64) Counters {
	k, err := c.probe.Counters()
	if err != nil || k.Ends != ends || k.Ends != k.Submitted+k.RingFull {
		c.t.Errorf("books do not balance: %v %+v", err, k)
	}
	return k
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("condition not reached in %v", patience)
		}
	}
}

func TestFullTableIsCountedAndEndsStillCome(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{OpenSockets: 4}, s.inum)
	l := s.listen("127.0.0.1:0")
	var conns []*net.TCPConn
	for range 5 {
		client, server := s.pair(l)
		conns = append(conns, client, server)
	}
	for _, conn := range conns {
		conn.Close()
	}
	c.ends(10)
	k := c.balancedWithLoss(10)
	if k.Opened != 4 || k.MapFull != 6 || k.Removed != 4 || k.EndsUnobserved != 6 {
		t.Errorf("counters: %+v", k)
	}
}

// A connection that ends before the inventory's turn has a record of its own, without a start.
func TestConnectionThatIsNeverFollowed(t *testing.T) {
	s := newSpace(t)
	l := s.listen("127.0.0.1:0")
	client, server := s.pair(l)
	send(t, client, server, 100)
	c := &capture{t: t, probe: start(t, Options{}, s.inum), inums: map[uint32]bool{s.inum: true}}
	exchange(t, client, server, 11, 7, client, server)
	c.read()
	for _, e := range c.ends(2) {
		want := map[event.Role][2]uint64{event.RoleClient: {111, 7}, event.RoleServer: {7, 111}}[e.Role]
		if e.StartObserved || e.Found || e.RoleSource != event.RoleGuessed || e.TxBytes+e.RxBytes != 0 || e.Kind != event.KindClosed ||
			[2]uint64{e.TxBytesBefore, e.RxBytesBefore} != want || e.PID != 0 || e.SockCookie == 0 {
			t.Errorf("%s before %d %d", e.String(), e.TxBytesBefore, e.RxBytesBefore)
		}
	}
	if k := c.balanced(2); k.EndsUnobserved != 2 {
		t.Errorf("counters: %+v", k)
	}
}

func TestActiveRecordsSumExactly(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{ActiveFirst: 200 * time.Millisecond, ActiveEvery: 100 * time.Millisecond}, s.inum)
	l := s.listen("[::1]:0")
	client, server := s.pair(l)
	up, down := 0, 0
	for began, i := time.Now(), 1; len(c.snapshot()) < 2*10 && time.Since(began) < patience; i++ { // both ends at the same times
		send(t, client, server, i*7)
		send(t, server, client, i*13)
		up, down = up+i*7, down+i*13
		time.Sleep(3 * time.Millisecond)
	}
	exchange(t, client, server, 1, 2, server, client)
	up, down = up+1, down+2
	flows := map[uint64][]event.Event{}
	for _, e := range c.ends(2) {
		flows[e.FlowID] = append(flows[e.FlowID], e)
	}
	if len(flows) != 2 {
		t.Fatalf("%d flows, want 2", len(flows))
	}
	for _, records := range flows {
		checkSeries(t, records, up, down)
	}
	if k := c.balanced(2); k.Active == 0 {
		t.Errorf("counters: %+v", k)
	}
}

// checkSeries checks the records of one end: numbered, joined without gaps, summing up.
func checkSeries(t *testing.T, records []event.Event, up, down int) {
	t.Helper()
	var tx, rx, segs uint64
	for i, e := range records {
		tx, rx, segs = tx+e.TxBytes, rx+e.RxBytes, segs+uint64(e.TxSegs)
		if e.RecordSeq != uint32(i) || e.Start != records[0].Start {
			t.Errorf("record %d: %s", i, e.String())
		}
		if i > 0 && e.IntervalStart != records[i-1].End || i == 0 && e.IntervalStart != e.Start {
			t.Errorf("record %d does not begin where the one before ended", i)
		}
		if last := i == len(records)-1; last != (e.Kind == event.KindClosed) {
			t.Errorf("record %d of %d is %s", i, len(records), e.Kind)
		}
	}
	if first := records[0]; len(records) < 5 || first.End-first.Start < 200e6 { // later on a busy machine
		t.Errorf("%d records, the first after %d ms", len(records), (first.End-first.Start)/1e6)
	}
	if records[0].Role == event.RoleServer {
		up, down = down, up
	}
	if tx != uint64(up) || rx != uint64(down) || segs == 0 {
		t.Errorf("%s: tx %d rx %d, want %d %d", records[0].Role, tx, rx, up, down)
	}
}

// TestUnansweredConnect fills a listener's accept queue, so that the next SYN is dropped.
func TestUnansweredConnect(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{SynFirst: 300 * time.Millisecond, SynEvery: 200 * time.Millisecond, ActiveFirst: time.Hour}, s.inum)
	var listener int
	var to unix.Sockaddr
	s.do(func() (err error) {
		if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		if err := unix.Listen(listener, 0); err != nil {
			return err
		}
		to, err = unix.Getsockname(listener)
		return err
	})
	defer unix.Close(listener)
	var clients []int
	s.do(func() error {
		for range 3 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			clients = append(clients, fd)
			if err := unix.Connect(fd, to); !errors.Is(err, unix.EINPROGRESS) {
				return err
			}
		}
		return nil
	})
	waiting := c.wait(func(events []event.Event) bool { return len(events) >= 2 })
	for _, e := range waiting {
		if e.Kind != event.KindActive || e.Role != event.RoleClient || e.LastState != event.StateSynSent ||
			e.PID != selfPID() || e.RemotePort != uint16(to.(*unix.SockaddrInet4).Port) || e.LocalPort == 0 {
			t.Errorf("%s", e.String())
		}
	}
	for _, fd := range clients {
		unix.Close(fd)
	}
	c.wait(func(events []event.Event) bool {
		aborted := 0
		for _, e := range events {
			if e.Kind == event.KindFailed && e.CloseReason == event.CloseAborted && e.RecordSeq > 0 {
				aborted++
			}
		}
		return aborted == 2
	})
}

func TestMPTCPIsSeenAsItsSubflows(t *testing.T) {
	s := newSpace(t)
	c := newCapture(t, Options{}, s.inum)
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	var l net.Listener
	s.do(func() (err error) {
		l, err = lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		return err
	})
	defer l.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	var conn net.Conn
	s.do(func() (err error) {
		conn, err = d.Dial("tcp", l.Addr().String())
		return err
	})
	if is, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || !is {
		t.Skip("this kernel has no MPTCP")
	}
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	send(t, conn.(*net.TCPConn), server.(*net.TCPConn), 5000)
	conn.Close()
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	server.Close()
	for _, e := range c.ends(2) {
		if e.TxBytes+e.RxBytes != 5000 || e.Role == event.RoleUnknown {
			t.Errorf("%s", e.String())
		}
	}
	c.balanced(2)
}
