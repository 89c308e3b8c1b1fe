package identity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	receiveBuffer = 4 << 20 // of the notification socket
	messageBuffer = 64 << 10
	dumpTries     = 5

	nsfsAttrID    = 1  // NETNSA_NSID
	targetNetnsid = 10 // IFA_TARGET_NETNSID
	notThere      = unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED
	anyNsid       = unix.NETLINK_LISTEN_ALL_NSID
)

// notifications is the socket that hears about addresses, and the one that lists them.
type notifications struct {
	fd, dump int
	buf, oob []byte
	seq      uint32
}

// openNotifications subscribes; all says whether other namespaces than our own are heard, err why not.
func openNotifications(others bool, rcvbuf int) (n *notifications, all bool, refused, err error) {
	n = &notifications{fd: -1, dump: -1, buf: make([]byte, messageBuffer), oob: make([]byte, 256)}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	const kind = unix.SOCK_RAW | unix.SOCK_CLOEXEC
	if n.fd, err = unix.Socket(unix.AF_NETLINK, kind|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE); err != nil {
		return n, false, nil, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf); err != nil {
		_ = unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf) // less room means listing anew more often
	}
	if others {
		refused = unix.SetsockoptInt(n.fd, unix.SOL_NETLINK, anyNsid, 1)
		all = refused == nil
	}
	if err := unix.Bind(n.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return n, false, nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	for _, group := range []int{unix.RTNLGRP_NSID, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR} {
		if err := unix.SetsockoptInt(n.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
			return n, false, nil, fmt.Errorf("subscribe to address notifications: %w", err)
		}
	}
	if n.dump, err = unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_ROUTE); err != nil {
		return n, false, nil, fmt.Errorf("netlink socket: %w", err)
	}
	timeout := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(n.dump, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return n, false, nil, fmt.Errorf("netlink socket: %w", err)
	}
	if err := unix.SetsockoptInt(n.dump, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return n, false, nil, fmt.Errorf("netlink socket: %w", err)
	}
	return n, all, refused, nil
}

func (n *notifications) close() {
	if n == nil {
		return
	}
	for _, fd := range []*int{&n.fd, &n.dump} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
}

// ready says whether anything is queued.
func (n *notifications) ready() bool {
	fds := []unix.PollFd{{Fd: int32(n.fd), Events: unix.POLLIN}}
	queued, err := unix.Poll(fds, 0)
	return err != nil || queued > 0
}

// addrEvent is one notification.
type addrEvent struct {
	nsid int32 // ownNsid: our own namespace
	kind uint16
	ifaddr
	present bool // usable: neither removed nor tentative, duplicate or deprecated
}

// errOverflow says that notifications were lost: everything must be listed again.
var errOverflow = errors.New("address notifications were lost")

// next returns the events of one datagram, and unix.EAGAIN when there is none.
func (n *notifications) next() ([]addrEvent, error) {
	size, oobn, flags, from, err := unix.Recvmsg(n.fd, n.buf, n.oob, 0)
	switch {
	case errors.Is(err, unix.ENOBUFS) || err == nil && flags&unix.MSG_TRUNC != 0:
		return nil, errOverflow
	case err != nil:
		return nil, err
	}
	if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
		return nil, nil // not the kernel
	}
	messages, err := syscall.ParseNetlinkMessage(n.buf[:size])
	if err != nil {
		return nil, errOverflow
	}
	nsid := nsidIn(n.oob[:oobn])
	var events []addrEvent
	for i := range messages {
		if e, ok := parseMessage(messages[i].Header.Type, messages[i].Data); ok {
			if e.kind == unix.RTM_NEWADDR || e.kind == unix.RTM_DELADDR {
				e.nsid = nsid
			}
			events = append(events, e)
		}
	}
	return events, nil
}

