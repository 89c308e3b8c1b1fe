package world

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"golang.org/x/sys/unix"
)

// A request for sockets is family, protocol, extensions, padding and states, then a socket's identity, which an answer
// has at the same length after four bytes (linux/inet_diag.h: inet_diag_req_v2, inet_diag_msg).
const (
	idLen    = 48
	answerID = 4
	timeWait = 6 // TCP_TIME_WAIT of net/tcp_states.h: no socket any more, and gone by itself
)

// endSockets ends the TCP sockets of a namespace. One whose process is gone while its peer does not answer lives on for
// minutes, the namespace with it, and would end among the connections of whatever is watched next.
func endSockets(path string) error {
	space, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end sockets: %w", err)
	}
	defer space.Close()
	conn, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, &netlink.Config{NetNS: int(space.Fd())})
	if errors.Is(err, unix.EINVAL) { // a file that never became a mount
		return nil
	}
	if err != nil {
		return fmt.Errorf("end sockets of %s: %w", path, err)
	}
	defer func() { _ = conn.Close() }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		sockets, err := listSockets(conn, family)
		if err != nil {
			return fmt.Errorf("list sockets of %s: %w", path, err)
		}
		for _, id := range sockets {
			_, err := conn.Execute(netlink.Message{
				Header: netlink.Header{Type: unix.SOCK_DESTROY, Flags: netlink.Request | netlink.Acknowledge}, Data: socketRequest(family, id),
			})
			if errors.Is(err, unix.EOPNOTSUPP) { // a kernel without CONFIG_INET_DIAG_DESTROY: they have to be waited for
				return nil
			}
			// Gone meanwhile; or a listener of MPTCP (all of Go's are), which the kernel ends with its process alone.
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("end a socket of %s: %w", path, err)
			}
		}
	}
	return nil
}

// listSockets returns the identities of the namespace's TCP sockets.
func listSockets(conn *netlink.Conn, family byte) (ids [][]byte, err error) {
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: socketRequest(family, make([]byte, idLen)),
	})
	if err != nil {
		return nil, err
	}
	for _, a := range answers {
		if len(a.Data) < answerID+idLen {
			return nil, fmt.Errorf("an answer of %d bytes", len(a.Data))
		}
		ids = append(ids, a.Data[answerID:answerID+idLen])
	}
	return ids, nil
}

func socketRequest(family byte, id []byte) []byte {
	const states = ^uint32(1 << timeWait)
	return slices.Concat([]byte{family, unix.IPPROTO_TCP, 0, 0}, nlenc.Uint32Bytes(states), id)
}
