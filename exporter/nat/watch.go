package nat

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"
)

const (
	// watchBuffer holds several hundred events. It need not hold more: an address is watched until the first one, and what is lost is found in a list.
	watchBuffer = 256 << 10
	// rulesBuffer likewise: one change says that rules are to be looked at.
	rulesBuffer = 16 << 10
	maxRead     = 16384
)

// watch is a socket that hears what the kernel tells in all network namespaces: none is entered for it, and none kept alive. The news of a connection is queued
// before the connection's first packet goes on.
type watch struct {
	conn   *netlink.Conn
	all    bool // it hears of other namespaces than ours too
	buffer []byte
}

// errMissed says that news were lost.
var errMissed = errors.New("news of the kernel were lost")

// watchConnections hears of connections that begin to be translated under these addresses; bytes is for news that wait.
func watchConnections(addrs []netip.Addr, bytes int) (*watch, error) {
	w, err := newWatch(bytes)
	if err != nil {
		return nil, err
	}
	if err = w.narrow(addrs); err == nil {
		err = w.conn.JoinGroup(unix.NFNLGRP_CONNTRACK_NEW)
	}
	return w.orClosed(err)
}

// watchRules hears of changed rules of nftables.
func watchRules() (*watch, error) {
	w, err := newWatch(rulesBuffer)
	if err != nil {
		return nil, err
	}
	if err = w.conn.SetBPF(filterRules()); err == nil {
		err = w.conn.JoinGroup(unix.NFNLGRP_NFTABLES)
	}
	return w.orClosed(err)
}

func newWatch(bytes int) (*watch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	w := &watch{conn: conn, buffer: make([]byte, 16<<10)}
	w.all = conn.SetOption(netlink.ListenAllNSID, true) == nil // it takes CAP_NET_BROADCAST
	return w.orClosed(conn.SetReadBuffer(bytes))
}

func (w *watch) orClosed(err error) (*watch, error) {
	if err != nil {
		w.close()
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	return w, nil
}

func (w *watch) close() { _ = w.conn.Close() } // nothing was written

// narrow makes it hear of connections under these addresses only.
func (w *watch) narrow(addrs []netip.Addr) error {
	filter, err := filterFor(addrs)
	if err != nil {
		return err
	}
	if err = w.conn.SetBPF(filter); !errors.Is(err, unix.ENOMEM) {
		return err
	}
	if filter, err = filterFor(nil); err != nil { // the kernel has no room for a long one (net.core.optmem_max)
		return err
	}
	return w.conn.SetBPF(filter)
}

// connections calls each with what has been translated up to now.
func (w *watch) connections(each func(orig, reply addresses)) error {
	note := func(orig, reply addresses) bool { each(orig, reply); return true }
	return w.read(func(data []byte) error {
		_, err := entries(data, conntrack.StatusNATMask, note)
		return err
	})
}

// read calls each with what has been told up to now; what each does not understand is as good as lost. After errMissed the watch goes on; after another error it does not.
func (w *watch) read(each func(data []byte) error) error {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return err
	}
	missed := false
	for range maxRead {
		n, received := 0, error(nil)
		if err := raw.Control(func(fd uintptr) { n, _, received = unix.Recvfrom(int(fd), w.buffer, unix.MSG_DONTWAIT|unix.MSG_TRUNC) }); err != nil {
			return err
		}
		switch {
		case errors.Is(received, unix.EAGAIN):
			if missed {
				return errMissed
			}
			return nil
		case errors.Is(received, unix.EINTR):
		case errors.Is(received, unix.ENOBUFS):
			missed = true
		case received != nil:
			return fmt.Errorf("listen to the kernel: %w", received)
		default:
			missed = n > len(w.buffer) || each(w.buffer[:n]) != nil || missed
		}
	}
	return errMissed // they come faster than they are read
}
