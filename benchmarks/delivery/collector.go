package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// collector is a running tributary-collector.
type collector struct {
	cmd                                *exec.Cmd
	args                               []string
	log                                *os.File
	program, listen, api, metrics, sql string
}

// newCollector chooses addresses; args come beside them.
func newCollector(o options, dir string, args ...string) (*collector, error) {
	c := &collector{program: filepath.Join(o.programs, "tributary-collector")}
	for _, address := range []*string{&c.listen, &c.api, &c.metrics, &c.sql} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*address = l.Addr().String()
		l.Close()
	}
	var err error
	if c.log, err = os.Create(filepath.Join(dir, "collector.log")); err != nil {
		return nil, err
	}
	c.args = append([]string{
		"serve", "--data", filepath.Join(dir, "data"), "--embedded-library", filepath.Join(o.programs, "libchdb.so"), "--listen", c.listen,
		"--api-listen", c.api, "--metrics-listen", c.metrics, "--embedded-listen", c.sql, "--kafka", "none",
	}, args...)
	return c, nil
}

// start waits until the collector answers on path.
func (c *collector) start(ctx context.Context, path string) error {
	c.cmd = exec.Command(c.program, c.args...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if answer, err := http.Get("http://" + c.metrics + path); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("the collector does not answer on %s: %s: %w", path, c.said(), ctx.Err())
}

func (c *collector) said() string {
	text, _ := os.ReadFile(c.log.Name()) // what is there helps
	return string(text[max(0, len(text)-2000):])
}

func (c *collector) stop(signal syscall.Signal) {
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Signal(signal) // it may be gone
	_ = c.cmd.Wait()                 // by the signal
	c.cmd = nil
}

// memory returns the largest resident set so far in bytes.
func (c *collector) memory() (int64, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kB << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM")
}
