package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"time"

	"tributary/exporter/event"
	"tributary/exporter/probe"
)

const (
	snapshots     = 5
	snapshotEvery = time.Second
	socketsEach   = 15_000 // that one process holds: the limit of open files may be as low as 20,000
)

// snapshots prints what it takes to read so many open sockets, ends of connections in network namespaces of their own: once at the start
// (the inventory), and each time that all are due for a record. Records are decoded and made deltas of, as the exporter does.
func (b *bench) snapshots(sockets int) (err error) {
	for left := sockets; left > 0; left -= socketsEach {
		stop, startErr := startSockets(min(left, socketsEach))
		if startErr != nil {
			return startErr
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	inventory, passes, err := readSnapshots(sockets)
	if err != nil {
		return err
	}
	slices.SortFunc(passes, func(a, b pass) int { return cmp.Compare(a.wall, b.wall) })
	middle := passes[len(passes)/2]
	b.printf("\n**A snapshot of %d open sockets**, all due: %d ms (median of %d; %d to %d), %d of them processor time. The inventory at the start: %d and %d ms.\n",
		sockets, middle.wall.Milliseconds(), len(passes), passes[0].wall.Milliseconds(), passes[len(passes)-1].wall.Milliseconds(),
		middle.cpu.Milliseconds(), inventory.wall.Milliseconds(), inventory.cpu.Milliseconds())
	return nil
}

// pass is what a pass over the open sockets took.
type pass struct{ wall, cpu time.Duration }

// startSockets starts a process that holds open sockets, and waits until it has them. They are closed by stop.
func startSockets(n int) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", "sockets", "-rate", strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	hold, err := cmd.StdinPipe() // it ends with us, however we end
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a holder of sockets: %w", err)
	}
	stop = func() error { return errors.Join(hold.Close(), cmd.Wait()) }
	if _, err := out.Read(make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("open %d sockets: %w", n, err), stop())
	}
	return stop, nil
}

// holdSockets is the whole of such a process.
func holdSockets(n int) error {
	runtime.LockOSThread()
	listener, err := prepare()
	if err != nil {
		return err
	}
	for i := range n / 2 {
		if _, _, err := establish(listener, byte(1+i%destinations)); err != nil {
			return err
		}
	}
	if _, err := os.Stdout.WriteString("\n"); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func readSnapshots(sockets int) (inventory pass, passes []pass, err error) {
	p := probe.New(probe.Options{ActiveEvery: snapshotEvery})
	if err := p.Start(); err != nil {
		return pass{}, nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	tracker := event.NewTracker()
	for range snapshots + 1 {
		took, records, err := readPass(p, tracker)
		if err != nil {
			return pass{}, nil, err
		}
		if records < sockets { // the host may have some of its own
			return pass{}, nil, fmt.Errorf("a snapshot of %d sockets has %d records", sockets, records)
		}
		passes = append(passes, took)
		time.Sleep(snapshotEvery + 100*time.Millisecond)
	}
	return passes[0], passes[1:], nil
}

func readPass(p *probe.Probe, tracker *event.Tracker) (took pass, records int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began, cpu := time.Now(), threadTime()
	walk, err := p.Walk()
	if err != nil {
		return pass{}, 0, err
	}
	if walk == nil {
		return pass{}, 0, errors.New("nothing was due")
	}
	defer func() { err = errors.Join(err, walk.Close()) }()
	var e event.Event
	buf := make([]byte, 256*event.RecordSize)
	for {
		n, err := io.ReadFull(walk, buf)
		for at := 0; at+event.RecordSize <= n; at += event.RecordSize {
			if err := event.Decode(buf[at:at+event.RecordSize], &e); err != nil {
				return pass{}, 0, err
			}
			tracker.Apply(&e)
			records++
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return pass{time.Since(began), threadTime() - cpu}, records, nil
		}
		if err != nil {
			return pass{}, 0, err
		}
	}
}
