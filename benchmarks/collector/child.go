package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// child is a process of ours that dies with us, whatever happens to us. Its standard output is read line by line, and the end of its
// standard input is its order to end.
type child struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string   // closed when its output ends
	ended chan struct{} // closed when it has
	err   error         // how; valid then
}

func startChild(name, program string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.Command(program, args...), lines: make(chan string, 16), ended: make(chan struct{})}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() { // the death signal comes when the thread that started the child ends
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			c.lines <- scanner.Text()
		}
		close(c.lines)
		c.err = c.cmd.Wait()
		close(c.ended)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the %s: %w", name, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// line waits for the child's next line.
func (c *child) line(patience time.Duration) (string, error) {
	select {
	case l, ok := <-c.lines:
		if !ok {
			return "", fmt.Errorf("the %s ended", c.name)
		}
		return l, nil
	case <-time.After(patience):
		return "", fmt.Errorf("the %s says nothing for %s", c.name, patience)
	}
}

func (c *child) tell(line string) error {
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		return fmt.Errorf("the %s does not listen: %w", c.name, err)
	}
	return nil
}

// alive returns an error if the child has ended.
func (c *child) alive() error {
	select {
	case <-c.ended:
		if c.err == nil {
			return fmt.Errorf("the %s ended by itself", c.name)
		}
		return fmt.Errorf("the %s ended: %w", c.name, c.err)
	default:
		return nil
	}
}

// stop ends the child by the signal, or by the end of its input if that is nil, and kills it if it takes longer than patience.
func (c *child) stop(signal os.Signal, patience time.Duration) {
	if c == nil {
		return
	}
	_ = c.in.Close()
	if signal != nil {
		_ = c.cmd.Process.Signal(signal)
	}
	go func() {
		for range c.lines {
		}
	}()
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}
