package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for the ring or for a wake-up of ours.
type poller struct {
	epollFD int
	wakeFD  int // eventfd
}

func newPoller(ringFD int) (*poller, error) {
	epollFD, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	wakeFD, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epollFD)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	p := &poller{epollFD: epollFD, wakeFD: wakeFD}
	for _, fd := range []int{ringFD, wakeFD} {
		event := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(epollFD, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			p.close()
			return nil, fmt.Errorf("add to epoll: %w", err)
		}
	}
	return p, nil
}

// wait returns when the ring was signalled, wakeEventFD was called, or after timeout.
func (p *poller) wait(timeout time.Duration) error {
	var events [2]unix.EpollEvent
	// round up: a timeout of 0 would spin until the time has come
	n, err := unix.EpollWait(p.epollFD, events[:], int((timeout+time.Millisecond-1)/time.Millisecond))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wait for the ring: %w", err)
	}
	for _, e := range events[:n] {
		if int(e.Fd) == p.wakeFD {
			var counter [8]byte
			_, _ = unix.Read(p.wakeFD, counter[:]) // empty is as good as emptied
		}
	}
	return nil
}

func (p *poller) close() {
	unix.Close(p.wakeFD)
	unix.Close(p.epollFD)
}

func wakeEventFD(fd int) {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(fd, one[:]) // it fails only where it is full, and then it wakes too
}