// nsidIn returns the namespace that the control message of a datagram names.
func nsidIn(oob []byte) int32 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return ownNsid
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == anyNsid && len(m.Data) >= 4 {
			return int32(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return ownNsid
}

func parseMessage(kind uint16, data []byte) (e addrEvent, ok bool) {
	e.kind = kind
	switch kind {
	case unix.RTM_DELNSID, unix.RTM_NEWNSID:
		if len(data) < 4 {
			return e, false
		}
		for attr, value := range attributes(data[4:]) {
			if attr == nsfsAttrID && len(value) >= 4 {
				e.nsid, ok = int32(binary.NativeEndian.Uint32(value)), true
			}
		}
		return e, ok
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return parseAddress(e, data)
	}
	return e, false
}

// parseAddress reads struct ifaddrmsg (8 bytes: family, prefix length, flags, scope, interface) and its attributes.
func parseAddress(e addrEvent, data []byte) (addrEvent, bool) {
	if len(data) < unix.SizeofIfAddrmsg {
		return e, false
	}
	flags := uint32(data[2])
	e.index = binary.NativeEndian.Uint32(data[4:])
	var address, local []byte
	for attr, value := range attributes(data[unix.SizeofIfAddrmsg:]) {
		switch attr {
		case unix.IFA_ADDRESS:
			address = value
		case unix.IFA_LOCAL: // our end, where IFA_ADDRESS is the peer's
			local = value
		case unix.IFA_FLAGS:
			if len(value) >= 4 {
				flags = binary.NativeEndian.Uint32(value)
			}
		}
	}
	if local == nil {
		local = address
	}
	a, ok := netip.AddrFromSlice(local)
	if !ok {
		return e, false
	}
	e.addr = a.As16()
	e.present = e.kind == unix.RTM_NEWADDR && flags&notThere == 0
	return e, true
}

// attributes yields type and value of each netlink attribute; a broken one ends it.
func attributes(data []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(data))
			if size < unix.SizeofRtAttr || size > len(data) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(data[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), data[unix.SizeofRtAttr:size]) {
				return
			}
			data = data[min((size+3)&^3, len(data)):]
		}
	}
}

// addresses lists what is present in a namespace.
func (n *notifications) addresses(nsid int32) (map[ifaddr]struct{}, error) {
	found := map[ifaddr]struct{}{}
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := n.addressesOf(nsid, family, found); err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a kernel without IPv6
			return nil, err
		}
	}
	return found, nil
}

func (n *notifications) addressesOf(nsid int32, family byte, found map[ifaddr]struct{}) error {
	n.seq++
	body := []byte{family, 0, 0, 0, 0, 0, 0, 0}
	if nsid != ownNsid {
		body = append(body, nl.NewRtAttr(targetNetnsid, binary.NativeEndian.AppendUint32(nil, uint32(nsid))).Serialize()...)
	}
	request := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	request = binary.NativeEndian.AppendUint16(request, unix.RTM_GETADDR)
	request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	request = binary.NativeEndian.AppendUint32(request, n.seq)
	request = append(binary.NativeEndian.AppendUint32(request, 0), body...)
	if err := unix.Sendto(n.dump, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("ask for addresses: %w", err)
	}
	interrupted := false
	for { // to the end in any case: the kernel makes one list at a time
		size, _, err := unix.Recvfrom(n.dump, n.buf, 0)
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(n.buf[:size])
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		done, err := n.take(messages, found)
		interrupted = interrupted || errors.Is(err, errOverflow)
		switch {
		case done && interrupted:
			return errOverflow
		case done:
			return err
		}
	}
}

// take adds the addresses of one part of a list; done says that it was the last, errOverflow that the list changed while it
// was made.
func (n *notifications) take(messages []syscall.NetlinkMessage, found map[ifaddr]struct{}) (done bool, err error) {
	for i := range messages {
		m := &messages[i]
		if m.Header.Seq != n.seq {
			continue // of a list that was given up
		}
		if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
			err = errOverflow
		}
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, err
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return true, unix.EBADMSG
			}
			return true, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
		}
		if e, ok := parseMessage(m.Header.Type, m.Data); ok && e.present {
			found[e.ifaddr] = struct{}{}
		}
	}
	return false, err
}
