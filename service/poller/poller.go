// Package poller waits for a file descriptor through the Go runtime's own poller.
//
// A goroutine that sleeps in poll(2) or epoll_wait(2) itself holds a thread, and for each such sleep the runtime's monitor
// (sysmon in runtime/proc.go) wakes many times before it has taken the processor away from that thread: two descriptors that
// were looked at five times a second this way cost an idle exporter more than anything it did.
//
// A Poller reads nothing itself. One goroutine waits at a time; Wake and Close may be called from any.
package poller

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Poller waits for one descriptor.
type Poller struct {
	file *os.File
	raw  syscall.RawConn

	mu    sync.Mutex // orders the deadline of Wait and that of Wake
	woken bool
}

// New returns a Poller of a duplicate of fd, which becomes non-blocking with it. It fails where fd cannot be polled.
func New(fd int, name string) (*Poller, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", name, err)
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		_ = unix.Close(dup)
		return nil, fmt.Errorf("make %s non-blocking: %w", name, err)
	}
	p := &Poller{file: os.NewFile(uintptr(dup), name)}
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // os.ErrNoDeadline where the runtime cannot poll it
	}
	if err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("poll %s: %w", name, err)
	}
	return p, nil
}

// Wait returns when the descriptor has become ready since it began, ready says that it was before (what was ready between two
// waits is not remembered), Wake was called since the last Wait, or after timeout. An error says that the descriptor is closed.
func (p *Poller) Wait(timeout time.Duration, ready func() bool) error {
	if p.before(timeout) {
		return nil
	}
	waited := false
	err := p.raw.Read(func(uintptr) bool {
		if waited {
			return true
		}
		waited = true
		return ready()
	})
	p.mu.Lock()
	p.woken = false
	p.mu.Unlock()
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for %s: %w", p.file.Name(), err)
	}
	return nil
}

// before sets the time of the end, unless Wake has been called: then there is nothing to wait for.
func (p *Poller) before(timeout time.Duration) (woken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.woken {
		p.woken = false
		return true
	}
	_ = p.file.SetReadDeadline(time.Now().Add(timeout)) // closed: Read says it
	return false
}

// Each calls f at once and then after each time the descriptor has become ready, until Close: none is missed, of several f may
// see one. It is for what cannot be asked whether it was ready before.
func (p *Poller) Each(f func()) {
	_ = p.raw.Read(func(uintptr) bool { // ends with the closing
		f()
		return false
	})
}

// Wake ends the Wait that runs, or the next one if none does.
func (p *Poller) Wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.woken = true
	_ = p.file.SetReadDeadline(time.Unix(1, 0))
}

// Close ends the Wait that runs and all that come, with an error.
func (p *Poller) Close() error {
	if err := p.file.Close(); err != nil {
		return fmt.Errorf("close %s: %w", p.file.Name(), err)
	}
	return nil
}
