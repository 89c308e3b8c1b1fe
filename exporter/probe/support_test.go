package probe

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
	"tributary/exporter/ring"
	"tributary/service/testenv"
)

// patience bounds waiting for records; an emulated machine takes long.
const patience = 60 * time.Second

// space is a network namespace of its own with a loopback interface.
type space struct {
	t      *testing.T
	handle netns.NsHandle
	inum   uint32
	cookie uint64
}

func newSpace(t *testing.T) *space {
	t.Helper()
	testenv.NeedRoot(t)
	s := &space{t: t}
	onThread(t, func() error {
		var err error
		if s.handle, err = netns.New(); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if s.cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	t.Cleanup(func() { s.handle.Close() })
	var stat unix.Stat_t
	if err := unix.Fstat(int(s.handle), &stat); err != nil {
		t.Fatal(err)
	}
	s.inum = uint32(stat.Ino)
	return s
}

// do runs f on a thread inside the namespace; sockets and processes made there belong to it.
func (s *space) do(f func() error) {
	s.t.Helper()
	onThread(s.t, func() error {
		if err := netns.Set(s.handle); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that ends afterwards, whatever f did to it.
func onThread(t *testing.T, f func() error) {
	t.Helper()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		result <- f()
	}()
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func (s *space) listen(addr string) *net.TCPListener {
	s.t.Helper()
	var l net.Listener
	s.do(func() error {
		var err error
		l, err = net.Listen("tcp", addr)
		return err
	})
	s.t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func (s *space) dial(addr string) (*net.TCPConn, error) {
	var c net.Conn
	var err error
	s.do(func() error {
		c, err = net.DialTimeout("tcp", addr, patience)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (s *space) pair(l *net.TCPListener) (client, server *net.TCPConn) {
	s.t.Helper()
	client, err := s.dial(l.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	server, err = l.AcceptTCP()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { // and not before: what nobody holds any more the garbage collector closes
		_ = client.Close()
		_ = server.Close()
	})
	return client, server
}

// exchange sends bytes both ways, then closes first and second in that order.
func exchange(t *testing.T, client, server *net.TCPConn, up, down int, first, second *net.TCPConn) {
	t.Helper()
	send(t, client, server, up)
	send(t, server, client, down)
	first.Close()
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("read after the peer's close: %v, want EOF", err)
	}
	second.Close()
}

func send(t *testing.T, from, to *net.TCPConn, n int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := from.Write(make([]byte, n))
		done <- err
	}()
	if _, err := io.ReadFull(to, make([]byte, n)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func port(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

// capture is a running probe with its reader and what they gave.
type capture struct {
	t      *testing.T
	probe  *Probe
	reader *ring.Reader
	inums  map[uint32]bool // namespaces to keep events of
	// cookies are further ones, which may come while others go: inode numbers are used again. Guarded by mu.
	cookies map[uint64]bool
	// walkEvery is short in all tests; 1 ns never rests.
	walkEvery time.Duration

	mu     sync.Mutex
	events []event.Event
}

func start(t *testing.T, opts Options, inums ...uint32) *Probe {
	t.Helper()
	if len(inums) == 1 && opts.CgroupID == 0 {
		opts.NetnsInum = inums[0]
	}
	p := New(opts)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// newCapture starts a probe and reads it until the test ends.
func newCapture(t *testing.T, opts Options, inums ...uint32) *capture {
	t.Helper()
	c := &capture{t: t, probe: start(t, opts, inums...), inums: map[uint32]bool{}, cookies: map[uint64]bool{}, walkEvery: walkEvery(opts)}
	for _, i := range inums {
		c.inums[i] = true
	}
	c.read()
	return c
}

func (c *capture) read() {
	c.t.Helper()
	fd, size, err := c.probe.Ring()
	if err != nil {
		c.t.Fatal(err)
	}
	c.reader = ring.New(ring.Options{
		FD: fd, Size: size, Poll: 20 * time.Millisecond, Rest: c.probe.Rest,
		Walk: c.probe.Walk, WalkEvery: c.walkEvery, RecordSize: event.RecordSize,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	tracker := event.NewTracker()
	go func() {
		done <- c.reader.Run(ctx, func(b []byte) error { return c.take(tracker, b) })
	}()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
		if n := c.reader.Stats().Invalid; n != 0 {
			c.t.Errorf("%d kernel records were refused", n)
		}
	})
}

func (c *capture) take(tracker *event.Tracker, b []byte) error {
	var e event.Event
	if err := event.Decode(b, &e); err != nil {
		c.t.Errorf("decode: %v", err)
		return err
	}
	tracker.Apply(&e)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inums[e.NetnsInum] || c.cookies[e.NetnsCookie] {
		c.events = append(c.events, e)
	}
	return nil
}

func (c *capture) snapshot() []event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]event.Event(nil), c.events...)
}

// wait returns all events as soon as enough says so.
func (c *capture) wait(enough func([]event.Event) bool) []event.Event {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if events := c.snapshot(); enough(events) {
			return events
		}
	}
	events := c.snapshot()
	counters, _ := c.probe.Counters()
	c.t.Fatalf("no more events came: %d so far, counters %+v\n%s", len(events), counters, describe(events))
	return nil
}

// ends waits for n closed or failed records and checks that no more come.
func (c *capture) ends(n int) []event.Event {
	c.t.Helper()
	count := func(events []event.Event) (got int) {
		for _, e := range events {
			if e.Kind != event.KindActive {
				got++
			}
		}
		return got
	}
	c.wait(func(events []event.Event) bool { return count(events) >= n })
	if err := c.reader.Drain(context.Background()); err != nil {
		c.t.Fatal(err)
	}
	events := c.snapshot()
	if got := count(events); got != n {
		c.t.Fatalf("%d ends, want %d\n%s", got, n, describe(events))
	}
	return events
}

func (c *capture) balanced(ends uint64) Counters {
	c.t.Helper()
	k, err := c.probe.Counters()
	if err != nil {
		c.t.Fatal(err)
	}
	if k.Ends != ends || k.Ends != k.Submitted+k.EndsLate+k.RingFull {
		c.t.Errorf("books do not balance: want %d ends, have %+v", ends, k)
	}
	if k.MapFull+k.MapNoMemory+k.ListenersFull+k.EndsMissed+k.Recursion != 0 {
		c.t.Errorf("losses where there should be none: %+v", k)
	}
	return k
}

// describe lists the last events; a race can make a hundred thousand.
func describe(events []event.Event) string {
	var out strings.Builder
	for _, e := range events[max(0, len(events)-50):] {
		out.WriteString(e.String() + "\n")
	}
	return out.String()
}

// find returns the only event of the kind whose local and remote ports are these.
func find(t *testing.T, events []event.Event, kind event.Kind, local, remote uint16) event.Event {
	t.Helper()
	var found []event.Event
	for _, e := range events {
		if e.Kind == kind && e.LocalPort == local && e.RemotePort == remote {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d records of %d → %d, want 1\n%s", len(found), local, remote, describe(events))
	}
	return found[0]
}

func selfPID() uint32 { return uint32(os.Getpid()) }

// walkEvery fits the walk to the shortest interval asked for.
func walkEvery(opts Options) time.Duration {
	if opts.ActiveEvery > 0 && opts.ActiveEvery < time.Millisecond {
		return 1
	}
	return 50 * time.Millisecond
}
