package sockdiag

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
	"tributary/service/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a network namespace of its own.
type place struct {
	t      *testing.T
	handle netns.NsHandle
	inum   uint32
}

func newPlace(t *testing.T) *place {
	t.Helper()
	testenv.NeedRoot(t)
	p := &place{t: t}
	onThread(t, func() (err error) { p.handle, err = netns.New(); return err })
	t.Cleanup(func() { _ = p.handle.Close() })
	var stat unix.Stat_t
	if err := unix.Fstat(int(p.handle), &stat); err != nil {
		t.Fatal(err)
	}
	p.inum = uint32(stat.Ino)
	p.do(func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() })
	life := exec.Command("sleep", "600") // by which the namespace is found
	p.do(life.Start)
	t.Cleanup(func() { _ = life.Process.Kill(); _ = life.Wait() })
	return p
}

func onThread(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func (p *place) do(f func() error) {
	p.t.Helper()
	onThread(p.t, func() error {
		if err := netns.Set(p.handle); err != nil {
			return err
		}
		return f()
	})
}

func (p *place) listen(address string) *net.TCPListener {
	p.t.Helper()
	var l net.Listener
	p.do(func() (err error) { l, err = net.Listen("tcp", address); return err })
	p.t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func (p *place) dial(to net.Addr) net.Conn {
	p.t.Helper()
	var c net.Conn
	p.do(func() (err error) { c, err = net.Dial("tcp", to.String()); return err })
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// capture is a source in a place, and what it has told.
type capture struct {
	source *Source
	stop   func()

	mu     sync.Mutex
	events []event.Event
}

// start begins to capture in the place and waits for the first list.
func (p *place) start(active time.Duration) *capture {
	p.t.Helper()
	c := &capture{source: New(Options{NetnsInum: p.inum, OpenSockets: 1000, ActiveEvery: active, Log: slog.New(slog.DiscardHandler)})}
	if err := c.source.Start(); err != nil {
		p.t.Fatal(err)
	}
	if found, unread := c.source.Inventory(); found != 1 || unread != 0 {
		p.t.Fatalf("%d namespaces, %d unread", found, unread)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan error)
	go func() { done <- c.source.Run(ctx, c.take, func() {}) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
		if err := c.source.Close(); err != nil {
			p.t.Error(err)
		}
	})
	p.t.Cleanup(c.stop)
	for c.source.Stats().Walks == 0 {
		time.Sleep(time.Millisecond)
	}
	return c
}

func (c *capture) take(b []byte) error {
	var e event.Event
	if err := event.Decode(b, &e); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	return nil
}

// await returns the first event that f accepts.
func (c *capture) await(t *testing.T, what string, f func(*event.Event) bool) event.Event {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c.mu.Lock()
		for i := range c.events {
			if f(&c.events[i]) {
				e := c.events[i]
				c.mu.Unlock()
				return e
			}
		}
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Fatalf("%s never came; there are %+v", what, c.events)
	return event.Event{}
}

func port(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

// of accepts the end of a connection that has the given ports.
func of(kind event.Kind, local, remote uint16) func(*event.Event) bool {
	return func(e *event.Event) bool { return e.Kind == kind && e.LocalPort == local && e.RemotePort == remote }
}

func serve(t *testing.T, l *net.TCPListener, answer int) {
	var server sync.WaitGroup
	server.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			server.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(io.Discard, conn)
				_, _ = conn.Write(make([]byte, answer))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		server.Wait()
	})
}

// ask sends a request of so many bytes, waits for the answer and returns the ports of both ends.
func ask(t *testing.T, conn net.Conn, request, answer int) (client, server uint16) {
	t.Helper()
	_, _ = conn.Write(make([]byte, request))
	_ = conn.(*net.TCPConn).CloseWrite()
	if n, err := io.Copy(io.Discard, conn); err != nil || int(n) != answer {
		t.Fatalf("an answer of %d bytes, %v", n, err)
	}
	_ = conn.Close()
	return port(conn.LocalAddr()), port(conn.RemoteAddr())
}

// rx says whether a connection received n bytes, give or take the peer's FIN.
func rx(got, n uint64) bool { return got == n || got == n+1 }

// Connections that live for a moment between two lists have one record an end, with every byte.
func TestShortConnections(t *testing.T) {
	p := newPlace(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l := p.listen(address)
		serve(t, l, 777)
		c := p.start(30 * time.Second)
		for i := range 50 {
			client, server := ask(t, p.dial(l.Addr()), 100+i, 777)
			out := c.await(t, "the client's end", of(event.KindClosed, client, server))
			if out.TxBytes != uint64(100+i) || !rx(out.RxBytes, 777) || out.Role != event.RoleClient || out.RoleSource != event.RoleGuessed || !out.StartObserved {
				t.Errorf("client: %+v", out)
			}
			in := c.await(t, "the server's end", of(event.KindClosed, server, client))
			if in.TxBytes != 777 || !rx(in.RxBytes, uint64(100+i)) || in.Role != event.RoleServer || in.NetnsInum != p.inum || in.CloseReason != event.CloseUnknown {
				t.Errorf("server: %+v", in)
			}
		}
		c.stop()
		if n, _ := c.source.Counters(); n.Ends != 100 || n.Opened != n.Removed || n.EndsMissed != 0 || n.Ends != n.Submitted+n.EndsLate {
			t.Errorf("books: %+v", n)
		}
		if len(c.events) != 100 {
			t.Errorf("%d records of 100 ends", len(c.events))
		}
	}
}

// A connection that is older than the capture, one that stays open for several records, and one that waits for an answer.
func TestLongConnections(t *testing.T) {
	p := newPlace(t)
	l := p.listen("127.0.0.1:0")
	older := p.dial(l.Addr())
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = older.Write(make([]byte, 1000))
	if _, err := io.ReadFull(accepted, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	c := p.start(time.Second)
	listeners, err := c.source.Listeners()
	if err != nil || len(listeners) != 1 || listeners[0].Port != port(l.Addr()) || !listeners[0].Found || listeners[0].UID != 0 {
		t.Errorf("listeners: %+v, %v", listeners, err)
	}
	client, server := port(older.LocalAddr()), port(older.RemoteAddr())
	first := c.await(t, "an active record", of(event.KindActive, client, server))
	if first.TxBytes != 1000 || !first.Found || first.LastState != event.StateEstablished { // totals: deltas are the tracker's work
		t.Errorf("%+v", first)
	}
	_, _ = older.Write(make([]byte, 500))
	_ = older.(*net.TCPConn).CloseWrite()
	c.await(t, "the sight of a FIN", func(e *event.Event) bool {
		return of(event.KindActive, client, server)(e) && e.LastState == event.StateFinWait2 && e.TxBytes == 1500
	})
	_ = accepted.Close()
	last := c.await(t, "the end", of(event.KindClosed, client, server))
	if last.TxBytes != 1500 || last.CloseReason != event.CloseFinLocal || !last.Reported || last.Opened != first.Opened || last.Sock != first.Sock {
		t.Errorf("%+v", last)
	}
	open := p.dial(l.Addr())
	c.await(t, "an active record of what is open", of(event.KindActive, port(open.LocalAddr()), server))
	before := c.source.Stats().Walked
	c.stop()
	if after := c.source.Stats(); after.Walked < before+2 || after.Invalid != 0 {
		t.Errorf("at the end both ends have a record more: %d, then %+v", before, after)
	}
}

// What no list and no notice says is counted where it can be, and a namespace that goes takes its connections with it.
func TestAttemptWithoutAnswer(t *testing.T) {
	p := newPlace(t)
	p.do(func() error { // a place where SYNs vanish
		for _, command := range [][]string{{"link", "add", "v0", "type", "veth", "peer", "name", "v1"}, {"addr", "add", "10.9.9.1/24", "dev", "v0"}, {"link", "set", "v0", "up"}, {"link", "set", "v1", "up"}, {"neigh", "add", "10.9.9.2", "lladdr", "02:00:00:00:00:01", "dev", "v0"}} {
			if out, err := exec.Command("ip", command...).CombinedOutput(); err != nil {
				return fmt.Errorf("%v: %w: %s", command, err, out)
			}
		}
		return nil
	})
	c := p.start(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan struct{})
	go p.do(func() error {
		defer close(dialled)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", "10.9.9.2:80")
		if err == nil {
			_ = conn.Close()
		}
		return nil
	})
	waiting := c.await(t, "a record of an attempt that waits", func(e *event.Event) bool { return e.RemotePort == 80 && e.Kind == event.KindActive })
	if waiting.LastState != event.StateSynSent || waiting.Role != event.RoleClient {
		t.Errorf("%+v", waiting)
	}
	cancel()
	<-dialled
	failed := c.await(t, "the end of the attempt", func(e *event.Event) bool { return e.RemotePort == 80 && e.Kind == event.KindFailed })
	if failed.TxBytes != 0 || failed.Opened != waiting.Opened {
		t.Errorf("%+v", failed)
	}
}

// What is not in the last list has ended: no further list will say so.
func TestTheLastListEndsWhatIsAbsent(t *testing.T) {
	c := &capture{source: New(Options{OpenSockets: 10, Log: slog.New(slog.DiscardHandler)})}
	s := c.source
	s.handle, s.round = c.take, 5
	gone := &connection{cookie: 7, opened: 1, established: true, reported: true, listed: 4, last: diag{state: event.StateEstablished, localPort: 80, remotePort: 40000}}
	s.open[key{1, 7}] = gone
	if s.passOver(map[uint32]bool{1: true}, 10, false); len(c.events) != 0 {
		t.Fatalf("one list without it ends it: %+v", c.events)
	}
	s.passOver(map[uint32]bool{1: true}, 10, true)
	if n, _ := s.Counters(); len(c.events) != 1 || c.events[0].Kind != event.KindClosed || len(s.open) != 0 || n.EndsLate != 1 {
		t.Errorf("%+v, books %+v", c.events, n)
	}
}

func TestParseRefuses(t *testing.T) {
	var d diag
	for name, data := range map[string][]byte{
		"nothing": nil, "short": make([]byte, messageSize-1), "no family": make([]byte, messageSize),
		"attribute beyond the end": append(message(unix.AF_INET), 200, 0, 2, 0),
	} {
		if err := parse(data, &d); err == nil {
			t.Errorf("%s was accepted: %+v", name, d)
		}
	}
}

func message(family byte) []byte {
	m := make([]byte, messageSize)
	m[0], m[1] = family, byte(event.StateEstablished)
	binary.BigEndian.PutUint16(m[4:], 80)
	binary.BigEndian.PutUint16(m[6:], 40000)
	copy(m[8:], []byte{10, 0, 0, 1})
	copy(m[24:], []byte{10, 0, 0, 2})
	binary.NativeEndian.PutUint32(m[44:], 7)
	return m
}

func FuzzParse(f *testing.F) {
	f.Add(message(unix.AF_INET))
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: attrInfo, Data: make([]byte, 300)}, {Type: attrCgroup, Data: make([]byte, 8)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(message(unix.AF_INET6), attributes...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var d diag
		if parse(data, &d) != nil {
			return
		}
		c := connection{cookie: max(1, d.cookie), opened: 1}
		c.note(&d, 1)
		for _, kind := range []event.Kind{event.KindActive, event.KindClosed, event.KindFailed} {
			c.established = kind == event.KindClosed
			c.reported = true
			var e event.Event
			if err := event.Decode(c.record(1, kind, 2).Encode(), &e); err != nil && kind != event.KindActive {
				t.Errorf("%+v makes a record that is refused: %v", d, err)
			}
		}
		_ = fmt.Sprint(d)
	})
}
