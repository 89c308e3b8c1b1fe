package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program is a running exporter or collector.
type program struct {
	place         *place
	name, metrics string
	cmd           *exec.Cmd
	log           *os.File
	gone          chan struct{}
}

const readyMost = 40 * time.Second

// start runs the program and waits until it is ready.
func (p *program) start(ctx context.Context, programs, dir string, args ...string) (err error) {
	if p.log, err = os.Create(filepath.Join(dir, p.name+".log")); err != nil {
		return err
	}
	p.cmd = exec.Command(filepath.Join(programs, p.name), args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // a Ctrl-C is ours, and ends them in order
	if err := p.place.in(p.cmd.Start); err != nil {
		return err
	}
	p.gone = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // how it ended is in its log
		close(p.gone)
	}()
	ctx, cancel := context.WithTimeout(ctx, readyMost)
	defer cancel()
	for ctx.Err() == nil && p.alive() == nil {
		if _, err := p.place.get("http://" + p.metrics + "/readyz"); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.end()
	return fmt.Errorf("%s is not ready:\n%s", p.name, p.said())
}

func (p *program) alive() error {
	select {
	case <-p.gone:
		return fmt.Errorf("%s has ended:\n%s", p.name, p.said())
	default:
		return nil
	}
}

func (p *program) end() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	<-p.gone
	p.log.Close()
}

func (p *program) said() string {
	text, _ := os.ReadFile(p.log.Name()) // what is there helps
	return string(text[max(0, len(text)-2000):])
}

// usage is what a program holds at a moment.
type usage struct {
	memory      int64 // resident bytes
	descriptors int
}

func (p *program) usage() (usage, error) {
	proc := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	f, err := os.Open(proc + "status")
	if err != nil {
		return usage{}, err
	}
	defer f.Close()
	var u usage
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kB, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return u, err
			}
			u.memory = kB << 10
		}
	}
	open, err := os.ReadDir(proc + "fd")
	u.descriptors = len(open)
	return u, err
}
