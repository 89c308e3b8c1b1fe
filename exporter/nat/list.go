package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"
)

const listPatience = time.Second // for one list of translated connections

// stands finds those of a network namespace's own addresses that stand for others.
type stands struct {
	own   []netip.Addr
	found []netip.Addr
}

// note looks at one translated connection; more says that there are addresses left to find.
func (s *stands) note(orig, reply addresses) (more bool) {
	if from, as := orig.from, reply.to; from != as && slices.Contains(s.own, as) && !slices.Contains(s.own, from) {
		s.add(as)
	}
	if at, to := orig.to, reply.from; at != to && slices.Contains(s.own, at) && !slices.Contains(s.own, to) && !to.IsLoopback() {
		s.add(at)
	}
	return len(s.found) < len(s.own)
}

func (s *stands) add(a netip.Addr) {
	if !slices.Contains(s.found, a) {
		s.found = append(s.found, a)
	}
}

// list looks at all translated connections of a namespace.
func (s *stands) list(config *netlink.Config) error {
	for _, status := range []conntrack.Status{conntrack.StatusSrcNAT, conntrack.StatusDstNAT} {
		if err := eachTranslated(config, status, s.note); err != nil {
			return err
		}
	}
	return nil
}

// addresses are those of one direction of a connection.
type addresses struct{ from, to netip.Addr }

// eachTranslated calls each with the connections that have a status, as long as it wants more. It holds one message of the kernel's at a time: a gateway has
// millions of entries, which the library would collect.
func eachTranslated(config *netlink.Config, status conntrack.Status, each func(orig, reply addresses) (more bool)) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, config)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // that ends the list, where it is not read to its end
	request, err := netfilter.MarshalNetlink(netfilter.Header{
		SubsystemID: netfilter.NFSubsysCTNetlink, MessageType: ctGet, Flags: netlink.Request | netlink.Dump,
	}, []netfilter.Attribute{
		{Type: ctaStatus, Data: netfilter.Uint32Bytes(uint32(status))}, {Type: ctaStatusMask, Data: netfilter.Uint32Bytes(uint32(status))},
	})
	if err != nil {
		return err
	}
	if _, err := conn.Send(request); err != nil {
		return fmt.Errorf("ask for translated connections: %w", err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(listPatience)); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	for buffer := make([]byte, 64<<10); ; {
		n, received := 0, error(nil)
		if err := raw.Read(func(fd uintptr) bool {
			n, _, received = unix.Recvfrom(int(fd), buffer, 0)
			return !errors.Is(received, unix.EAGAIN)
		}); err != nil || received != nil {
			return fmt.Errorf("list translated connections: %w", errors.Join(err, received))
		}
		if end, err := entries(buffer[:n], status, each); err != nil || end {
			return err
		}
	}
}

// The numbers of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet = 1

	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaStatusMask = 1, 2, 3, 26

	ctaTupleIP                                     = 1
	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst = 1, 2, 3, 4
)

// entries reads what came in one piece; end says that it was the last one, or that no more is wanted. Kernels before 5.15 do not know the filter by status.
func entries(data []byte, status conntrack.Status, each func(orig, reply addresses) bool) (end bool, err error) {
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return false, fmt.Errorf("list translated connections: %w", err)
	}
	for i := range messages {
		m := &messages[i]
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(m.Data) < 4 {
				return true, errEntry
			}
			return true, fmt.Errorf("list translated connections: %w", syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
		}
		orig, reply, has, err := entry(m.Data)
		if err != nil {
			return false, err
		}
		if has&status != 0 && !each(orig, reply) {
			return true, nil
		}
	}
	return false, nil
}

var errEntry = errors.New("an entry of connection tracking is not understood")

func entry(data []byte) (orig, reply addresses, status conntrack.Status, err error) {
	const header = 4 // struct nfgenmsg
	if len(data) < header {
		return orig, reply, 0, errEntry
	}
	attributes, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return orig, reply, 0, errEntry
	}
	attributes.ByteOrder = binary.BigEndian
	for attributes.Next() {
		switch attributes.Type() {
		case ctaTupleOrig:
			attributes.Nested(func(in *netlink.AttributeDecoder) error { return inTuple(in, &orig) })
		case ctaTupleReply:
			attributes.Nested(func(in *netlink.AttributeDecoder) error { return inTuple(in, &reply) })
		case ctaStatus:
			status = conntrack.Status(attributes.Uint32())
		}
	}
	return orig, reply, status, attributes.Err()
}

func inTuple(tuple *netlink.AttributeDecoder, a *addresses) error {
	for tuple.Next() {
		if tuple.Type() == ctaTupleIP {
			tuple.Nested(func(in *netlink.AttributeDecoder) error { return inAddresses(in, a) })
		}
	}
	return tuple.Err()
}

func inAddresses(ip *netlink.AttributeDecoder, a *addresses) error {
	for ip.Next() {
		addr, _ := netip.AddrFromSlice(ip.Bytes()) // one of another length is no address of ours
		switch ip.Type() {
		case ctaIPv4Src, ctaIPv6Src:
			a.from = addr
		case ctaIPv4Dst, ctaIPv6Dst:
			a.to = addr
		}
	}
	return ip.Err()
}
