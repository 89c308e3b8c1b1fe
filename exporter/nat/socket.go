package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/exporter/netns"
)

// socket asks the conntrack of one network namespace.
type socket struct {
	conn  *conntrack.Conn
	count *os.File // says how many connections are tracked
	used  time.Time

	nothingTo uint64 // CLOCK_BOOTTIME, ns: until then nothing was tracked
	countFrom uint64 // before that it need not be counted again: something is
}

// countPath is that of the reader's network namespace; an open file stays what it was, and does not keep the namespace.
const countPath = "/proc/sys/net/netfilter/nf_conntrack_count"

// dial opens a socket in our own network namespace.
func dial() (*socket, error) {
	conn, err := conntrack.Dial(nil)
	if err != nil {
		return nil, err
	}
	return newSocket(conn, netns.Namespace{Path: netns.Own}), nil
}

// newSocket is without a count where that cannot be read: then each connection is asked for.
func newSocket(conn *conntrack.Conn, space netns.Namespace) *socket {
	s := &socket{conn: conn, used: time.Now()}
	_ = netns.Do(space, func() (err error) {
		s.count, err = os.Open(countPath)
		return err
	})
	return s
}

// dialIn opens a socket in the network namespace at path if its inode number is inum.
func dialIn(path string, inum uint32) (*socket, error) {
	f, err := netns.Open(path, inum)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	conn, err := conntrack.Dial(&netlink.Config{NetNS: int(f.Fd())})
	if err != nil {
		return nil, fmt.Errorf("enter network namespace: %w", err)
	}
	return newSocket(conn, netns.Namespace{Inum: inum, Path: path}), nil
}

// close ends a question that waits. Nothing was written that could be lost.
func (s *socket) close() {
	_ = s.conn.Close()
	if s.count != nil {
		_ = s.count.Close()
	}
}

var errTimeout = errors.New("conntrack does not answer")

// ask puts one question, which has the time of patience.
func (s *socket) ask(question func() error) error {
	s.used = time.Now()
	var late atomic.Bool
	timer := time.AfterFunc(patience, func() {
		late.Store(true)
		s.close()
	})
	err := question()
	timer.Stop()
	if late.Load() {
		return errTimeout
	}
	return err
}

// nothing says that no connection was tracked at the moment at. An entry outlives its connection, so one that had a record
// before a moment at which none was found is not translated. One such question spares all those about single connections, and takes one read.
func (s *socket) nothing(at uint64) bool {
	if at <= s.nothingTo {
		return true
	}
	now := clock.Boot()
	if s.count == nil || now < s.countFrom {
		return false
	}
	var digits [16]byte
	s.used = time.Now()
	if n, err := s.count.ReadAt(digits[:], 0); n == 0 && err != nil || string(bytes.TrimSpace(digits[:n])) != "0" {
		s.countFrom = now + uint64(forget)
		return false
	}
	s.nothingTo = now
	return at <= now
}

// way returns what becomes of the connection whose packets go from local to remote; ENOENT if it is not tracked. It
// asks for a packet's tuple, so it finds a client's connection by its original direction and a server's by the reply's.
func (s *socket) way(local, remote netip.AddrPort) (Way, error) {
	var f conntrack.Flow
	if err := s.ask(func() (err error) {
		f, err = s.conn.Get(conntrack.Flow{TupleOrig: tuple(local, remote)})
		return err
	}); err != nil {
		return Way{}, err
	}
	here, original, reply := [2]netip.AddrPort{local, remote}, ends(&f.TupleOrig), ends(&f.TupleReply)
	there := reply // whose packets come from the other end
	switch here {
	case original:
	case reply:
		there = original
	default:
		return Way{}, unix.ENOENT
	}
	var way Way
	if there[0] != remote {
		way.Peer = there[0]
	}
	if there[1] != local {
		way.Local = there[1]
	}
	return way, nil
}

func tuple(from, to netip.AddrPort) conntrack.Tuple {
	return conntrack.Tuple{
		IP:    conntrack.IPTuple{SourceAddress: from.Addr(), DestinationAddress: to.Addr()},
		Proto: conntrack.ProtoTuple{Protocol: unix.IPPROTO_TCP, SourcePort: from.Port(), DestinationPort: to.Port()},
	}
}

// ends are source and destination of a tuple's packets.
func ends(t *conntrack.Tuple) [2]netip.AddrPort {
	return [2]netip.AddrPort{
		netip.AddrPortFrom(t.IP.SourceAddress, t.Proto.SourcePort),
		netip.AddrPortFrom(t.IP.DestinationAddress, t.Proto.DestinationPort),
	}
}

// Check says why translations of this host are not known, nil if they are: it asks for a connection that cannot be.
func Check() error {
	s, err := dial()
	if err == nil {
		defer s.close()
		nowhere := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 1)
		_, err = s.way(nowhere, nowhere)
	}
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EPERM):
		return errors.New("connection tracking cannot be asked without CAP_NET_ADMIN: connections to virtual addresses (DNAT) keep those, and have no real server")
	}
	return fmt.Errorf("connection tracking cannot be asked: connections to virtual addresses (DNAT) keep those, and have no real server: %w", err)
}
