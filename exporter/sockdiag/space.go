package sockdiag

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/exporter/event"
	"tributary/exporter/netns"
	"tributary/exporter/probe"
)

// maxSpaces bounds the namespaces: two sockets are kept for each.
const maxSpaces = 1024

// noticeBuffer holds some 10,000 notices.
const noticeBuffer = 8 << 20

// space is one network namespace.
type space struct {
	inum         uint32
	lists        *netlink.Conn
	notices      *netlink.Conn
	listedBefore bool
	listening    map[uint64]probe.Listener // by cookie
	listenersAt  uint64                    // when they were listed

	ports, portsBefore map[uint16]bool // of listeners, in the last list and the one before
	clients            [2]uint16       // first and last port that clients are given
}

// findSpaces opens namespaces that are new and leaves those that nobody but us keeps alive. It needs mu.
func (s *Source) findSpaces() error {
	found, err := netns.All(s.opts.NetnsInum)
	if err != nil {
		return err
	}
	there := make(map[uint32]bool, len(found))
	for _, at := range found {
		there[at.Inum] = true
	}
	for inum, sp := range s.spaces {
		if !there[inum] {
			s.drop(sp)
		}
	}
	s.unread = 0
	for _, at := range found {
		if s.spaces[at.Inum] != nil {
			continue
		}
		if len(s.spaces) >= maxSpaces {
			s.unread++
			continue
		}
		sp, err := openSpace(at)
		if err != nil {
			s.unread++
			s.log.Warn("the connections of a network namespace are not seen", "netns", at.Inum, "error", err)
			continue
		}
		s.spaces[at.Inum] = sp
		s.receivers.Go(func() { s.receive(sp) })
	}
	return nil
}

// openSpace enters the namespace for the making of two sockets.
func openSpace(at netns.Namespace) (*space, error) {
	file, err := netns.Open(at.Path, at.Inum)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read
	config := &netlink.Config{NetNS: int(file.Fd())}
	if at.Path == netns.Own {
		config = nil // takes no privilege
	}
	sp := &space{inum: at.Inum, listening: map[uint64]probe.Listener{}, clients: clientPorts()}
	if sp.lists, err = netlink.Dial(unix.NETLINK_SOCK_DIAG, config); err != nil {
		return nil, fmt.Errorf("open sock_diag: %w", err)
	}
	if sp.notices, err = netlink.Dial(unix.NETLINK_SOCK_DIAG, config); err != nil {
		return nil, errors.Join(fmt.Errorf("open sock_diag: %w", err), sp.lists.Close())
	}
	_ = sp.notices.SetReadBuffer(noticeBuffer) // less room means that more is noticed by its absence
	for _, group := range []uint32{unix.SKNLGRP_INET_TCP_DESTROY, unix.SKNLGRP_INET6_TCP_DESTROY} {
		if err := sp.notices.JoinGroup(group); err != nil {
			sp.close()
			return nil, fmt.Errorf("subscribe to destroyed sockets: %w", err)
		}
	}
	return sp, nil
}

func (sp *space) close() {
	_ = sp.lists.Close() // nothing was written that could be lost
	_ = sp.notices.Close()
}

// drop closes a namespace; its connections end with the next pass. It needs mu.
func (s *Source) drop(sp *space) {
	if s.spaces[sp.inum] == sp {
		delete(s.spaces, sp.inum)
	}
	sp.close()
}

func (s *Source) leave(sp *space) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(sp)
}

// receive passes notices on until the namespace is closed.
func (s *Source) receive(sp *space) {
	for {
		messages, err := sp.notices.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			s.count(func(n *probe.Counters) { n.EndsMissed++ })
			s.log.Warn("notices of destroyed sockets were lost", "netns", sp.inum)
			continue
		case errors.Is(err, net.ErrClosed) || err != nil && s.isGone(sp):
			return
		case err != nil:
			s.log.Warn("notices of destroyed sockets cannot be read", "netns", sp.inum, "error", err)
			s.leave(sp)
			return
		}
		for _, m := range messages {
			n := notice{netns: sp.inum}
			if err := parse(m.Data, &n.diag); err != nil {
				s.log.Warn("notice refused", "error", err)
				continue
			}
			s.notices <- n
		}
	}
}

func (s *Source) isGone(sp *space) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spaces[sp.inum] != sp
}

// list lists the connections of a namespace, its listeners first: they tell who serves.
func (sp *space) list(each func(*diag)) (listeners []probe.Listener, err error) {
	if err := sp.listListeners(); err != nil {
		return nil, err
	}
	for _, l := range sp.listening {
		listeners = append(listeners, l)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := list(sp.lists, family, states, each); err != nil {
			return nil, err
		}
	}
	return listeners, nil
}

func (sp *space) listListeners() error {
	now := clock.Boot()
	before := sp.listening
	sp.listening = map[uint64]probe.Listener{}
	sp.ports, sp.portsBefore = map[uint16]bool{}, sp.ports
	sp.listenersAt = now
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		err := list(sp.lists, family, listening, func(d *diag) {
			l := before[d.cookie]
			if l.SockCookie == 0 {
				l = probe.Listener{SockCookie: d.cookie, NetnsInum: sp.inum, Addr: d.local, Port: d.localPort, SinceNs: now, Found: !sp.listedBefore, CgroupID: d.cgroup, UID: d.uid}
			}
			l.AcceptQueue, l.AcceptQueueLimit = d.recvQueue, d.sendQueue
			sp.listening[d.cookie] = l
			sp.ports[d.localPort] = true
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// lookAgain is how soon the listeners are listed again for a connection that has the port of none.
const lookAgain = uint64(100 * time.Millisecond)

// serves guesses who asked for the connection: who has a listener's port serves (the last two lists count, because connections outlive
// their listener); failing that, who has a port that the kernel does not give to clients.
func (sp *space) serves(d *diag) bool {
	if d.state == event.StateSynSent {
		return false
	}
	known := func(port uint16) bool { return sp.ports[port] || sp.portsBefore[port] }
	if !known(d.localPort) && !known(d.remotePort) && clock.Boot()-sp.listenersAt >= lookAgain {
		_ = sp.listListeners() // then the ports decide
	}
	switch {
	case known(d.localPort):
		return true
	case known(d.remotePort) && d.local == d.remote:
		return false
	}
	return !sp.ephemeral(d.localPort) && sp.ephemeral(d.remotePort)
}

// ephemeral says whether the kernel gives the port to clients that do not care (ip_local_port_range).
func (sp *space) ephemeral(port uint16) bool { return port >= sp.clients[0] && port <= sp.clients[1] }

// clientPorts reads ip_local_port_range of the exporter's own namespace, which stands for all: hardly any has another. 32768 to 60999 if it
// cannot be read.
func clientPorts() (ports [2]uint16) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return [2]uint16{32768, 60999}
	}
	if _, err := fmt.Sscan(string(text), &ports[0], &ports[1]); err != nil {
		return [2]uint16{32768, 60999}
	}
	return ports
}
