package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/link"

	"tributary/bpf"
	"tributary/exporter/netns"
)

// Listener is how one listening socket stands. Sockets that share an address (SO_REUSEPORT) are one Listener each; Established and
// LastNs are the address's.
type Listener struct {
	SockCookie uint64
	NetnsInum  uint32
	Addr       [16]byte // IPv4 mapped; ::ffff:0.0.0.0 and :: listen on every address
	Port       uint16
	SinceNs    uint64 // CLOCK_BOOTTIME; where Found, when the inventory found it
	Found      bool   // it is older than Start

	// Who holds it: who called listen, or else the first process that has it open. PID 0: nobody that was seen.
	CgroupID uint64
	PID, UID uint32
	Comm     [16]byte

	Established  uint64 // handshakes completed since SinceNs
	LastNs       uint64 // the latest of them, 0: none
	QueuedBefore uint32 // where Found: connections that waited to be accepted then

	AcceptQueue, AcceptQueueLimit uint32 // connections that wait to be accepted
	SynQueue                      uint32 // handshakes under way
	Drops                         uint32 // segments for it that the kernel has dropped, since the socket was made; wraps
	SynOverflow                   uint32 // changes when SYN cookies are sent, at most once a second
}

// holdersEvery is how often the holders are looked for. It costs about 1 ms for 10,000 open files.
const holdersEvery = time.Minute

// ListensMoved returns a number that is another one when sockets began or ceased to listen, or were found. It costs little beside Listeners, which
// visits all 16,384 buckets of a table, even of an empty one.
func (p *Probe) ListensMoved() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return 0, ErrClosed
	}
	sum, err := p.sumCounters()
	if err != nil {
		return 0, err
	}
	moved := sum.N[bpf.CaptureFlowCounterFLOW_COUNTER_LISTENS]
	if p.inventory == nil {
		moved++ // their holders can be looked for from now on
	}
	return moved, nil
}

// Listeners returns all listening sockets in scope. Before the inventory those that are older than Start are missing.
func (p *Probe) Listeners() ([]Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects == nil {
		return nil, ErrClosed
	}
	if p.inventory == nil && time.Since(p.holders.at) >= p.holders.pause {
		if err := p.findHolders(); err != nil {
			return nil, err
		}
	}
	data, err := readIter(p.listeners)
	if err != nil {
		return nil, fmt.Errorf("walk the listeners: %w", err)
	}
	const size = int(unsafe.Sizeof(bpf.CaptureListenerRecord{}))
	list := make([]Listener, 0, len(data)/size)
	for ; len(data) >= size; data = data[size:] {
		var r bpf.CaptureListenerRecord
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&r)), size), data)
		list = append(list, listenerOf(&r))
	}
	return list, nil
}

func listenerOf(r *bpf.CaptureListenerRecord) Listener {
	s := &r.Socket
	l := Listener{
		SockCookie: s.SockCookie, NetnsInum: s.Key.NetnsInum, Addr: s.Key.Addr, Port: s.Key.Port, SinceNs: s.SinceNs, Found: s.Found != 0,
		CgroupID: s.Owner.CgroupId, PID: s.Owner.Pid, UID: s.Owner.Uid,
		Established: r.Established, LastNs: r.LastNs, QueuedBefore: s.QueuedBefore,
		AcceptQueue: r.AcceptQueue, AcceptQueueLimit: r.AcceptQueueLimit, SynQueue: r.SynQueue, Drops: r.Drops, SynOverflow: r.SynOverflow,
	}
	for i, c := range s.Owner.Comm {
		l.Comm[i] = byte(c)
	}
	return l
}

// holders is what is known of the passes over the open files.
type holders struct {
	iter  *link.Iter
	at    time.Time // of the last one
	pause time.Duration
	pass  uint32
}

// findHolders needs mu. It is done so rarely that it takes at most a thousandth of a core.
func (p *Probe) findHolders() error {
	began := time.Now()
	p.holders.pass++
	if err := p.objects.HoldersPass.Set(p.holders.pass); err != nil {
		return fmt.Errorf("prepare the search for holders of listeners: %w", err)
	}
	if _, err := readIter(p.holders.iter); err != nil {
		return fmt.Errorf("search for holders of listeners: %w", err)
	}
	p.holders.at = time.Now()
	p.holders.pause = max(holdersEvery, 1000*p.holders.at.Sub(began))
	return nil
}

func readIter(iter *link.Iter) ([]byte, error) {
	file, err := iter.Open()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// Overflows counts what a network namespace's listeners had no room for, since it was made (TcpExt in /proc/net/netstat).
type Overflows struct {
	Accept uint64 // segments dropped because an accept queue was full (ListenOverflows)
	Syn    uint64 // SYNs dropped, or answered by a cookie, because a SYN queue was full (TCPReqQFullDrop, TCPReqQFullDoCookies)
}

// ReadOverflows reads the counters of network namespaces; those that cannot be entered or are gone are left out.
func ReadOverflows(inums map[uint32]bool) (map[uint32]Overflows, error) {
	found, err := netns.All(0)
	if err != nil {
		return nil, err
	}
	out := make(map[uint32]Overflows, len(inums))
	for _, space := range found {
		if !inums[space.Inum] {
			continue
		}
		_ = netns.Do(space, func() error { // left out
			data, err := os.ReadFile("/proc/thread-self/net/netstat")
			if err == nil {
				out[space.Inum], err = parseOverflows(data)
			}
			return err
		})
	}
	return out, nil
}

// parseOverflows reads pairs of lines: names, then values.
func parseOverflows(netstat []byte) (Overflows, error) {
	var o Overflows
	names, rest, _ := bytes.Cut(netstat, []byte("\n"))
	values, _, _ := bytes.Cut(rest, []byte("\n"))
	name, value := bytes.Fields(names), bytes.Fields(values)
	if len(name) != len(value) || len(name) == 0 || string(name[0]) != "TcpExt:" {
		return o, errors.New("/proc/net/netstat is not understood")
	}
	for i := 1; i < len(name); i++ {
		n, err := strconv.ParseUint(string(value[i]), 10, 64)
		if err != nil {
			continue // a negative one is none of ours
		}
		switch string(name[i]) {
		case "ListenOverflows":
			o.Accept = n
		case "TCPReqQFullDrop", "TCPReqQFullDoCookies":
			o.Syn += n
		}
	}
	return o, nil
}
