package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyWithin  = 30 * time.Second
	stopWithin   = 10 * time.Second
	lastLines    = 12
	lastLogBytes = 16 << 10
)

// family is the programs that the demo started. Its zero value has no children.
type family struct {
	mu       sync.Mutex // guards stopping: from then on a child's end is no accident
	stopping bool
	children []*child
}

// child is one program with its log file. gone is closed when it has ended, err then says how.
type child struct {
	name, log string
	cmd       *exec.Cmd
	gone      chan struct{}
	err       error
}

// start runs a program in its own process group (Ctrl-C is the demo's to handle) and with the demo's death as its own.
func (f *family) start(path, logDir string, args ...string) (*child, error) {
	c := &child{name: filepath.Base(path), gone: make(chan struct{})}
	c.log = filepath.Join(logDir, c.name+".log")
	out, err := os.OpenFile(c.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log of %s: %w", c.name, err)
	}
	defer out.Close()
	c.cmd = exec.Command(path, args...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() {
		c.err = c.cmd.Wait()
		close(c.gone)
	}()
	f.children = append(f.children, c)
	return c, nil
}

// ready waits until the program's readiness page says 200.
func (c *child) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	reason := "no answer"
	for {
		if resp, err := client.Get(url); err == nil {
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			reason = strings.TrimSpace(string(body))
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-c.gone:
			return c.lastWords()
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (%s): %w\n%s", c.name, reason, ctx.Err(), c.tail())
		}
	}
}

// dead is the first child that ended on its own, as an error with its last words; nil while all live.
func (f *family) dead() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		return nil
	}
	for _, c := range f.children {
		select {
		case <-c.gone:
			return c.lastWords()
		default:
		}
	}
	return nil
}

func (c *child) lastWords() error {
	how := "exit code 0"
	if c.err != nil {
		how = c.err.Error()
	}
	return fmt.Errorf("%s ended (%s); the last lines of its log:\n%s", c.name, how, c.tail())
}

func (c *child) tail() string {
	f, err := os.Open(c.log)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > lastLogBytes {
		f.Seek(-lastLogBytes, io.SeekEnd) //nolint:errcheck // then the lines are older ones
	}
	content, _ := io.ReadAll(f)
	lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
	lines = lines[max(0, len(lines)-lastLines):]
	return "  " + string(bytes.Join(lines, []byte("\n  ")))
}

// stop ends the children, youngest first, kindly and then not. Safe twice.
func (f *family) stop() {
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
	for i := len(f.children) - 1; i >= 0; i-- {
		f.children[i].stop()
	}
}

func (c *child) stop() {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-c.gone
		return
	}
	select {
	case <-c.gone:
	case <-time.After(stopWithin):
		c.cmd.Process.Kill()
		<-c.gone
	}
}
