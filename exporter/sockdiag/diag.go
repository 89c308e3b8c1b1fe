package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tributary/exporter/event"
)

// Sizes and numbers of include/uapi/linux/inet_diag.h.
const (
	requestSize = 56 // struct inet_diag_req_v2
	messageSize = 72 // struct inet_diag_msg
	attrInfo    = 2  // INET_DIAG_INFO: struct tcp_info
	attrCgroup  = 21 // INET_DIAG_CGROUP_ID
)

// states are those that are listed: all but LISTEN, TIME_WAIT (sockets of another kind), CLOSE and handshakes of servers.
const states = 1<<event.StateEstablished | 1<<event.StateSynSent | 1<<event.StateFinWait1 | 1<<event.StateFinWait2 |
	1<<event.StateCloseWait | 1<<event.StateLastAck | 1<<event.StateClosing

const listening = 1 << event.StateListen

// diag is what the kernel says of one socket.
type diag struct {
	state                 event.TCPState
	local, remote         [16]byte // IPv4 mapped
	localPort, remotePort uint16
	cookie                uint64
	uid                   uint32
	recvQueue, sendQueue  uint32
	cgroup                uint64
	info                  unix.TCPInfo // zeros where the kernel said nothing
}

var errMessage = errors.New("message of sock_diag is not understood")

// parse reads one message about a TCP socket.
func parse(data []byte, d *diag) error {
	if len(data) < messageSize {
		return fmt.Errorf("%w: %d bytes", errMessage, len(data))
	}
	*d = diag{
		state:     event.TCPState(data[1]),
		localPort: binary.BigEndian.Uint16(data[4:]), remotePort: binary.BigEndian.Uint16(data[6:]),
		cookie:    uint64(binary.NativeEndian.Uint32(data[44:])) | uint64(binary.NativeEndian.Uint32(data[48:]))<<32,
		recvQueue: binary.NativeEndian.Uint32(data[56:]), sendQueue: binary.NativeEndian.Uint32(data[60:]),
		uid: binary.NativeEndian.Uint32(data[64:]),
	}
	switch data[0] {
	case unix.AF_INET:
		d.local, d.remote = mapped(data[8:12]), mapped(data[24:28])
	case unix.AF_INET6:
		copy(d.local[:], data[8:24])
		copy(d.remote[:], data[24:40])
	default:
		return fmt.Errorf("%w: family %d", errMessage, data[0])
	}
	attributes, err := netlink.NewAttributeDecoder(data[messageSize:])
	if err != nil {
		return fmt.Errorf("%w: %w", errMessage, err)
	}
	for attributes.Next() {
		switch value := attributes.Bytes(); {
		case attributes.Type() == attrInfo: // older kernels know less of it, newer ones more
			copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.info)), unsafe.Sizeof(d.info)), value)
		case attributes.Type() == attrCgroup && len(value) >= 8:
			d.cgroup = binary.NativeEndian.Uint64(value)
		}
	}
	if err := attributes.Err(); err != nil {
		return fmt.Errorf("%w: %w", errMessage, err)
	}
	return nil
}

func mapped(v4 []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], v4)
	return a
}

// list returns the TCP sockets of a family that are in one of the states.
func list(conn *netlink.Conn, family uint8, states uint32, each func(*diag)) error {
	request := make([]byte, requestSize)
	request[0], request[1], request[2] = family, unix.IPPROTO_TCP, 1<<(attrInfo-1)
	binary.NativeEndian.PutUint32(request[4:], states)
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump}, Data: request,
	})
	if err != nil {
		return fmt.Errorf("list TCP sockets: %w", err)
	}
	var d diag
	for _, m := range answers {
		if err := parse(m.Data, &d); err != nil {
			return err
		}
		each(&d)
	}
	return nil
}

// established says whether the socket ever was, from what its counters say.
func (d *diag) established() bool {
	switch d.state {
	case event.StateSynSent:
		return false
	case event.StateClose: // destroyed: the acknowledgement of a client's SYN counts as a byte, whatever comes after the handshake as a segment
		return d.info.Bytes_acked > 0 || d.info.Bytes_received > 0 || d.info.Data_segs_in > 0
	}
	return true
}
