package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"
	"golang.org/x/sys/unix"

	"tributary/exporter/netns"
)

const (
	listPatience = time.Second // for one list of translated connections
	listPause    = 200         // times the processor time that a list took nothing is listed: at most 0.5 % of a core
)

// Sharing knows which addresses of this host stand for connections of others: by a masquerade, or because a port of theirs leads elsewhere.
type Sharing struct {
	opts Options

	mu    sync.Mutex
	pause map[uint32]time.Time // namespaces that were listed at some cost, until when they are left alone
}

// NewSharing returns a Sharing that has asked nothing.
func NewSharing(opts Options) *Sharing {
	return &Sharing{opts: opts, pause: make(map[uint32]time.Time)}
}

// Among returns which of a network namespace's own addresses stand for others at present: connections that began elsewhere leave under them,
// or connections to them go elsewhere. An entry of connection tracking outlives its connection, so whoever asks again within ten seconds misses none.
// Where connection tracking cannot be read no address is known to; where a list takes over 5 ms, as it does wherever anything is tracked at all
// (the kernel walks every bucket of its table, 262,144 by default, twice), it is not listed at each call.
func (s *Sharing) Among(inum uint32, own []netip.Addr) []netip.Addr {
	if s.opts.OwnOnly && inum != s.opts.Own {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.pause[inum]) {
		return nil
	}
	runtime.LockOSThread() // whose time is measured: on a busy host that of the clock would be the others'
	defer runtime.UnlockOSThread()
	before := threadTime()
	shared, err := s.list(inum, own)
	if len(s.pause) >= maxSockets*16 {
		clear(s.pause)
	}
	pause := listPause * (threadTime() - before)
	if err != nil {
		pause = retry
	}
	s.pause[inum] = time.Now().Add(pause)
	return shared
}

// threadTime is the processor time of the calling thread.
func threadTime() time.Duration {
	var at unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at) // it exists on every kernel this runs on
	return time.Duration(at.Nano())
}

func (s *Sharing) list(inum uint32, own []netip.Addr) ([]netip.Addr, error) {
	config := &netlink.Config{}
	if inum != s.opts.Own {
		f, err := netns.Open(s.opts.Path(inum, 0), inum)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		config.NetNS = int(f.Fd())
	}
	tracking, err := conntrack.Dial(config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tracking.Close() }() // nothing was written
	if all, err := tracking.StatsGlobal(); err != nil || all.Entries == 0 {
		return nil, err
	}
	var shared []netip.Addr
	note := func(a netip.Addr) {
		if !slices.Contains(shared, a) {
			shared = append(shared, a)
		}
	}
	for _, status := range []conntrack.Status{conntrack.StatusSrcNAT, conntrack.StatusDstNAT} {
		if err := eachTranslated(config, status, func(orig, reply addresses) (more bool) {
			if from, as := orig.from, reply.to; from != as && slices.Contains(own, as) && !slices.Contains(own, from) {
				note(as)
			}
			if at, to := orig.to, reply.from; at != to && slices.Contains(own, at) && !slices.Contains(own, to) && !to.IsLoopback() {
				note(at)
			}
			return len(shared) < len(own)
		}); err != nil {
			return shared, err
		}
	}
	return shared, nil
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
