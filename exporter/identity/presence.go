package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"tributary/exporter/clock"
	"tributary/service/poller"
)

const (
	// lookEvery is how often the notifications are looked at when none comes. A release dates from the look before; where nothing is
	// claimed only the watermark does.
	lookEvery, lookSeldom = 200 * time.Millisecond, time.Second
	// settle is how long before a look the verified moment lies: the kernel changes an address and then queues its
	// notification, and may be preempted in between.
	settle = 5 * time.Millisecond
	// scanEvery is how often namespaces are looked for where nothing asks for it, scanMost how soon after the last time:
	// starting one container mounts a dozen times.
	scanEvery, scanMost = 2 * time.Second, 20 * time.Millisecond
	// hole is how late a look may be before everything counts as unseen.
	hole = 3 * time.Second
)

func now() moment {
	var wall, boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) // both clocks exist on every kernel this runs on
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	return moment{wall.Nano(), boot.Nano()}
}

// watchAddresses follows namespaces and addresses until ctx ends.
func (b *Book) watchAddresses(ctx context.Context) error {
	if err := b.startPresence(); err != nil {
		return err
	}
	defer b.stopPresence()
	b.learnSharing()
	socket, err := poller.New(b.presence.socket.fd, "the notifications of addresses")
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	var remounted atomic.Bool
	unwatch, err := watchMounts(func() { remounted.Store(true); socket.Wake() })
	if err != nil {
		return err
	}
	defer unwatch()
	defer context.AfterFunc(ctx, socket.Wake)()
	scanned, due, wait := time.Now(), false, lookEvery
	for ctx.Err() == nil {
		if err := socket.Wait(wait, b.presence.socket.ready); err != nil {
			return err
		}
		due = remounted.Swap(false) || due || time.Since(scanned) > scanEvery-lookEvery/2 // looks fall on a beat
		scan := due && time.Since(scanned) >= scanMost
		b.mu.Lock()
		b.look(scan)
		claiming := b.claiming()
		b.mu.Unlock()
		if scan {
			scanned, due = time.Now(), false
		}
		switch {
		case due:
			wait = scanMost
		case claiming:
			wait = clock.Beat(lookEvery)
		default:
			wait = clock.Beat(lookSeldom)
		}
	}
	return nil
}

// watchMounts calls changed, on a goroutine of its own, whenever this process's mounts have changed, which is how a network namespace gets
// or loses its name. The kernel reports that as an error condition on mountinfo (fs/proc_namespace.c: mounts_poll). unwatch waits for the last call.
func watchMounts(changed func()) (unwatch func(), err error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("watch mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	mounts, err := poller.New(int(file.Fd()), file.Name())
	if err != nil {
		return nil, err
	}
	var watching sync.WaitGroup
	watching.Go(func() { mounts.Each(changed) })
	return func() {
		_ = mounts.Close()
		watching.Wait()
	}, nil
}

func (b *Book) startPresence() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	socket, all, refused, err := openNotifications(!b.opts.OwnNetns, b.rcvbuf)
	if err != nil {
		return err
	}
	if refused != nil && b.claiming() {
		b.log.Warn("only addresses of the exporter's own network namespace can be claimed: give it CAP_NET_ADMIN and CAP_NET_BROADCAST, or --scope netns",
			"error", refused)
	}
	b.presence.socket, b.presence.all = socket, all
	b.look(true)
	return nil
}

func (b *Book) stopPresence() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.presence.socket.close()
	b.presence.socket = nil
}

// look reads what the kernel has queued and brings namespaces (if scan says so), table and claims up to date. When it
// returns everything up to b.verified is known and has been told.
func (b *Book) look(scan bool) {
	if b.presence.socket == nil {
		return
	}
	start := b.clock()
	b.noticeHole(start)
	sound := b.receive()
	if scan {
		b.findNamespaces()
		b.rebind(start.wall)
	}
	if b.presence.bridges {
		b.presence.bridges = false
		b.rebuildNetworks()
		b.presence.dirty = true
	}
	if b.presence.dirty || scan {
		b.refresh(b.verified)
	}
	if sound {
		b.verified = start.wall - int64(settle)
		b.last = start
	}
}

