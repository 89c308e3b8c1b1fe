package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// child is a tracer's process. It dies with us.
type child struct {
	cmd   *exec.Cmd
	lines atomic.Uint64 // of standard output
	ended chan struct{}
}

func startChild(program string, args ...string) (*child, error) {
	c := &child{cmd: exec.Command(program, args...), ended: make(chan struct{})}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the death signal comes when the thread that started the child ends
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.count(out)
		_ = c.cmd.Wait() // it is we who end it
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return c, nil
}

func (c *child) count(out io.Reader) {
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		c.lines.Add(1)
	}
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-c.ended:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// avoid keeps this process and what it starts off a processor.
func avoid(processor int) error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return err
	}
	set.Clear(processor)
	if set.Count() == 0 {
		return fmt.Errorf("the load needs processor %d for itself, and there is no other", processor)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// used is what a process has used so far.
type used struct {
	cpu time.Duration
	rss uint64 // bytes, now
}

func usedBy(pid int) (used, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return used{}, err
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(statm), &size, &pages); err != nil {
		return used{}, err
	}
	// The clock of a process's processor time, by its pid (clock_getcpuclockid(3)): /proc/PID/stat counts in 10 ms.
	const cpuClockSched = 2
	var cpu unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|cpuClockSched), &cpu); err != nil {
		return used{}, err
	}
	return used{time.Duration(cpu.Nano()), pages * uint64(os.Getpagesize())}, nil
}