// noticeHole ends all claims at the last verified moment if nobody looked for a while, or if the wall clock was set: whatever
// happened meanwhile on other hosts, this one did not see it.
func (b *Book) noticeHole(start moment) {
	if b.verified == 0 {
		return
	}
	wall, boot := time.Duration(start.wall-b.last.wall), time.Duration(start.boot-b.last.boot)
	if wall <= hole && boot <= hole && (wall-boot).Abs() <= hole {
		return
	}
	b.metrics.holes.Add(1)
	b.log.Warn("the exporter stood still or the clock was set: claims have a hole", "wall_clock", wall, "since_boot", boot)
	b.releaseAll(b.verified, Gone)
}

// receive takes all queued notifications. It returns false if they cannot be known completely at present.
func (b *Book) receive() bool {
	p := &b.presence
	for {
		events, err := p.socket.next()
		switch {
		case errors.Is(err, unix.EAGAIN):
			if p.relist {
				return b.listAll()
			}
			return true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, errOverflow):
			b.metrics.events[eventLost].Add(1)
			return b.listAll()
		case err != nil:
			b.log.Error("address notifications cannot be read", "error", err)
			return false
		}
		for i := range events {
			b.apply(&events[i])
		}
	}
}

func (b *Book) apply(e *addrEvent) {
	p := &b.presence
	if e.kind == unix.RTM_NEWNSID {
		b.findOwnNsid()
		return
	}
	s := p.byNsid[e.nsid]
	if s == nil {
		return // a namespace that does not concern us
	}
	if e.kind == unix.RTM_DELNSID {
		b.gone[key{kind: byNetns, id: uint64(s.inum)}] = true
		b.drop(s)
		return
	}
	s.events++
	_, had := s.addrs[e.ifaddr]
	switch {
	case e.present && !had:
		s.addrs[e.ifaddr] = struct{}{}
		b.metrics.events[eventAdded].Add(1)
	case !e.present && had:
		delete(s.addrs, e.ifaddr)
		b.metrics.events[eventRemoved].Add(1)
	default:
		return // lifetimes and flags that change nothing here
	}
	p.dirty = true
	p.bridges = p.bridges || s.inum == p.own
}

// listAll lists every namespace anew, after notifications were lost.
func (b *Book) listAll() bool {
	sound := true
	b.presence.relist = false
	for range dumpTries {
		again := false
		for _, s := range b.presence.spaces {
			switch err := b.list(s); {
			case errors.Is(err, errOverflow):
				again = true
			case err != nil: // a namespace that has died meanwhile
				b.drop(s)
			}
		}
		if sound = !again; sound {
			break
		}
	}
	b.presence.bridges = true
	if !sound {
		b.log.Warn("addresses change faster than they can be listed: the watermark waits")
	}
	return sound
}

// list reads the addresses of one namespace. A list is good if no notification of this namespace came while it was made;
// those that come later are about what changed after it.
func (b *Book) list(s *space) error {
	p := &b.presence
	for range dumpTries {
		events := s.events
		addrs, err := p.socket.addresses(s.nsid)
		if err != nil && !errors.Is(err, errOverflow) {
			return err
		}
		if lost := b.applyQueued(); lost {
			return errOverflow
		}
		if err == nil && s.events == events {
			s.addrs, p.dirty = addrs, true
			p.bridges = p.bridges || s.inum == p.own
			return nil
		}
	}
	return errOverflow
}

// applyQueued is receive without listing anew; lost says that it would be necessary.
func (b *Book) applyQueued() (lost bool) {
	for {
		events, err := b.presence.socket.next()
		switch {
		case errors.Is(err, errOverflow):
			return true
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false
		}
		for i := range events {
			b.apply(&events[i])
		}
	}
}
